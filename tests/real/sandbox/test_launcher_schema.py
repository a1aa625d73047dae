"""Whatever is sent to the launcher: an answer, or the end of the connection and of every cell. Never anything else."""

import contextlib
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, NamedTuple

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from smcp.sandbox import launch, walls
from smcp.sandbox.launcher import linux, messages
from support import cell, processes

pytestmark = pytest.mark.real

_ANSWERS: Final = msgspec.json.Decoder(messages.Answer)
_SLEEPER: Final = walls.Cell(
    argv=("/usr/bin/sleep", "600"),
    binds=(),
    tenant=cell.TENANT,
    memory_bytes=1 << 28,
    tmp_bytes=1 << 20,
    open_files=64,
    processes=16,
)


class Raw(NamedTuple):
    """A launcher without its client."""

    running: "subprocess.Popen[bytes]"
    peer: socket.socket
    house: messages.House

    def ask(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send one datagram."""
        socket.send_fds(self.peer, [data], list(descriptors))

    def start(self, number: int, body: bytes, descriptors: int = 3) -> None:
        """Ask for a cell."""
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        plan = launch.memory("cell", body)
        try:
            self.ask(msgspec.json.encode(messages.Start(number)), [*[nothing] * descriptors, plan])
        finally:
            os.close(nothing)
            os.close(plan)

    def answer(self) -> messages.Answer | None:
        """The next answer; None at the end of the connection."""
        self.peer.settimeout(100)
        try:
            data, descriptors, _ = linux.receive(self.peer, messages.LARGEST, 64)
        except ConnectionResetError:
            return None
        for one in descriptors:
            os.close(one)
        return _ANSWERS.decode(data) if data else None

    def cells(self) -> set[processes.Process]:
        """Its cells' processes on this machine."""
        return processes.naming(f"smcp-cell:{self.house.platform}")


@contextlib.contextmanager
def _raw() -> Generator[Raw]:
    cell.found()
    with cell.house() as house:
        running, peer = launch.process(house)
        made = Raw(running, peer, house)
        try:
            assert isinstance(made.answer(), messages.Ready)
            yield made
        finally:
            peer.close()
            assert running.wait(60) == 0
        assert made.cells() == set()


@contextlib.contextmanager
def _broken(capfd: pytest.CaptureFixture[str], *, cells: int = 2) -> Generator[Raw]:
    """A launcher with running cells, for which the block must be the end: of it, and of them, in good order."""
    with _raw() as raw:
        for number in range(1, cells + 1):
            raw.start(number, msgspec.msgpack.encode(_SLEEPER))
            assert isinstance(raw.answer(), messages.Started)
        assert len(raw.cells()) >= cells
        yield raw
        while (answer := raw.answer()) is not None:
            assert isinstance(answer, messages.Exited | messages.Failed)
        assert raw.running.wait(60) == 0
        assert raw.cells() == set()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.requirement("sandbox:launcher:schema")
@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"null",
        b"[]",
        b"start",
        b"\xff\xfe",
        b"\0",
        b'{"type":"start"}',
        b'{"type":"exec","id":1}',
        b'{"type":"start","id":1,"argv":["id"]}',
        b'{"type":"start","id":0}',
        b'{"type":"start","id":-1}',
        b'{"type":"start","id":9007199254740993}',
        b'{"type":"start","id":1.5}',
        b'{"type":"start","id":"1"}',
        b'{"type":"kill"}',
        b'{"type":"kill","id":1,"signal":9}',
        b'{"type":"open_volume","question":1,"tenant":"../x","server":"y","bytes":8192}',
        b'{"type":"open_volume","question":1,"tenant":"x","server":"y,mode=4777","bytes":8192}',
        b'{"type":"open_volume","question":1,"tenant":"x","server":"y","bytes":1}',
        b'{"type":"open_volume","question":1,"tenant":"x","server":"y","bytes":1e400}',
        b'{"type":"own","question":1,"path":"/x","tenant":"Root"}',
        b'{"type":"own","question":1,"path":"/x","tenant":0}',
        b'{"x":' + b"[" * 30_000 + b"]" * 30_000 + b',"type":"kill","id":1}',
        b'{"type":"kill","id":1,"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b"x" * (messages.LARGEST + 1),
    ],
    ids=lambda data: repr(data[:48]),
)
def test_a_message_that_is_none_ends_the_connection_and_every_cell(
    data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with _broken(capfd) as raw:
        raw.ask(data)


@pytest.mark.requirement("sandbox:launcher:schema")
def test_more_descriptors_than_a_message_may_have_end_the_connection(capfd: pytest.CaptureFixture[str]) -> None:
    with _broken(capfd) as raw:
        raw.ask(b'{"type":"kill","id":7}', [raw.peer.fileno()] * (5 + walls.MOST_HANDED))


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = st.sampled_from(["id", "question", "tenant", "server", "bytes", "path", "frozen", "type", "argv", "uid"])
_KINDS = st.sampled_from(
    ["start", "kill", "freeze", "open_volume", "close_volume", "own", "identify", "ready", "done", ""]
)


def _shaped(kind: str, fields: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, **fields}).encode()


_SHAPED = st.builds(
    _shaped,
    _KINDS,
    st.dictionaries(_FIELDS, _VALUES | st.sampled_from(["acme", "/etc", 1, 2, 8192]), max_size=5),
)


