"""What everything is compared with: a process without walls, and the leanest client of a stdio server."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import msgspec

_CHUNK: Final = 1 << 18
INITIALIZE: Final[dict[str, Any]] = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "1"},
}


class _Text(msgspec.Struct):
    text: str


class _Result(msgspec.Struct):
    content: list[_Text]


class _Answer(msgspec.Struct):
    id: int
    result: _Result


decode = msgspec.json.Decoder(_Answer).decode


def params(number: int) -> bytes:
    """Those of the call with this number to the echo server's tool, JSON-encoded."""
    return b'{"name":"echo","arguments":{"text":"text %d"}}' % number


def check(answer: bytes, number: int) -> None:
    """Raises RuntimeError unless `answer` echoes what the call with this number sent."""
    try:
        right = decode(answer).result.content[0].text == f"text {number}"
    except (msgspec.MsgspecError, IndexError):
        right = False
    if not right:
        raise RuntimeError(f"wrong answer: {answer[:400].decode('utf-8', 'replace')}")


def run(argv: Sequence[str]) -> float:
    """Milliseconds from posix_spawn(3) to the end of a process. Raises RuntimeError when it fails."""
    before = time.perf_counter()
    pid = os.posix_spawn(argv[0], list(argv), {})
    _, status = os.waitpid(pid, 0)
    taken = (time.perf_counter() - before) * 1000
    if status != 0:
        raise RuntimeError(f"{argv[0]} ended with {os.waitstatus_to_exitcode(status)}")
    return taken


class Pipes:
    """A blocking client of a stdio server: no loop, no thread, nothing but the two pipes."""

    def __init__(self, out: int, into: int) -> None:
        self._out = out
        self._into = into
        self._rest = b""

    def lines(self) -> list[bytes]:
        """The next complete lines. Raises RuntimeError when the server has ended."""
        while True:
            chunk = os.read(self._into, _CHUNK)
            if not chunk:
                raise RuntimeError("the server ended before it answered")
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            if lines:
                return lines

    def initialize(self) -> None:
        """The handshake's first request, answered."""
        asked = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": INITIALIZE}
        os.write(self._out, msgspec.json.encode(asked) + b"\n")
        answer: dict[str, Any] = {}
        while answer.get("id") != 0:
            for line in self.lines():
                answer = msgspec.json.decode(line)
        if "result" not in answer:
            raise RuntimeError(f"the server refused the handshake: {answer}")

    def per_call(self, calls: int, at_once: int) -> float:
        """Microseconds for each of `calls` of the echo tool, `at_once` of them in flight."""
        sent = done = 0
        before = time.perf_counter()
        while done < calls:
            more = min(at_once - (sent - done), calls - sent)
            if more:
                asked = range(sent, sent + more)
                os.write(self._out, b"".join(_call(number) for number in asked))
                sent += more
            for line in self.lines():
                check(line, done)
                done += 1
        return (time.perf_counter() - before) / calls * 1e6


def _call(number: int) -> bytes:
    return b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":%b}\n' % (number, params(number))


class Server(Pipes):
    """A stdio server as a plain child of this process."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            argv, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        super().__init__(self._process.stdin.fileno(), self._process.stdout.fileno())

    @property
    def pid(self) -> int:
        """Of the server."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.kill()
        self._process.communicate()
