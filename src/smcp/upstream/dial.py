"""The way out: a name is resolved once, every address of it is checked, and the very address checked is dialled.

What stands above (TLS, HTTP) knows only the name: certificates and the Host field are about it. There is no moment
between the check and the connection in which the name could come to mean something else (CVE-2026-53708).
"""

import asyncio
import ipaddress
import select
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import anyio.abc
import httpcore2
from anyio.streams import tls

from smcp.kernel import errors, ids
from smcp.sandbox import egress
from smcp.sandbox.egress import budget, lookup, relay, verdicts
from smcp.sandbox.egress.verdicts import Reason

_USED_UP: Final = "the tenant's bytes of the day are used up"
_BROKE: Final = "the connection broke"
_BYTES: Final = (8_388_608, 33_554_432.0)
"""Bytes at once, and a second, for one tenant's connections to one server: as a cell has them."""
_LEAST_CHUNK: Final = 512


def used_up() -> errors.QuotaExceeded:
    """What is told to whom the tenant's budget ends a request."""
    return errors.QuotaExceeded("The tenant has moved as many bytes over the network today as it may.")


class Spent(httpcore2.ReadError):
    """The tenant's budget ended a request on its way."""


class Door(httpcore2.AsyncNetworkBackend):
    """Connections of one tenant to one server."""

    def __init__(
        self,
        reach: egress.Egress,
        tenant: ids.TenantId,
        told: Callable[[str], None],
        counted: Callable[[int, int], None],
    ) -> None:
        """`told` gets a line per verdict, a bounded number of them; `counted` the bytes sent and received."""
        self._reach = reach
        self._budget = None if reach.budgets is None else reach.budgets(tenant)
        self.verdicts = verdicts.Verdicts(reach.counters, told)
        self._counted = counted
        self._bytes = verdicts.Bucket(*_BYTES)
        self._lookups = lookup.Questions(reach.resolve)

    def plain(self, *, anywhere: bool = False) -> "Plain":
        """The same for connections without TLS, which carry credentials only where the operator has opened the network.

        `anywhere`: they carry none, and what may be dialled is what may be dialled with TLS.
        """
        return Plain(self, anywhere=anywhere)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface of httpcore2
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Raises `errors.ServerFailed` for what must not be dialled or can't be reached, `errors.ServerTimeout`,
        `errors.QuotaExceeded`."""
        return await self.connect(host, port, anywhere=True)

    async def connect(self, host: str, port: int, *, anywhere: bool) -> httpcore2.AsyncNetworkStream:
        """As `connect_tcp`. Not `anywhere`: only what the operator has opened is dialled."""
        target = f"{host}:{port}"
        await self.affordable(target)
        reason = Reason.UNKNOWN
        try:
            async with asyncio.timeout(self._reach.connect_s):
                addresses = await self._addresses(host, port)
                self._check(target, addresses, anywhere=anywhere)
                reason = Reason.UNREACHABLE
                made, address = await relay.dial(addresses, port)
        except (OSError, UnicodeError) as error:
            why = verdicts.why(reason, error)
            self.verdicts.tell(reason, target, why=why)
            kind = errors.ServerTimeout if isinstance(error, TimeoutError) else errors.ServerFailed
            raise kind(f"The remote server can't be reached: {why}.") from error
        self.verdicts.tell(Reason.ALLOWED, target, address)
        return _Stream(await anyio.abc.SocketStream.from_socket(made), self._count_sent, self._count_received)

    def _check(self, target: str, addresses: Sequence[str], *, anywhere: bool) -> None:
        for address in addresses:
            why = self._reach.guard.refusal(address)
            if not why and not anywhere and not self._reach.guard.opened(address):
                why = "http:// is only for networks that the operator has opened"
            if why:
                # One wrong address condemns the name: an honest one does not mix them.
                self.verdicts.tell(Reason.NETWORK, target, verdicts.plain(address), why)
                raise errors.AddressRefused(f"The remote server's address is not dialled from here: {why}.")

    async def affordable(self, target: str) -> None:
        """May more be moved, to `target`? Raises `errors.QuotaExceeded` or `errors.Unavailable`."""
        if self._budget is not None and not await self._budget.ready():
            self.verdicts.tell(Reason.QUOTA, target, why=_USED_UP)
            raise used_up()

    async def _addresses(self, host: str, port: int) -> list[str]:
        """What the host is now. This list is what is checked and what is dialled."""
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            pass
        pinned = self._reach.pins.get(host)
        found = pinned if pinned is not None else await self._lookups.addresses(host, port)
        if not found:
            raise OSError("no address")
        return found

    def _count_sent(self, amount: int) -> float:
        return self._count(amount, 0)

    def _count_received(self, amount: int) -> float:
        return self._count(0, amount)

    def _count(self, sent: int, received: int) -> float:
        amount = sent + received
        if self._budget is not None and not self._budget.spend(amount):
            self.verdicts.tell(Reason.QUOTA, "a connection", why=_USED_UP)
            raise budget.UsedUp
        self._counted(sent, received)
        return self._bytes.take(max(amount, _LEAST_CHUNK))


class Plain(httpcore2.AsyncNetworkBackend):
    """A door for connections without TLS."""

    def __init__(self, door: Door, *, anywhere: bool) -> None:
        self._door = door
        self._anywhere = anywhere

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface of httpcore2
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """As `Door.connect_tcp`."""
        return await self._door.connect(host, port, anywhere=self._anywhere)


class _Stream(httpcore2.AsyncNetworkStream):
    """One connection, whose bytes are counted. Failures are those of httpcore2, which its pool knows."""

    def __init__(
        self, inner: anyio.abc.ByteStream, sent: Callable[[int], float], received: Callable[[int], float]
    ) -> None:
        self._inner = inner
        self._sent = sent
        self._received = received
        self._used_up: budget.UsedUp | None = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        try:
            if self._used_up is not None:
                # What could not be written is waited for at the other end: there is nothing to wait for here.
                raise self._used_up
            async with asyncio.timeout(timeout):
                data = await self._inner.receive(max_bytes)
            await _pause(self._received(len(data)))
        except anyio.EndOfStream:
            return b""
        except TimeoutError as error:
            raise httpcore2.ReadTimeout("nothing came in time") from error
        except budget.UsedUp as error:
            raise Spent(_USED_UP) from error
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            raise httpcore2.ReadError(_BROKE) from error
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        if not buffer:
            return
        try:
            await _pause(self._sent(len(buffer)))
            async with asyncio.timeout(timeout):
                await self._inner.send(buffer)
        except TimeoutError as error:
            raise httpcore2.WriteTimeout("nothing was taken in time") from error
        except budget.UsedUp as error:
            self._used_up = error
            raise httpcore2.WriteError(_USED_UP) from error
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            raise httpcore2.WriteError(_BROKE) from error

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore2.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                inner = await tls.TLSStream.wrap(
                    self._inner, hostname=server_hostname, ssl_context=ssl_context, standard_compatible=False
                )
        except BaseException as error:
            await self._inner.aclose()
            if isinstance(error, ssl.SSLCertVerificationError):
                raise errors.ServerFailed(
                    f"The remote server's certificate is refused: {error.verify_message}."
                ) from error
            if isinstance(error, ssl.SSLError | anyio.EndOfStream | anyio.BrokenResourceError | OSError):
                raise errors.ServerFailed("The remote server can't be reached: TLS failed.") from error
            raise
        return _Stream(inner, self._sent, self._received)

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._inner.extra(tls.TLSAttribute.ssl_object, None)  # noqa: S610 - no SQL
        if info == "is_readable":
            raw: socket.socket | None = self._inner.extra(anyio.abc.SocketAttribute.raw_socket, None)  # noqa: S610
            return raw is None or _readable(raw)
        return None


def _readable(one: socket.socket) -> bool:
    """Has a connection that nobody uses something to say? Then it is at its end."""
    # By its number: the event loop's own kind of socket can't be read from.
    poll = select.poll()
    poll.register(one.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def _pause(seconds: float) -> None:
    if seconds:
        await asyncio.sleep(seconds)
