"""Results that are too large for memory: they wait on disk, sealed, for readers as slow as they like.

A line of a hosted server that grows beyond `LARGE` goes to a file that has no name and ends with its last user, so that
neither a slow reader nor many readers cost memory, and none of them holds up the other calls on the same hosted
server. Each piece is sealed under a key that is in memory only: what a disk keeps of such a file is noise.

The id of a response may stand behind its result (the TypeScript SDK writes it there), so nothing is handed on before
the line has ended. Then only its first and last bytes are read as an envelope. The result itself is not taken apart:
that it is UTF-8, and that its texts and brackets end where it ends, is checked on the way.

Files are written and read in threads of their own: a slow disk must not stop the event loop that all tenants share.
While more comes than the disk takes, the pipe is not read, and the hosted server waits.
"""

import asyncio
import codecs
import concurrent.futures
import itertools
import os
import re
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Final

from smcp.kernel import crypto, errors

LARGE: Final = 256 * 1024
"""Bytes of one line from which on it goes to disk."""
IN_MEMORY: Final = 16 * 1024 * 1024
"""Longest line that comes back into memory when it is no plain result: a request, a notification, an error."""
PIECE: Final = 65_536
"""Plain bytes that are sealed, and later sent, together."""

_STRIDE: Final = PIECE + crypto.OVERHEAD
_BATCH: Final = 4 * PIECE
_WAITING: Final = 16 * PIECE
"""Bytes that wait for the disk before the pipe is left alone."""
_SPARE: Final = 256 * 1024 * 1024
"""Bytes that stay free on the disk, which holds the stores too."""
_THREADS: Final = 4
_ENVELOPE: Final = 4096
"""Bytes at either end of a line in which its envelope must be."""

_MEMBER: Final = rb'[ \t\r]*"(?:jsonrpc"[ \t\r]*:[ \t\r]*"2\.0"|id"[ \t\r]*:[ \t\r]*[0-9]{1,18})[ \t\r]*'
_HEAD: Final = re.compile(rb'[ \t\r]*\{((?:%b,)*)[ \t\r]*"result"[ \t\r]*:[ \t\r]*(?=\{)' % _MEMBER)
# Read from the end, where the brace stands that closes the message: what comes before its members is the result.
_TAIL: Final = re.compile(rb"(?<=\})[ \t\r]*((?:,%b)*)\}[ \t\r]*\Z" % _MEMBER)
_NUMBER: Final = re.compile(rb'"id"[ \t\r]*:[ \t\r]*([0-9]+)')

_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_TOGETHER: Final = 4096
"""Brackets that are summed up in one step of the interpreter: others' threads get their turn between two steps, so that
a line of brackets alone holds up nobody."""
_STEPS: Final = tuple(1 if byte in b"[{" else -1 for byte in range(256))


class Spools:
    """Where the large lines of all hosted servers wait."""

    def __init__(self, directory: str) -> None:
        """`directory` is the platform's own, and closed to others."""
        self._directory = directory
        self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="spool")

    def open(self, take: Callable[[int], bool], give: Callable[[int], None]) -> "Spool":
        """A new spool; `take` and `give` count its bytes where they are limited."""
        return Spool(self._directory, self._threads, take, give)

    def close(self) -> None:
        """End the threads, once what they do is done. Idempotent."""
        self._threads.shutdown(wait=True)


