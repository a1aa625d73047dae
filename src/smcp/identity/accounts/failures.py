"""Sign-ins that failed, for the trail: bounded by what may be tried, so that nobody fills a trail by knocking."""

from smcp.audit import events, identity, trail
from smcp.identity.accounts import throttle
from smcp.kernel import ids
from smcp.stores import tenant as stores


class Failures:
    """Tells a tenant's trail of them. A tenant that does not exist has none, and is told nothing."""

    def __init__(self, store: stores.Store, audit: trail.Trail, guard: throttle.Throttle) -> None:
        self._store = store
        self._trail = audit
        self._guard = guard

    def note(self, tenant: ids.TenantId, why: str, address: str, request_id: str, *, account: str = "") -> None:
        """One that was looked at, for its reason. `account` stands for the address that was typed; empty: none was."""
        if not self._store.knows(tenant):
            return
        self._trail.note(
            identity.SignInFailed(
                tenant=tenant,
                actor="anonymous",
                request_id=request_id,
                outcome="refused",
                why=why,
                account=self._trail.digest(tenant, account) if account else events.NO_DIGEST,
                address=self._trail.digest(tenant, address),
            )
        )

    def unnamed(self, tenant: ids.TenantId, why: str, address: str, request_id: str) -> None:
        """One that named no account: counted by address, and told while the address has room for it."""
        if self._store.knows(tenant) and self._guard.failed_address(address):
            self.note(tenant, why, address, request_id)

    def held_off(self, tenant: ids.TenantId, account: str, address: str, device: str, request_id: str) -> None:
        """One that was not looked at, because too many had been wrong: told once for each window that is full."""
        if self._guard.tells(tenant, account, address, device):
            self.note(tenant, "held-off", address, request_id, account=account)
