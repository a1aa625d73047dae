"""Which Host and Origin headers are taken: the one list that both edges (MCP and admin API) check.

A page on the internet can point its own host name at 127.0.0.1 and have a visitor's browser send requests here (DNS
rebinding, CVE-2025-66416). The browser then sends that name in Host and, except on plain GETs, that page in Origin.
So only names that belong to this platform pass (MCP 2025-11-25, Streamable HTTP, "Security Warning").
"""

import urllib.parse
from collections.abc import Iterable

from smcp.kernel import errors

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Hosts:
    """The names that this platform answers to. `port` is the one that it really listens on."""

    def __init__(
        self, *, host: str, port: int, public_url: str = "", hosts: Iterable[str] = (), origins: Iterable[str] = ()
    ) -> None:
        names = {"127.0.0.1", "localhost", "[::1]", _bracketed(host)}
        self._hosts = {f"{name}:{port}".lower() for name in names} | {host.lower() for host in hosts}
        self._origins = {f"http://{host}" for host in self._hosts} | {origin.lower() for origin in origins}
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


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
