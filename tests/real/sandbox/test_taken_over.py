"""A platform in hostile hands, whose data directory is its own to change, against the processes that have rights."""

import asyncio
import contextlib
import ctypes
import os
import pathlib
import pty
import select
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Generator

import msgspec
import pytest

from smcp.app import machine, node, process
from smcp.cli import datadir
from smcp.kernel import errors, settings
from smcp.sandbox import spawn, walls
from smcp.sandbox.launcher import tidy
from support import cell

pytestmark = pytest.mark.real

_AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="without root there are no rights to be misled")
_UID = 54_321


@pytest.mark.requirement("sandbox:launcher:moved")
async def test_the_directory_above_the_volumes_is_moved_and_a_link_to_elsewhere_is_put_there(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "volumes").mkdir()
    async with cell.standing() as made:
        app = _made(made.house.artefacts, cell.TENANT, "0a")
        run = pathlib.Path(made.house.volumes).parent
        run.rename(run.with_name("away"))
        run.symlink_to(tmp_path)
        volume = walls.Volume("memory", "/data")
        with _watched(tmp_path / "volumes") as seen:
            await made.launcher.open_volume(cell.TENANT, "memory", 1 << 20)
            inside = cell.python(app, "open('/data/x', 'w').write('kept'); print(open('/data/x').read())")
            outcome = await spawn.run(
                msgspec.structs.replace(inside, volume=volume), made.launcher, timeout_s=cell.WAIT_S
            )
            await made.launcher.close_volume(cell.TENANT, "memory")
        assert seen == set()
        # The volume is where it always was.
        assert outcome.tail == ("kept",)
        run.unlink()
        run.with_name("away").rename(run)
        assert os.listdir(made.house.volumes) == []


def _made(*parts: str) -> pathlib.Path:
    place = pathlib.Path(*parts)
    place.mkdir(parents=True)
    return place


@contextlib.contextmanager
def _watched(folder: pathlib.Path) -> Generator[set[str]]:
    """Names that ever appeared in `folder`."""
    seen: set[str] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.0002):
            seen.update(os.listdir(folder))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
        seen.update(os.listdir(folder))