@pytest.mark.timeout(600)
@pytest.mark.requirement("sandbox:launcher:schema")
def test_no_datagram_does_anything_but_be_answered_or_end_the_connection(capfd: pytest.CaptureFixture[str]) -> None:
    with contextlib.ExitStack() as stack:
        standing: list[Raw] = []

        def fresh() -> Raw:
            if not standing or standing[-1].running.poll() is not None:
                standing.append(stack.enter_context(_raw()))
            return standing[-1]

        @hypothesis.settings(max_examples=60, deadline=None, database=None)
        @hypothesis.given(
            st.binary(max_size=64) | _SHAPED | _VALUES.map(lambda value: json.dumps(value).encode()),
            st.integers(0, 8),
        )
        def sent(data: bytes, descriptors: int) -> None:
            raw = fresh()
            raw.ask(data, [raw.peer.fileno()] * descriptors)
            with contextlib.suppress(BrokenPipeError):
                raw.ask(b'{"type":"freeze","id":1,"question":4711,"frozen":false}')
            while (answer := raw.answer()) is not None:
                assert isinstance(answer, messages.Done | messages.Failed), answer
                if isinstance(answer, messages.Done) and answer.question == 4711:
                    break
            else:
                assert raw.running.wait(60) == 0
            assert raw.cells() == set()

        sent()
    assert "Traceback" not in capfd.readouterr().err


def _changed(**fields: Any) -> bytes:
    whole = msgspec.to_builtins(_SLEEPER)
    return msgspec.msgpack.encode({**whole, **fields})


_BODIES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no cell": lambda: b"\xc1" * 64,
    "JSON": lambda: msgspec.json.encode(_SLEEPER),
    "cut": lambda: msgspec.msgpack.encode(_SLEEPER)[:-3],
    "too large": lambda: _changed(env=[["A", "x" * messages.LARGEST_CELL]]),
    "a field too many": lambda: _changed(uid=0),
    "a bind's field too many": lambda: _changed(binds=[{"source": "/usr", "target": "/x", "dev": True}]),
    "deep": lambda: _changed(argv=[[[[[[["x"]]]]]]]),
    "very deep": lambda: b"\x91" * 100_000,
    "no command": lambda: _changed(argv=[]),
    "an empty command": lambda: _changed(argv=[""]),
    "NUL": lambda: _changed(argv=["/usr/bin/id\0"]),
    "a surrogate": lambda: _changed(argv=["x"]).replace(b"\xa1x", b"\xa3\xed\xb0\x80"),
    "infinite processors": lambda: _changed(cpus=float("inf")),
    "no number of processors": lambda: _changed(cpus=float("nan")),
    "no memory": lambda: _changed(memory_bytes=0),
    "negative memory": lambda: _changed(memory_bytes=-1),
    "endless memory": lambda: _changed(memory_bytes=2**63),
    "no processes": lambda: _changed(processes=-1),
    "a setuid file": lambda: _changed(files=[{"path": "/x", "content": b"", "mode": 0o4755}]),
    "a tenant that is none": lambda: _changed(tenant="../acme"),
    "the host's network": lambda: _changed(network=True),
    "a port that is none": lambda: _changed(egress=[65536]),
    "a port twice": lambda: _changed(egress=[443, 443]),
    "a thousand ports": lambda: _changed(egress=list(range(1, 1001))),
    "a volume that is not open": lambda: _changed(volume={"server": "memory", "target": "/data"}),
    "a million arguments": lambda: _changed(argv=["/usr/bin/id", *["x"] * 1_000_000]),
}


@pytest.mark.requirement("sandbox:launcher:schema")
def test_a_cell_that_is_none_is_refused_and_the_others_go_on(capfd: pytest.CaptureFixture[str]) -> None:
    with _raw() as raw:
        raw.start(1, msgspec.msgpack.encode(_SLEEPER))
        assert isinstance(raw.answer(), messages.Started)
        for number, (what, body) in enumerate(_BODIES.items(), 2):
            raw.start(number, body())
            answer = raw.answer()
            assert isinstance(answer, messages.Failed), (what, answer)
            assert (answer.id, bool(answer.why)) == (number, True), what
        few = "a start comes with four descriptors and a new number"
        many = "a cell comes in a memory file"  # the fourth, where there are five
        for number, descriptors, why in ((100, 0, few), (101, 2, few), (102, 4, many)):
            raw.start(number, msgspec.msgpack.encode(_SLEEPER), descriptors)
            assert raw.answer() == messages.Failed(number, why)
        raw.start(1, msgspec.msgpack.encode(_SLEEPER))
        assert isinstance(raw.answer(), messages.Failed)
        raw.ask(b'{"type":"kill","id":1}')
        assert isinstance(raw.answer(), messages.Exited)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.requirement("sandbox:launcher:schema")
def test_what_is_no_file_can_not_hold_the_launcher_up() -> None:
    with _raw() as raw:
        read, write = os.pipe()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for number, body in enumerate((read, theirs.fileno()), 1):
                raw.ask(msgspec.json.encode(messages.Start(number)), [write, write, write, body])
                assert isinstance(raw.answer(), messages.Failed)
        os.close(read)
        os.close(write)


@pytest.mark.requirement("sandbox:launcher:schema")
def test_a_platform_that_hears_nothing_ends_like_one_that_is_gone() -> None:
    # It asks and asks and never reads: the launcher's answers fill the socket, and it does not wait for long.
    with _raw() as raw:
        raw.start(1, msgspec.msgpack.encode(_SLEEPER))
        assert isinstance(raw.answer(), messages.Started)
        gone = os.pidfd_open(raw.running.pid)
        raw.peer.settimeout(2)
        deadline = time.monotonic() + 60
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline:
                with contextlib.suppress(TimeoutError):
                    raw.ask(b'{"type":"freeze","id":9,"question":1,"frozen":true}')
        assert select.select([gone], [], [], 100)[0]
        os.close(gone)
        assert raw.cells() == set()
