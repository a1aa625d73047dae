"""Which Host and Origin headers are taken: the one list that both edges (MCP and admin API) check.

A page on the internet can point its own host name at 127.0.0.1 and have a visitor's browser send requests here (DNS
rebinding, CVE-2025-66416). The browser then sends that name in Host and, except on plain GETs, that page in Origin.
So only names that belong to this platform pass (MCP 2025-11-25, Streamable HTTP, "Security Warning").
"""

import urllib.parse
from collections.abc import Iterable, Sequence

from smcp.kernel import errors, proxies

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
        """`trusted` are the networks of reverse proxies. Raises `errors.BadSettings` for what is none."""
        self.scheme = scheme
        """What is spoken here; what a client speaks with a proxy, `seen` tells."""
        self._proxies = proxies.Proxies(trusted)
        self.proxied = bool(self._proxies)
        """Can anything but the connection tell where a request comes from?"""
        names = {"127.0.0.1", "localhost", "[::1]", _bracketed(host)}
        self._hosts = {f"{name}:{port}".lower() for name in names} | {host.lower() for host in hosts}
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

    def seen(self, peer: str, scheme: str, fields: Sequence[tuple[bytes, bytes]]) -> proxies.Seen:
        """Who asks, behind the proxies. Raises `errors.HostRefused` when a proxy tells a name that is not ours.

        The name is checked beside Host (`check`), never instead of it.
        """
        seen = self._proxies.seen(peer, scheme, fields)
        if seen.host and seen.host.lower() not in self._hosts:
            raise errors.HostRefused(detail=f"forwarded host {seen.host[:100]!r}")
        return seen


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