@_AS_ROOT
@pytest.mark.requirement("up:processes:hostile")
def test_a_link_in_the_data_directory_leads_roots_start_nowhere(tmp_path: pathlib.Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for place in (data, elsewhere, elsewhere / "there"):
        place.mkdir()
    os.chown(data, _UID, _UID)
    for link in ("cache", "work"):
        (data / link).symlink_to(elsewhere)
    (data / "run").mkdir()
    (data / "run" / "volumes").symlink_to(elsewhere / "there")
    for name in (machine.ARTEFACTS, machine.PIP_CACHE, machine.WORK, machine.VOLUMES):
        with pytest.raises(NotADirectoryError):
            machine.make(data, name, _UID)
    assert [entry.name for entry in elsewhere.iterdir()] == ["there"]
    assert {elsewhere.stat().st_uid, (elsewhere / "there").stat().st_uid} == {0}
    (data / "cache").unlink()
    machine.make(data, machine.ARTEFACTS, _UID)
    assert {(data / name).stat().st_uid for name in ("cache", machine.ARTEFACTS)} == {_UID}


@_AS_ROOT
@pytest.mark.requirement("up:processes:hostile")
def test_a_link_where_the_keys_were_opens_no_closed_home(tmp_path: pathlib.Path) -> None:
    private = tmp_path / "home" / "private"
    private.mkdir(parents=True)
    (private / "diary").write_text("canary")
    private.parent.chmod(0o700)
    data = tmp_path / "data"
    data.mkdir()
    (data / "keys").symlink_to(private)
    for own in (settings.Platform(data_dir=str(data)), settings.Platform(str(data), str(data / "keys" / "root.key"))):
        needed = cell.found().needed(settings.Settings(platform=own))
        said = _dropped(
            f"""
            try: print(open({str(private / "diary")!r}).read())
            except OSError as error: print(type(error).__name__)
            """,
            needed,
        )
        assert said in ("PermissionError", "FileNotFoundError")


@_AS_ROOT
@pytest.mark.requirement("up:processes:rights")
def test_who_gave_up_root_has_no_key_of_roots_session() -> None:
    said = _dropped(
        """
        found = libc.syscall(numbers["keyctl"], 10, ctypes.c_long(-3), b"user", b"canary", 0)
        print("found" if found > 0 else os.strerror(ctypes.get_errno()))
        """,
        (sys.prefix, sys.base_prefix),
        """
        assert libc.syscall(numbers["keyctl"], 1, None) > 0
        kept = libc.syscall(numbers["add_key"], b"user", b"canary", b"x", ctypes.c_size_t(1), ctypes.c_long(-3))
        assert kept > 0, ctypes.get_errno()
        """,
    )
    assert said == "Required key not available"


def _dropped(code: str, needed: tuple[str, ...], before: str = "") -> str:
    """What `code` prints in a process that ran `before` as root, and then gave that up as the platform does."""
    numbers = {"add_key": 248, "keyctl": 250} if os.uname().machine == "x86_64" else {"add_key": 217, "keyctl": 219}
    whole = [
        "import ctypes, os",
        "from smcp.sandbox import demote",
        f"libc, numbers = ctypes.CDLL(None, use_errno=True), {numbers!r}",
        textwrap.dedent(before),
        f"demote.drop({_UID}, {needed!r})",
        textwrap.dedent(code),
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(whole)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@_AS_ROOT
@pytest.mark.requirement("sandbox:launcher:own")
def test_a_file_that_is_swapped_for_another_name_of_roots_file_stays_roots(tmp_path: pathlib.Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("root's")
    build = tmp_path / "work" / "op"
    build.mkdir(parents=True)
    os.chown(build, _UID, _UID)
    stop = threading.Event()

    def swap() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        own, other = os.fsencode(build / "own"), os.fsencode(tmp_path / "other")
        while not stop.is_set():
            libc.renameat2(-100, own, -100, other, 2)

    (build / "own").write_text("")
    os.chown(build / "own", _UID, _UID)
    # As where fs.protected_hardlinks is 0.
    os.link(outside, tmp_path / "other")
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for turn in range(4000):
            tidy.own(str(tmp_path / "work"), str(build), {_UID, _UID + 1}, _UID + turn % 2)
    finally:
        stop.set()
        thread.join()
    assert outside.stat().st_uid == 0


@pytest.mark.requirement("up:processes:hostile")
def test_notes_are_never_written_into_a_file_that_lay_there(tmp_path: pathlib.Path) -> None:
    other = tmp_path / "other"
    other.write_text("canary")
    data = tmp_path / "data"
    data.mkdir()
    datadir.DataDir(data).prepare()
    os.link(other, data / "smcp-data.new")
    datadir.DataDir(data).write(datadir.Notes())
    assert other.read_text() == "canary"
    (data / "smcp-data.new").symlink_to(other)
    datadir.DataDir(data).write(datadir.Notes(demo_done=True))
    os.mkfifo(data / "smcp-data.new")
    datadir.DataDir(data).write(datadir.Notes(demo_done=True))
    assert other.read_text() == "canary"
    assert datadir.DataDir(data).notes().demo_done


@pytest.mark.requirement("up:processes:hostile")
@pytest.mark.parametrize("words", [[b"\xff"], [msgspec.json.encode(node.Key(None))] * 100, [b'{"type":"else"}']])
async def test_words_that_nobody_asked_for_are_the_platforms_end(words: list[bytes]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    made = process.Process(_process(), _process(), ours)
    with contextlib.closing(theirs):
        for word in words:
            await asyncio.get_running_loop().run_in_executor(None, _sent, theirs, word)
        async with asyncio.timeout(60):
            await made.ended.wait()
        await made.stop()


def _process() -> "subprocess.Popen[bytes]":
    """Stands for one of the two, which has ended by the time that it is waited for."""
    return subprocess.Popen(["/bin/true"])


def _sent(peer: socket.socket, word: bytes) -> None:
    with contextlib.suppress(OSError):
        peer.settimeout(1)
        peer.send(word)


@pytest.mark.requirement("up:processes:hostile")
@pytest.mark.parametrize("kind", ["Any", "ClassVar", "__builtins__", "__doc__", "nothing"])
async def test_a_refusal_of_no_known_kind_is_an_error_all_the_same(kind: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    made = process.Process(_process(), _process(), ours)
    with contextlib.closing(theirs):
        theirs.send(msgspec.json.encode(node.Refused(kind, "no", "")))
        with pytest.raises(errors.Unavailable):
            await made.ensure_operator()
        await made.stop()


@_AS_ROOT
@pytest.mark.requirement("up:processes:rights")
def test_the_platform_does_not_hear_what_is_typed_into_roots_terminal() -> None:
    keyboard, terminal = pty.openpty()
    os.write(keyboard, b"canary\n")
    tries = f"""
import fcntl, os, sys, termios
from smcp.sandbox import demote
demote.drop({_UID}, (sys.prefix, sys.base_prefix))
for name, attempt in (
    ("read", lambda: os.read(2, 100)),
    ("open", lambda: os.open("/proc/self/fd/2", os.O_RDWR)),
    ("type", lambda: fcntl.ioctl(2, termios.TIOCSTI, b"x")),
):
    try:
        print(name, attempt())
    except OSError:
        print(name, "refused")
os.write(2, b"heard")
"""
    starts = f"""
import subprocess, sys
from smcp.app import process
subprocess.run([sys.executable, "-c", {tries!r}], stderr=process.voice(), start_new_session=True, check=True)
"""
    try:
        done = subprocess.run([sys.executable, "-c", starts], stdout=subprocess.PIPE, stderr=terminal, timeout=120)
        assert done.stdout.decode().splitlines() == ["read refused", "open refused", "type refused"]
        heard = b""
        while b"heard" not in heard:  # a terminal passes on in pieces, when it comes to it
            assert select.select([keyboard], [], [], 60)[0], heard
            heard += os.read(keyboard, 4096)
    finally:
        os.close(keyboard)
        os.close(terminal)
