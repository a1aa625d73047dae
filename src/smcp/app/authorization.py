"""The authorization server's parts about clients, put together: what `app.wire` hands to the edges."""

import dataclasses

import msgspec

from smcp.app import documents, foundation
from smcp.audit import trail
from smcp.identity.oauth import authorize, client_auth, clients, fetched, metadata_document, remote_keys, resources
from smcp.kernel import hosts
from smcp.sandbox import egress
from smcp.stores import tenant as stores
from smcp.tenancy import attempts, tenants

ASSERTIONS_PER_MINUTE = 120
"""Of one client, and of all together that nobody has consented to, in one tenant."""


@dataclasses.dataclass(frozen=True)
class Authorization:
    """Who may ask for tokens, and for what."""

    resources: resources.Resources
    clients: clients.Clients
    auth: client_auth.ClientAuth
    requests: authorize.Authorizations


def open(
    base: foundation.Foundation,
    store: stores.Store,
    audit: trail.Trail,
    owners: tenants.Tenants,
    names: hosts.Hosts,
    public: str,
) -> Authorization:
    """Needs nothing that runs. `resources.servers` is set when there are servers to ask for."""
    # Without budgets: what strangers make the platform read is charged to nobody.
    opened = egress.Egress(base.settings.egress, base.metrics)
    outside = egress.Egress(msgspec.structs.replace(base.settings.egress, allowed_networks=()), base.metrics)
    fetcher = documents.Fetcher(outside, base.clock, base.log, named=dict.fromkeys(opened.pins, opened))
    fetches = fetched.Fetches()
    base.undo.push_async_callback(fetches.close)
    read = metadata_document.Documents(fetcher.document, fetches, base.clock)
    addresses = resources.Resources(public, names)
    known = clients.Clients(store, read, base.clock, owners.active, audit.write)
    return Authorization(
        addresses,
        known,
        client_auth.ClientAuth(
            store,
            known,
            remote_keys.RemoteKeys(fetcher.key_set, fetches, base.clock, base.log),
            addresses,
            base.clock,
            attempts.Shares(base.clock, "assertions", per_minute=ASSERTIONS_PER_MINUTE).take,
        ),
        authorize.Authorizations(known, addresses),
    )
