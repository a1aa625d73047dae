"""Which Host and Origin headers are taken: the one list that both edges (MCP and admin API) check.

A page on the internet can point its own host name at 127.0.0.1 and have a visitor's browser send requests here (DNS
rebinding, CVE-2025-66416). The browser then sends that name in Host and, except on plain GETs, that page in Origin.
So only names that belong to this platform pass (MCP 2025-11-25, Streamable HTTP, "Security Warning").

A name may belong to one tenant (`name=tenant`). What is asked at the root of that origin is then asked of that tenant:
clients of MCP 2025-03-26 look for the authorization server there, and can't say whose they mean.
"""

import urllib.parse
from collections.abc import Iterable, Sequence

from smcp.kernel import errors, ids, proxies

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Hosts:
    """The names that this platform answers to. `port` is the one that it really listens on, `scheme` what it speaks."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        public_url: str = "",
        hosts: Iterable[str] = (),
        origins: Iterable[str] = (),
        scheme: str = "http",
        trusted: Iterable[str] = (),
    ) -> None:
        """`trusted` are the networks of reverse proxies; one of `hosts` may be `name=tenant`.

        Raises `errors.BadSettings` for what is none.
        """
        owned: dict[str, ids.TenantId | None] = {}
        for name, tenant in map(_owned, hosts):
            if owned.setdefault(name, tenant) != tenant:
                raise errors.BadSettings(f"gateway.hosts: {name!r} is there twice, for different tenants.")
        self.scheme = scheme
        """What is spoken here; what a client speaks with a proxy, `seen` tells."""
        self._proxies = proxies.Proxies(trusted)
        self.proxied = bool(self._proxies)
        """Can anything but the connection tell where a request comes from?"""
        names = {"127.0.0.1", "localhost", "[::1]", _bracketed(host)}
        self._tenants = {name: tenant for name, tenant in owned.items() if tenant is not None}
        self._hosts = {f"{name}:{port}".lower() for name in names} | owned.keys()
        self._origins = {f"{scheme}://{host}" for host in self._hosts} | {origin.lower() for origin in origins}
        if port in _DEFAULT_PORTS.values():
            self._hosts |= {name.lower() for name in names}
        if public_url:
            parts = urllib.parse.urlsplit(public_url.lower())
            self._hosts.add(parts.netloc)
            self._origins.add(f"{parts.scheme}://{parts.netloc}")

    def check(self, host: str | None, origin: str | None) -> None:
        """Raises `errors.HostRefused`. A request without Origin does not come from a page's script and passes."""
        if host is None or host.lower() not in self._hosts:
            raise errors.HostRefused(detail=f"Host {host!r}")
        if origin is not None and origin.lower() not in self._origins:
            raise errors.HostRefused(detail=f"Origin {origin!r}")

    def ours(self, *authorities: str) -> bool:
        """Is one of `authorities` (host and port, as a Host header has them) a name of this platform?"""
        return any(one.lower() in self._hosts for one in authorities)

    def tenant(self, authority: str) -> ids.TenantId | None:
        """Whose this name is; None where it is nobody's in particular."""
        return self._tenants.get(authority.lower())

    def seen(self, peer: str, scheme: str, fields: Sequence[tuple[bytes, bytes]]) -> proxies.Seen:
        """Who asks, behind the proxies. Raises `errors.HostRefused` when a proxy tells a name that is not ours.

        The name is checked beside Host (`check`), never instead of it.
        """
        seen = self._proxies.seen(peer, scheme, fields)
        if seen.host and seen.host.lower() not in self._hosts:
            raise errors.HostRefused(detail=f"forwarded host {seen.host[:100]!r}")
        return seen


def _owned(entry: str) -> tuple[str, ids.TenantId | None]:
    """A name of `gateway.hosts`, and the tenant behind it where one is said."""
    name, said, tenant = entry.partition("=")
    if not name.strip():
        raise errors.BadSettings(f"gateway.hosts: {entry!r} has no name.")
    try:
        return name.strip().lower(), ids.tenant(tenant.strip()) if said else None
    except errors.BadName as error:
        raise errors.BadSettings(f"gateway.hosts: {entry!r}: {error}") from error


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
