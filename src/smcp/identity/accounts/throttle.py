"""Guessing is made slow, without a way to lock somebody else out.

An attempt counts against three windows: the account's, the address's, and, for a device that is known to the account,
the device's own. Who guesses at an account fills its window, and then nobody gets a guess at it from a device that the
account has never been used on; the owner's devices have windows of their own, and are not asked about the others. So
the owner goes on to sign in, and a guesser does not. That is OWASP's "device cookies" protocol.

- A device is known by a cookie that a sign-in leaves, which no page of another origin can read and no guesser can
  make (`Devices`). After ten wrong passwords a device counts as unknown.
- An owner on a new device, while somebody guesses: a passkey signs in. Nothing can be guessed about one, so it is not
  refused because of the account's window.
- An address that is shared (a company's, a VPN's) and full refuses unknown devices only.
- An unknown account has windows like a known one: refusals do not tell which there are.

Everything is in the memory of the process, bounded, and gone with a restart: nobody can cause one. Accounts,
addresses and devices have tables of their own, so that what is cheap to fill (a refused passkey counts for an address
only) pushes nothing out that is not. When a table is full, the window that was touched longest ago goes, and one that
is full goes last. That of an account never does: where all of them are full, an account without one waits.
"""

import collections
import contextlib
import ipaddress
from collections.abc import Iterable
from typing import Final

from smcp.kernel import clock, crypto, errors, ids
from smcp.stores import tenant as stores

WINDOW_S: Final = 900.0
PER_ACCOUNT: Final = 10
"""Wrong passwords or codes, from all devices that the account has not been used on, in any `WINDOW_S`."""
PER_DEVICE: Final = 10
"""Of one known device, for one account."""
PER_ADDRESS: Final = 50
"""Of one address (IPv6: /64 network), for all accounts of all tenants, from unknown devices."""
TABLE: Final = 16_384
"""Windows of one kind."""
DEVICE_S: Final = 400 * 86400.0
"""How long a device stays known: as long as a browser keeps a cookie at most."""


_Place = tuple[str, ...]
"""The kind, and what it is."""
_Table = collections.OrderedDict[_Place, collections.deque[float]]


class Throttle:
    """Counts wrong attempts. Synchronous: nothing comes between looking and taking."""

    def __init__(self, clock: clock.Clock) -> None:
        self._clock = clock
        self._tables: dict[str, _Table] = {kind: collections.OrderedDict() for kind in ("account", "address", "device")}
        self._told: collections.OrderedDict[_Place, float] = collections.OrderedDict()
        """Full windows that the trail knows of, by the time of the attempt that filled them."""

    @property
    def size(self) -> int:
        """Windows in memory: at most `TABLE` of each kind."""
        return sum(len(table) for table in self._tables.values())

    def knows(self, tenant: ids.TenantId, account: str, device: str) -> bool:
        """Is a device, proved to be of this account, still to be trusted as one?"""
        return device != "" and self._wait(("device", tenant, account, device), PER_DEVICE) <= 0

    def admit(self, tenant: ids.TenantId, account: str, address: str, device: str) -> "Taken":
        """Take a place for one attempt. Raises `errors.RateLimited`. `account`: any text that stands for it.
        `device`: one that `knows` says is known, else empty.

        The place is taken before the attempt is looked at, so that a hundred at once are no more than ten; it is given
        back when the attempt was right.
        """
        places = _places(tenant, account, address, device)
        if device:
            return self._take(*places)
        wait = max(*(self._wait(place, most) for place, most in places), self._crowded(places[0][0]))
        if wait > 0:
            raise errors.RateLimited(
                "Too many wrong attempts. Wait some minutes, use a passkey, or sign in from a device that you have"
                " signed in from before.",
                retry_after=wait,
            )
        return self._take(*places)

    def tells(self, tenant: ids.TenantId, account: str, address: str, device: str) -> bool:
        """After `admit` refused: is this the first one that a full window refuses, of those that have to be told?"""
        full = [place for place, most in _places(tenant, account, address, device) if self._wait(place, most) > 0]
        new = [place for place in full if self._told.get(place) != self._tables[place[0]][place][-1]]
        for place in new:
            self._told[place] = self._tables[place[0]][place][-1]
            self._told.move_to_end(place)
        while len(self._told) > TABLE:
            self._told.popitem(last=False)
        return bool(new)

    def admit_address(self, address: str) -> "Taken":
        """As `admit`, for what names no account: invitations. Raises `errors.RateLimited`."""
        place = ("address", network(address))
        wait = self._wait(place, PER_ADDRESS)
        if wait > 0:
            raise errors.RateLimited("Too many wrong attempts. Wait some minutes.", retry_after=wait)
        return self._take((place, PER_ADDRESS))

    def failed_address(self, address: str) -> bool:
        """Count a wrong attempt that names no account; whether the window had room for it (what is told is bounded)."""
        place = ("address", network(address))
        room = self._wait(place, PER_ADDRESS) <= 0
        self._take((place, PER_ADDRESS))
        return room

    def give_back(self, places: "Iterable[_Place]", at: float) -> None:
        """See `Taken.back`."""
        for place in places:
            times = self._tables[place[0]].get(place)
            if times is not None:
                with contextlib.suppress(ValueError):
                    times.remove(at)

    def _wait(self, place: _Place, most: int) -> float:
        """Seconds until there is room; 0 when there is."""
        times = self._tables[place[0]].get(place)
        if times is None:
            return 0.0
        now = self._clock.monotonic()
        while times and times[0] + WINDOW_S <= now:
            times.popleft()
        if not times:
            del self._tables[place[0]][place]
            return 0.0
        return 0.0 if len(times) < most else times[-most] + WINDOW_S - now

    def _crowded(self, place: _Place) -> float:
        """Seconds that an account without a window waits because every window there is counts, and is full; else 0."""
        table = self._tables[place[0]]
        if place in table or len(table) < TABLE or self._spare(table) is not None:
            return 0.0
        return min(times[0] for times in table.values()) + WINDOW_S - self._clock.monotonic()

    def _spare(self, table: _Table) -> _Place | None:
        """The window that was touched longest ago of those that are not full, or have ended."""
        ended = self._clock.monotonic() - WINDOW_S
        return next((place for place, times in table.items() if len(times) != times.maxlen or times[0] <= ended), None)

    def _take(self, *places: tuple[_Place, int]) -> "Taken":
        now = self._clock.monotonic()
        for place, most in places:
            table = self._tables[place[0]]
            times = table.get(place)
            if times is None:
                if len(table) >= TABLE:
                    del table[self._spare(table) or next(iter(table))]
                times = table[place] = collections.deque(maxlen=most)
            times.append(now)
            table.move_to_end(place)
        return Taken(self, tuple(place for place, _ in places), now)


