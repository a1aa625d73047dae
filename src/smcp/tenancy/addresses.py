"""Windows of network addresses, in bounded memory: strangers choose how many addresses they come from."""

import ipaddress

from smcp.tenancy import windows


class Addresses:
    """The windows of addresses, in the order of last taking: so the idle ones gather at the front, where each new
    address removes up to two of them. Between attacks the table shrinks by itself."""

    def __init__(self, limit: int, most: int) -> None:
        """`limit` in a window; `most` addresses have one of their own, all others share one."""
        self._limit = limit
        self._most = most
        self._table: dict[str, windows.Window] = {}
        self._shared = windows.Window(limit)

    def __len__(self) -> int:
        return len(self._table) + bool(self._shared.used)

    def window(self, name: str, slot: int) -> windows.Window:
        """The window of an address: its own, or the shared one when there is no room for another."""
        found = self._table.pop(name, None)
        if found is None:
            for first in [name for name, _ in zip(self._table, range(2), strict=False)]:
                if not idle(self._table[first], slot):
                    break
                del self._table[first]
            if len(self._table) >= self._most:
                return self._shared
            found = windows.Window(self._limit)
        self._table[name] = found
        return found


def idle(window: windows.Window | None, slot: int) -> bool:
    """Does it count nothing any more?"""
    if window is None:
        return True
    if slot > window.expires:
        window.expire(slot)
    return window.used == 0


def network(address: str) -> str:
    """What counts as one address: IPv4 as it is, IPv6 by its /64 (one subscriber's usual network, RFC 6177)."""
    try:
        parsed = ipaddress.ip_address(address[:64])
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return f"{int(parsed) >> 64:x}/64"
        parsed = parsed.ipv4_mapped
    return str(parsed)
