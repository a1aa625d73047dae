"""Everything about tokens, put together: what `app.wire` hands to the edges."""

import dataclasses
from typing import Final

from smcp.app import authorization
from smcp.audit import trail
from smcp.identity import roles, signing
from smcp.identity.authn import access_token
from smcp.identity.oauth import codes, device, dpop, exchange, families, grants, introspect, issue, lifetimes, standing
from smcp.kernel import clock
from smcp.stores import tenant as stores
from smcp.tenancy import attempts, limits, tenants
from smcp.web import oauth

PER_MINUTE: Final = 1200
"""Tokens of one client for one person (or for itself): all windows of an editor may refresh a few times."""


@dataclasses.dataclass(frozen=True)
class Tokens:
    """How tokens come to be, and who they are of."""

    method: access_token.AccessTokens
    exchange: exchange.Exchange
    looking: introspect.Looking
    signing: signing.Signing
    grants: grants.Grants
    families: families.Families
    codes: codes.Codes
    devices: device.Devices


def open(
    store: stores.Store,
    time: clock.Clock,
    audit: trail.Trail,
    owners: tenants.Tenants,
    users: standing.Accounts,
    own: roles.Roles,
    asking: authorization.Authorization,
    lives: lifetimes.Lifetimes,
    scheme: str,
) -> Tokens:
    """Needs nothing that runs. `scheme` is what this process speaks itself; a proxy before it may speak another."""
    kept = grants.Grants(store, time, audit, lives)
    signer = signing.Signing(store, time, lives, audit.note)
    proofs = dpop.Proofs(time, lives, asking.resources.public, scheme)
    people, applications = standing.People(users), standing.Applications(asking.clients)
    parts = exchange.Parts(
        asking.auth,
        people,
        applications,
        codes.Codes(store, time, lives),
        device.Devices(store, time, lives),
        kept,
        families.Families(store, time, lives),
        issue.Issuer(signer, asking.resources, time, lives),
        proofs,
        asking.resources,
        audit,
        time,
        lives,
        attempts.Shares(time, "tokens", per_minute=PER_MINUTE).take,
    )
    kept.when_ended.append(parts.families.end)
    asking.clients.in_use = kept.in_use
    known = access_token.Known(kept, people, applications, own, asking.resources, signer, proofs)
    method = access_token.AccessTokens(store, known, owners.active, owners.served, time)
    return Tokens(
        method,
        exchange.Exchange(parts),
        introspect.Looking(parts, method),
        signer,
        kept,
        parts.families,
        parts.codes,
        parts.devices,
    )


def edge(
    time: clock.Clock,
    version: str,
    made: Tokens,
    asking: authorization.Authorization,
    owners: tenants.Tenants,
    limiter: limits.Limiter,
    audit: trail.Trail,
) -> oauth.Parts:
    """What the endpoints need."""
    return oauth.Parts(
        exchange=made.exchange,
        looking=made.looking,
        signing=made.signing,
        resources=asking.resources,
        tenants=owners,
        limiter=limiter,
        trail=audit,
        clock=time,
        version=version,
    )
