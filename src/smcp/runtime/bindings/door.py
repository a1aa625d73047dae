"""The one socket that a process of Workers has to the platform.

Who asks is checked three times, and each check alone would do: the socket is one process's, and lies where only that
process's cell finds it; the process at its other end must be of the tenant's user (`SO_PEERCRED`); and each request
shows the capability of one binding, an unguessable text that workerd adds by itself (`injectRequestHeaders`), which
the code never sees and can't replace.

Hosted code can make its process send a CONNECT, which carries no such header: it is refused as everything is that
shows none.
"""

import asyncio
import contextlib
import hashlib
import os
import secrets
import socket
import stat
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from smcp.runtime.bindings import connection, http

FIELD: Final = "x-smcp-capability"
"""The header field that workerd is told to add."""
AT_ONCE: Final = 64
"""Requests of one binding that are answered at once; more of them wait."""
_BACKLOG: Final = 128
_CREDENTIALS: Final = struct.Struct("=iII")
"""`struct ucred` (unix(7)): process, user, group."""
_FIELD: Final = FIELD.encode()
_LIMITS: Final = http.Limits()


class Door:
    """One process's way to its bindings."""

    def __init__(self, path: str, uid: int | None, told: Callable[[str], None], limits: http.Limits) -> None:
        """Use `open`."""
        self.limits = limits
        self.buffer = memoryview(bytearray(http.CHUNK))
        self._path = path
        self._uid = uid
        self._told = told
        self._key = secrets.token_bytes(32)
        self._grants: dict[bytes, http.Grant] = {}
        self._connections: set[connection.Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusals: Counter[http.Refusal] = Counter()
        self._server: asyncio.AbstractServer | None = None
        self._closed = False

    @classmethod
    async def open(
        cls, path: str, uid: int | None, told: Callable[[str], None], *, limits: http.Limits = _LIMITS
    ) -> "Door":
        """A door whose socket is at `path`, which may be of any length.

        Whoever reaches the path may connect (a cell's user is not the platform's): its directory must be the
        platform's alone. `uid`: whose processes may stay; None where cells have no user of their own. `told` gets a
        line when something is refused: a few for each kind of it, however often it happens.
        Raises `OSError`.
        """
        door = cls(path, uid, told, limits)
        door._server = await asyncio.get_running_loop().create_unix_server(
            lambda: connection.Connection(door), sock=_listener(path), backlog=_BACKLOG
        )
        return door

    def admit(self, handler: http.Handler, *, proxy: bool = False, at_once: int = AT_ONCE) -> str:
        """The capability that leads to `handler` from now on.

        `proxy`: its requests have URLs as targets, and none that has not is let through; else it is the reverse.
        `at_once`: how many of them may be under way; more wait for a while, then get 503.
        """
        capability = secrets.token_urlsafe(32)
        self._grants[self._digest(capability.encode())] = http.Grant(
            handler, proxy=proxy, at_once=at_once, wait_s=self.limits.wait_s
        )
        return capability

    def revoke(self, capability: str) -> None:
        """It leads nowhere from now on; what was asked with it before breaks off. May be called again."""
        grant = self._grants.pop(self._digest(capability.encode()), None)
        if grant is not None:
            for one in [one for one in self._connections if one.grant is grant]:
                one.abort()

    async def close(self) -> None:
        """End every connection and what is under way, and remove the socket. May be called again."""
        if self._closed:
            return
        self._closed = True
        self._grants.clear()
        if self._server is not None:
            self._server.close()
        for one in tuple(self._connections):
            one.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    # --- connection.House ---

    def enter(self, who: connection.Connection, transport: asyncio.Transport) -> http.Refusal | None:
        """As `connection.House`."""
        if self._uid is not None and _user(transport) != self._uid:
            return http.Refusal.PEER
        if self._closed or len(self._connections) >= self.limits.connections:
            return http.Refusal.CONNECTIONS
        self._connections.add(who)
        return None

    def leave(self, who: connection.Connection) -> None:
        """As `connection.House`."""
        self._connections.discard(who)

    def find(self, fields: Sequence[tuple[bytes, bytes]]) -> tuple[http.Grant | None, dict[bytes, bytes]]:
        """As `connection.House`. Its time says nothing about a capability: what is compared is a keyed
        digest."""
        shown: list[bytes] = []
        headers: dict[bytes, bytes] = {}
        for name, value in fields:
            if name == _FIELD:
                shown.append(value)
            elif name in headers:
                headers[name] += (b"; " if name == b"cookie" else b", ") + value
            else:
                headers[name] = value
        # Two of them: one may be the code's own, and nobody knows which.
        return self._grants.get(self._digest(shown[0])) if len(shown) == 1 else None, headers

    def refused(self, why: http.Refusal, error: BaseException | None = None) -> None:
        """As `connection.House`. Told at the 1st, 10th, 100th … time of each kind."""
        self._refusals[why] += 1
        count = self._refusals[why]
        digits = str(count)
        if digits.rstrip("0") != "1":
            return
        self._told(f"bindings: refused {why.value[1]}" + (f" ({count} times so far)" if count > 1 else ""))
        if why is http.Refusal.FAILED and error is not None:
            # The platform's own log has the cause: what it says is not for the tenant.
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a binding's handler failed", "exception": error}
            )

    def begun(self, task: "asyncio.Task[None]") -> None:
        """As `connection.House`."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _digest(self, capability: bytes) -> bytes:
        return hashlib.blake2b(capability, key=self._key, digest_size=32).digest()


def _listener(path: str) -> socket.socket:
    """A socket that is bound to `path` by way of its directory's descriptor: an address holds 107 bytes only."""
    directory, name = os.path.split(path)
    where = os.open(directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(name, dir_fd=where, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=where)  # of a process that was killed
        made.bind(f"/proc/self/fd/{where}/{name}")
        os.chmod(name, 0o666, dir_fd=where)  # noqa: S103 - see `Door.open`
    except BaseException:
        made.close()
        raise
    finally:
        os.close(where)
    return made


def _user(transport: asyncio.Transport) -> int | None:
    """Who connected, as the kernel noted it then; None when it is not known."""
    try:
        found = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    return int(_CREDENTIALS.unpack(found)[1])
