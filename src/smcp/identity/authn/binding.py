"""What a good credential is good for: one audience, and some networks. Asked at every door, with each request.

A credential that is shown where it does not belong is refused as a wrong one is (401), and is not passed on: a token
for one server that another takes is a token that the other can use (RFC 8707, 2; CVE-2026-27124, CVE-2025-69196).
"""

from smcp.access import addresses, policy
from smcp.identity.authn import base
from smcp.kernel import ids


def free(principal: policy.Principal) -> bool:
    """Is it good everywhere, so that nothing else needs to be asked? Cheap: this is asked of every request."""
    return principal.audience is None and not principal.networks


def check(principal: policy.Principal, tenant: ids.TenantId | None, audience: str | None, address: str) -> None:
    """Raises `errors.Unauthenticated` unless the credential belongs here.

    `audience`: the server of `tenant` that was asked, `policy.API` for the admin API, None for an address of neither.
    `address`: who asks, as a trusted proxy tells it.
    """
    if principal.audience is not None and (
        principal.audience != audience or (audience != policy.API and principal.tenant != tenant)
    ):
        raise base.refused(base.Reason.AUDIENCE)
    if principal.networks and not addresses.within(principal.networks, address):
        raise base.refused(base.Reason.ADDRESS)
