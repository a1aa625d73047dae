"""Who invites besides people: API keys and OAuth clients, looked up as they are now."""

from smcp.access import policy
from smcp.identity import roles
from smcp.identity.accounts import inviters
from smcp.identity.authn import api_key
from smcp.identity.oauth import clients, grants, refusals
from smcp.kernel import ids


def behind(keys: api_key.ApiKeys, known: clients.Clients, custom: roles.Roles) -> inviters.Behind:
    """What `identity.accounts` is handed to look inviters up."""

    async def client(tenant: ids.TenantId, client_id: str) -> policy.Principal | None:
        try:
            found = await known.known(tenant, client_id)
        except refusals.Refused:
            return None
        held = await custom.rules(tenant, found.roles)
        scopes = frozenset(found.scope.split()) or None
        return policy.Principal(
            tenant, found.id, grants.CLIENT, found.roles, found.name, found.id, scopes=scopes, rules=held.rules
        )

    return inviters.Behind(custom, keys.standing, client)