class Taken:
    """One attempt's places."""

    __slots__ = ("_at", "_places", "_throttle")

    def __init__(self, throttle: Throttle, places: tuple[_Place, ...], at: float) -> None:
        self._throttle = throttle
        self._places = places
        self._at = at

    def back(self) -> None:
        """It was right, or was not looked at: it does not count. Again is harmless."""
        places, self._places = self._places, ()
        self._throttle.give_back(places, self._at)


def _places(tenant: ids.TenantId, account: str, address: str, device: str) -> tuple[tuple[_Place, int], ...]:
    """Where an attempt counts: at its device where that is known, else at the account and the address."""
    if device:
        return ((("device", tenant, account, device), PER_DEVICE),)
    return ((("account", tenant, account), PER_ACCOUNT), (("address", network(address)), PER_ADDRESS))


def network(address: str) -> str:
    """The address, or the /64 network of an IPv6 one: that is what one customer gets (RFC 6177)."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


class Devices:
    """Marks of devices that an account was used on: `<id>.<seconds>.<code>`, with a keyed code over account and epoch.

    Nothing is kept. A mark ends with the account's epoch (everything signed out, closed), and after `DEVICE_S`.
    """

    def __init__(self, store: stores.Store, clock: clock.Clock) -> None:
        self._store = store
        self._clock = clock

    def mark(self, tenant: ids.TenantId, user_id: str, epoch: int, mark: str = "") -> str:
        """A mark for the device that has just signed in; with its former `mark` it stays the same device."""
        device = self.read(tenant, user_id, epoch, mark) or ids.token(128)
        made = str(int(self._clock.now()))
        return f"{device}.{made}.{self._code(tenant, user_id, epoch, device, made)}"

    def read(self, tenant: ids.TenantId, user_id: str, epoch: int, mark: str) -> str:
        """The device's id if the mark is one of this account; else empty."""
        parts = mark.split(".") if len(mark) <= 200 and mark.isascii() else []
        if len(parts) != 3 or not parts[1].isdecimal() or len(parts[1]) > 12:
            return ""
        device, made, code = parts
        good = crypto.equal(self._code(tenant, user_id, epoch, device, made), code)
        return device if good and 0 <= self._clock.now() - int(made) + 60 < DEVICE_S else ""

    def _code(self, tenant: ids.TenantId, user_id: str, epoch: int, device: str, made: str) -> str:
        key = self._store.ring.data_key(tenant, "identity.device mark")
        return crypto.keyed_digest(key, tenant, user_id, str(epoch), device, made).hex()
