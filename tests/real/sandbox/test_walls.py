"""What a hosted process can see, reach and take: asked from inside a real sandbox."""

import asyncio
import json
import os
import pathlib
import socket

import msgspec
import pytest

from smcp.kernel import settings
from smcp.sandbox import interpreter, spawn, walls
from support import cell, processes

pytestmark = pytest.mark.real

_HOME = os.path.expanduser("~")


@pytest.mark.requirement("sandbox:network:none")
async def test_no_network_is_reached_from_inside(tmp_path: pathlib.Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0smcp-test-{os.getpid()}")
    abstract.listen()
    try:
        found = await cell.ask(
            tmp_path,
            f"""
            import json, socket
            def tried(family, address):
                try:
                    socket.socket(family, socket.SOCK_STREAM).connect(address)
                except OSError as error:
                    return type(error).__name__
                return "connected"
            def resolves():
                try:
                    return bool(socket.getaddrinfo("example.com", 443))
                except OSError:
                    return False
            print(json.dumps([
                tried(socket.AF_INET, ("127.0.0.1", {listener.getsockname()[1]})),
                tried(socket.AF_INET, ("169.254.169.254", 80)),
                tried(socket.AF_UNIX, "\\0smcp-test-{os.getpid()}"),
                resolves(),
                [name for _, name in socket.if_nameindex()],
            ]))
            """,
        )
    finally:
        listener.close()
        abstract.close()
    assert "connected" not in found[:3]
    assert found[3:] == [False, ["lo"]]


@pytest.mark.requirement("sandbox:environment:clean")
async def test_the_hosts_environment_is_not_inside_not_even_of_the_first_process(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMCP_TEST_CANARY", "canary-4711")
    found = await cell.ask(
        tmp_path,
        """
        import json, os
        read = lambda path: open(path, "rb").read().decode()
        shown = [read(f"/proc/{name}") for name in ("1/environ", "self/environ", "1/cmdline")]
        print(json.dumps([sorted(os.environ), *shown]))
        """,
    )
    assert "canary" not in json.dumps(found).lower()
    assert {"PATH", "HOME", "TMPDIR", "LANG"} <= set(found[0])
    assert found[1] == ""
    # Options reach bwrap through a memory file: pid 1 shows no path of the host.
    assert str(tmp_path) not in found[3]


@pytest.mark.requirement("sandbox:files:read-only", "sandbox:kernel:settings")
async def test_nothing_can_be_written_but_tmp_and_shared_memory(tmp_path: pathlib.Path) -> None:
    before = _core_pattern()
    found = await cell.ask(
        tmp_path,
        """
        import json, os
        def can(path):
            try:
                # Opened without truncation and nothing written: a failing test must not change the machine.
                os.close(os.open(path, os.O_WRONLY | (0 if os.path.exists(path) else os.O_CREAT)))
                return True
            except OSError:
                return False
        kernel = [os.path.join(top, name) for top, _, names in os.walk("/proc/sys") for name in names]
        kernel += [f"/proc/{name}" for name in os.listdir("/proc") if os.path.isfile(f"/proc/{name}")]
        print(json.dumps({
            "writable": [path for path in ("/x", "/usr/x", "/usr/bin/env", "/etc/x", "/dev/x", "/app/x", "/opt/x",
                "/opt/python/x", "/bin/x", "/tmp/x", "/dev/shm/x", "/proc/x") if can(path)],
            "kernel": [path for path in kernel if can(path)],
        }))
        """,
    )
    assert found == {"writable": ["/tmp/x", "/dev/shm/x"], "kernel": []}
    assert _core_pattern() == before


@pytest.mark.requirement("sandbox:files:absent")
async def test_files_of_the_host_are_not_inside(tmp_path: pathlib.Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary")
    app = tmp_path / "app"
    app.mkdir()
    found = await cell.ask(
        app,
        f"""
        import json, os
        print(json.dumps([
            sorted(os.listdir("/")),
            [p for p in ("/etc/shadow", "/etc/passwd", "/root", "/home", "/run", "/var", "/sys", "/boot", "/mnt",
                {str(secret)!r}, {_HOME!r}) if os.path.exists(p)],
        ]))
        """,
    )
    assert found[1] == []
    assert set(found[0]) <= {
        "app",
        "bin",
        "dev",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "opt",
        "proc",
        "sbin",
        "tmp",
        "usr",
    }


@pytest.mark.requirement("sandbox:files:tmp-size")
async def test_tmp_is_empty_private_and_of_a_fixed_size(tmp_path: pathlib.Path) -> None:
    found = await cell.ask(
        tmp_path,
        """
        import json, os
        def fill(directory):
            total = 0
            try:
                for number in range(64):
                    with open(f"{directory}/{number}", "wb") as file:
                        for _ in range(16):
                            total += file.write(b"x" * 65536)
                            file.flush()
            except OSError as error:
                return total, error.errno
            return total, 0
        print(json.dumps([os.listdir("/tmp"), fill("/tmp"), fill("/dev/shm")]))
        """,
    )
    names, (tmp, tmp_error), (shared, shared_error) = found
    assert names == []
    assert (tmp_error, shared_error) == (28, 28)  # ENOSPC
    assert tmp <= cell.LIMITS.tmp_bytes
    assert shared <= cell.LIMITS.tmp_bytes


@pytest.mark.requirement("sandbox:processes:invisible")
async def test_processes_of_the_host_are_invisible_and_out_of_reach(tmp_path: pathlib.Path) -> None:
    found = await cell.ask(
        tmp_path,
        f"""
        import json, os, socket
        try:
            os.kill({os.getpid()}, 0)
            reached = True
        except ProcessLookupError:
            reached = {os.getpid()} in (1, os.getpid())
        print(json.dumps([sorted(int(n) for n in os.listdir("/proc") if n.isdigit()), reached, socket.gethostname()]))
        """,
    )
    assert found[0] == [1, 2]
    assert found[1] is False
    assert found[2] == "sandbox"


@pytest.mark.requirement("sandbox:identity:nothing")
async def test_no_capability_no_privilege_and_no_way_to_a_new_user_namespace(tmp_path: pathlib.Path) -> None:
    found = await cell.ask(
        tmp_path,
        """
        import ctypes, json, os
        status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
        libc = ctypes.CDLL(None, use_errno=True)
        CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000
        def tried(call, *args):
            return [call(*args) == 0, ctypes.get_errno()]
        print(json.dumps({
            "caps": [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
            "nnp": status["NoNewPrivs"], "ids": [os.getuid(), os.geteuid(), os.getgid(), os.getegid()],
            "userns": tried(libc.unshare, CLONE_NEWUSER)[0], "mountns": tried(libc.unshare, CLONE_NEWNS)[0],
            "mount": tried(libc.mount, b"none", b"/tmp", b"tmpfs", 0, None)[0],
            "setuid": tried(libc.setuid, 0)[0], "chroot": tried(libc.chroot, b"/tmp")[0],
        }))
        """,
    )
    assert set(found["caps"]) == {"0" * 16}
    assert found["nnp"] == "1"
    assert found["ids"] == [65534] * 4
    assert not any(found[name] for name in ("userns", "mountns", "mount", "setuid", "chroot"))


@pytest.mark.requirement("sandbox:limits:bite")
async def test_memory_files_and_core_limits_bite(tmp_path: pathlib.Path) -> None:
    small = settings.Sandbox(tmp_bytes=4_194_304, memory_bytes=134_217_728, open_files=32)
    found = await cell.ask(
        tmp_path,
        """
        import json, os, resource
        try:
            kept = bytearray(200_000_000)
            memory = False
        except MemoryError:
            memory = True
        opened = []
        try:
            while True:
                opened.append(os.open("/dev/null", os.O_RDONLY))
        except OSError as error:
            files = error.errno
        limit = lambda name: resource.getrlimit(getattr(resource, name))
        for descriptor in opened:
            os.close(descriptor)
        limits = [limit(name) for name in ("RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE")]
        print(json.dumps([memory, files, len(opened), *limits]))
        """,
        small,
    )
    assert found[:2] == [True, 24]  # EMFILE
    assert found[2] < 32
    assert found[3:] == [[0, 0], [small.tmp_bytes] * 2, [65536] * 2, [0, 0]]


@pytest.mark.requirement("sandbox:descriptors:none")
async def test_no_open_file_of_the_host_is_inherited(tmp_path: pathlib.Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary")
    with secret.open() as file:
        os.set_inheritable(file.fileno(), True)
        found = await cell.ask(
            tmp_path,
            """
            import json, os
            names = [f"/proc/self/fd/{number}" for number in range(64)]
            print(json.dumps([os.readlink(name) for name in names if os.path.islink(name)]))
            """,
        )
    assert len(found) == 3, found


@pytest.mark.timeout(400)
@pytest.mark.requirement("sandbox:death:whole")
@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_everything_inside_dies_with_the_sandbox(tmp_path: pathlib.Path, how: str) -> None:
    mark = f"smcp-{os.getpid()}-{how}"
    inside = msgspec.structs.replace(
        cell.python(
            tmp_path,
            """
            import os, signal, sys, time
            for _ in range(3):
                if os.fork() == 0:
                    os.setsid()
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    time.sleep(600)
            print("running", flush=True)
            time.sleep(600)
            """,
        ),
        env=(("PATH", "/usr/bin"), ("MARK", mark), *interpreter.current().env),
    )
    async with cell.launched(fixed=[tmp_path]) as launcher:
        # How long a start takes is the machine's affair: a time that ends a cell before it stood shows nothing.
        for timeout_s in (2.0, 8.0, 32.0, 128.0) if how == "timeout" else (600.0,):
            running = asyncio.Event()
            task = asyncio.create_task(
                spawn.run(inside, launcher, timeout_s=timeout_s, on_line=lambda _, up=running: up.set())
            )
            waiting = asyncio.create_task(running.wait())
            await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            seen = _marked(mark)
            if how == "cancel":
                task.cancel()
            with pytest.raises((TimeoutError, asyncio.CancelledError)):
                await task
            assert _marked(mark) == 0
            if seen >= 4:
                break
        else:
            raise AssertionError("it never stood")


@pytest.mark.requirement("sandbox:death:whole")
async def test_a_cancel_at_any_moment_of_the_start_leaves_nothing(tmp_path: pathlib.Path) -> None:
    mark = f"smcp-{os.getpid()}-start"
    inside = msgspec.structs.replace(
        cell.python(tmp_path, "import time; time.sleep(600)"), env=(("MARK", mark), *interpreter.current().env)
    )
    async with cell.standing(fixed=[tmp_path]) as (launcher, house):
        # Every quarter of a millisecond of the first 16: in some of them bwrap's child does not yet die with bwrap.
        for step in range(64):
            task = asyncio.create_task(spawn.run(inside, launcher, timeout_s=60))
            await asyncio.sleep(step / 4000)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                async with asyncio.timeout(60):
                    await task
        assert _marked(mark) == 0
        assert processes.naming(f"smcp-cell:{house.platform}") == set()


@pytest.mark.requirement("sandbox:death:whole")
async def test_everything_inside_dies_with_the_platform(tmp_path: pathlib.Path) -> None:
    inside = cell.python(tmp_path, "import time; print('running', flush=True); time.sleep(600)")
    command = walls.command(inside, cell.host())
    # A parent that starts the sandbox and is then killed, as the platform may be.
    parent = await asyncio.create_subprocess_exec(
        "/usr/bin/python3",
        "-c",
        "import subprocess, sys; subprocess.Popen(sys.argv[1:], env={}, stdin=subprocess.DEVNULL).wait()",
        *command,
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    async with asyncio.timeout(60):
        assert await parent.stdout.readline() == b"running\n"
        parent.kill()
        await parent.wait()
        # The pipe ends when the last process that holds it is gone.
        assert await parent.stdout.read() == b""


@pytest.mark.requirement("sandbox:output:bounded")
async def test_endless_output_neither_grows_nor_blocks(tmp_path: pathlib.Path) -> None:
    heard: list[int] = []
    async with cell.launched(fixed=[tmp_path]) as launcher:
        outcome = await spawn.run(
            cell.python(tmp_path, "import sys\nfor _ in range(300): sys.stdout.write('y' * 65536)\nprint()\n"),
            launcher,
            timeout_s=cell.WAIT_S,
            on_line=lambda line: heard.append(len(line)),
        )
    assert outcome.code == 0
    assert len(outcome.tail) <= 40
    assert sum(heard) <= 2_100_000
    assert max(heard) <= 2000


def _core_pattern() -> str:
    return pathlib.Path("/proc/sys/kernel/core_pattern").read_text()


def _marked(mark: str) -> int:
    """Processes of this machine that have `mark` in their environment."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                count += mark.encode() in pathlib.Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
    return count