class Spool:
    """One large line. What the threads do has a name that begins with an underscore."""

    def __init__(
        self,
        directory: str,
        threads: concurrent.futures.Executor,
        take: Callable[[int], bool],
        give: Callable[[int], None],
    ) -> None:
        self.size = 0
        """Bytes that were taken so far."""
        self._directory = directory
        self._threads = threads
        self._take = take
        self._give = give
        self._closed = False
        self._lock = threading.Lock()
        self._xaes = crypto.Xaes(os.urandom(crypto.KEY_BYTES))
        self._file = -1
        self._pieces = 0
        self._rest = b""
        self._check = _Check()

    def take(self, size: int) -> bool:
        """Whether `size` bytes more may be written."""
        if self._closed or not self._take(size):
            return False
        self.size += size
        return True

    def write(self, data: list[bytes]) -> "asyncio.Future[None]":
        """Append. Raises `OSError` when the disk does not take it."""
        return asyncio.get_running_loop().run_in_executor(self._threads, self._write, data)

    def end(self) -> "asyncio.Future[tuple[int, Result] | bytes | None]":
        """All was written: the number of a response and its result; or the whole line, if it is something else that
        has room in memory; or None. Raises as `write` does, and `errors.TamperedData`."""
        return asyncio.get_running_loop().run_in_executor(self._threads, self._end)

    async def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`. Raises `errors.Unavailable` when the disk does not give them back."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, start, end)
        except (OSError, RuntimeError, errors.TamperedData) as error:
            raise errors.Unavailable("A large answer could not be read back.", detail=str(error)) from error

    def close(self) -> None:
        """It is not needed any more. Idempotent."""
        if not self._closed:
            self._closed = True
            self._give(self.size)
            # Giving back the blocks of a large file takes a while. Without threads there is no loop to hold up either.
            try:
                self._threads.submit(self._close)
            except RuntimeError:
                self._close()

    def _write(self, data: list[bytes]) -> None:
        joined = b"".join(data)
        self._check.feed(joined)
        joined = self._rest + joined
        whole = len(joined) - len(joined) % PIECE
        self._rest = joined[whole:]
        self._append(joined[:whole])

    def _append(self, data: bytes) -> None:
        pieces = [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
        sealed = [self._xaes.seal(piece, b"%d" % number) for number, piece in enumerate(pieces, self._pieces)]
        with self._lock:
            if self._closed:
                return
            if self._file < 0:
                with tempfile.TemporaryFile("wb", 0, dir=self._directory) as file:
                    self._file = os.dup(file.fileno())
            space = os.fstatvfs(self._file)
            if space.f_bavail * space.f_frsize < _SPARE:
                raise OSError("too little room is left on the disk")
            left, at = memoryview(b"".join(sealed)), self._pieces * _STRIDE
            while left:
                written = os.pwrite(self._file, left, at)
                left, at = left[written:], at + written
        self._pieces += len(pieces)

    def _end(self) -> "tuple[int, Result] | bytes | None":
        self._append(self._rest)
        self._rest = b""
        found = self._found() if self._check.whole() else None
        if found is None and self.size <= IN_MEMORY:
            return self._read(0, self.size)
        return found

    def _found(self) -> "tuple[int, Result] | None":
        head = _HEAD.match(self._read(0, _ENVELOPE))
        behind = max(0, self.size - _ENVELOPE)
        tail = _TAIL.search(self._read(behind, self.size))
        if head is None or tail is None:
            return None
        members = head[1] + tail[1]
        numbers = _NUMBER.findall(members)
        if len(numbers) != 1 or members.count(b'"jsonrpc"') != 1:
            return None
        return int(numbers[0]), Result(self, head.end(), behind + tail.start())

    def _read(self, start: int, end: int) -> bytes:
        end = min(end, self.size)
        first, behind = start // PIECE, -(-end // PIECE)
        with self._lock:
            if self._closed:
                raise OSError("closed")
            stored = os.pread(self._file, (behind - first) * _STRIDE, first * _STRIDE)
        pieces = [
            self._xaes.open(stored[at : at + _STRIDE], b"%d" % number)
            for number, at in zip(range(first, behind), range(0, len(stored), _STRIDE), strict=False)
        ]
        return b"".join(pieces)[start - first * PIECE : end - first * PIECE]

    def _close(self) -> None:
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1


class Result:
    """The result of a response, on disk. To be closed."""

    def __init__(self, spool: Spool, start: int, end: int) -> None:
        self._spool = spool
        self._start = start
        self._end = end

    @property
    def size(self) -> int:
        """Bytes of it."""
        return self._end - self._start

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Its bytes, in pieces of at most `PIECE`. Raises as `Spool.read` does."""
        at = self._start
        while at < self._end:
            # Up to the end of a sealed piece: each is opened once.
            end = min(self._end, at - at % PIECE + PIECE)
            yield await self._spool.read(at, end)
            at = end

    async def whole(self) -> bytes:
        """All of it. Raises as `Spool.read` does."""
        return await self._spool.read(self._start, self._end)

    def close(self) -> None:
        """It is not needed any more. Idempotent."""
        self._spool.close()


class Line:
    """A large line while it comes: from the pipe to its spool."""

    def __init__(self, spool: Spool, pause: Callable[[bool], None], done: "Callable[[Line], None]") -> None:
        """`pause` stops the pipe and lets it go on; `done` hears that the line has ended and is on disk."""
        self.spool = spool
        self.found: tuple[int, Result] | bytes | None = None
        """What `Spool.end` found."""
        self.failure = ""
        """Why it could not be kept."""
        self._pause = pause
        self._done = done
        self._parts: list[bytes] = []
        self._waiting = 0
        self._ended = False
        self._busy = False
        self._paused = False

    def feed(self, data: bytes) -> bool:
        """More of it; False when there is no room for it."""
        if not self.failure:
            if not self.spool.take(len(data)):
                return False
            self._parts.append(data)
            self._waiting += len(data)
            self._go_on()
        return True

    def end(self) -> None:
        """That was all."""
        self._ended = True
        self._go_on()

    def drop(self) -> None:
        """Nobody wants it any more."""
        self.failure = self.failure or "dropped"
        self._parts.clear()
        self.spool.close()

    def _go_on(self) -> None:
        if not self._busy:
            if self.failure:
                self._parts.clear()
                self._waiting = 0
                if self._ended:
                    self._done(self)
            elif self._waiting >= _BATCH or (self._parts and self._ended):
                parts, self._parts, self._waiting = self._parts, [], 0
                self._busy = True
                self.spool.write(parts).add_done_callback(self._written)
            elif self._ended:
                self._busy = True
                self.spool.end().add_done_callback(self._closed)
        full = self._waiting >= _WAITING
        if full != self._paused:
            self._paused = full
            self._pause(full)

    def _written(self, job: "asyncio.Future[None]") -> None:
        self._busy = False
        error = job.exception()
        if error is not None:
            self.failure = self.failure or f"it could not be kept: {error}"
        self._go_on()

    def _closed(self, job: "asyncio.Future[tuple[int, Result] | bytes | None]") -> None:
        error = job.exception()
        if error is not None:
            self.failure = self.failure or f"it could not be read back: {error}"
        elif not self.failure:
            self.found = job.result()
        self._done(self)


class _Check:
    """UTF-8, and one object in another: texts and brackets that all end, those two at the end. At the speed of C."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._escape = b""
        self._in_text = False
        self._begun = False
        self._depth = 1
        self._held = b""
        """The last two brackets: the first ones of them all that may come back to the outermost level."""
        self._right = True

    def feed(self, data: bytes) -> None:
        """More of it."""
        if not self._right:
            return
        try:
            self._utf8.decode(data)
        except UnicodeDecodeError:
            self._right = False
            return
        data = self._escape + data
        self._escape = b"\\" if (len(data) - len(data.rstrip(b"\\"))) % 2 else b""
        if self._escape:
            data = data[:-1]
        # Without what is escaped every quote begins or ends a text, and every second part is outside of them.
        parts = data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        brackets = b"".join(parts[self._in_text :: 2]).translate(None, _NOT_BRACKETS)
        self._in_text ^= len(parts) % 2 == 0
        brackets = self._held + brackets
        if brackets and not self._begun:
            self._begun, self._right, brackets = True, brackets[:1] == b"{", brackets[1:]
        inner, self._held = brackets[:-2], brackets[-2:]
        for at in range(0, len(inner), _TOGETHER):
            part = inner[at : at + _TOGETHER]
            down = part.count(b"]") + part.count(b"}")
            if self._depth - down < 2:  # else it can't come to the outermost level, in whatever order
                lowest = self._depth + min(itertools.accumulate(map(_STEPS.__getitem__, part)))
                self._right = self._right and lowest >= 2
            self._depth += len(part) - 2 * down

    def whole(self) -> bool:
        """Was all that came an object with one object in it?"""
        return self._right and self._depth == 2 and self._held == b"}}" and not self._in_text and not self._escape
