"""The filter in the kernel, put on by bubblewrap: what it refuses, and that real programs do not miss it."""

import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from typing import Any, Final

import pytest

from smcp.sandbox import seccomp, syscalls
from support import node

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

TIME: Final = "mcp-server-time==2026.10.19"
EVERYTHING: Final = "@modelcontextprotocol/server-everything@2026.8.31"
EPERM, ENXIO, ENOSYS = 1, 6, 38
SIGILL: Final = 4
PASSED: Final = (335, 336) if platform.machine() == "x86_64" else ()
"""uretprobe and uprobe: newer kernels put these into a traced program, and let them pass every filter
(`seccomp_uprobe_exception` in kernel/seccomp.c, seen on Linux 6.18). Made from elsewhere they do nothing."""
_LIMIT_S: Final = 120.0
_TIMEOUT_S: Final = 300.0

CALL: Final = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    ctypes.set_errno(0)
    given = [ctypes.c_ulong(one) for one in arguments]
    return ctypes.get_errno() if libc.syscall(ctypes.c_long(number), *given) == -1 else 0
"""
"""For programs inside: `call` makes a system call and returns its error number, or 0."""


def walls(argv: Sequence[str], *, filtered: bool, binds: Sequence[str] = ()) -> tuple[list[str], int]:
    """The command that runs `argv` in a sandbox with nothing but this filter to look at, and the filter's descriptor.

    Few walls on purpose: what these would refuse themselves shall not hide a hole in the filter.
    """
    with tempfile.TemporaryFile() as file:
        file.write(seccomp.program())
        file.seek(0)
        descriptor = os.dup(file.fileno())
    words = ["--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    words += ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    # A checkout may lie in what is covered.
    for place in (*binds, str(pathlib.Path(__file__).parents[3]), sys.prefix):
        words += ["--ro-bind", place, place]
    if filtered:
        words += ["--seccomp", str(descriptor)]
    bwrap = shutil.which("bwrap")
    assert bwrap is not None
    return [bwrap, *words, "--", *argv], descriptor


def run(argv: Sequence[str], given: Any = None, *, filtered: bool = True, binds: Sequence[str] = ()) -> Any:
    """What `argv` prints as JSON in its last line, inside. `given` reaches it on stdin."""
    command, descriptor = walls(argv, filtered=filtered, binds=binds)
    try:
        done = subprocess.run(
            command,
            input=json.dumps(given),
            capture_output=True,
            text=True,
            pass_fds=(descriptor,),
            timeout=_LIMIT_S,
            check=False,
        )
    finally:
        os.close(descriptor)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def python(code: str, given: Any = None, *, filtered: bool = True) -> Any:
    """What the Python program `code` prints as JSON in its last line, inside."""
    return run([sys.executable, "-c", CALL + textwrap.dedent(code)], given, filtered=filtered)


def errnos(calls: Sequence[Sequence[int]], *, filtered: bool = True) -> list[int]:
    """The error number of each call (its number, its arguments), made inside; 0 for success."""
    code = "print(json.dumps([call(*one) for one in json.load(sys.stdin)]))"
    return python(code, [list(one) for one in calls], filtered=filtered)


NUMBERS: Final = syscalls.numbers(platform.machine())


@pytest.mark.requirement("sandbox:seccomp:list")
def test_the_filter_is_on_in_every_process_and_stays() -> None:
    found = python(
        """
        import subprocess
        read = lambda text: [line.split()[1] for line in text.splitlines() if line.startswith("Seccomp:")]
        child = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
        print(json.dumps([*(read(open(f"/proc/{pid}/status").read()) for pid in (1, "self")), read(child)]))
        """
    )
    assert found == [["2"]] * 3


@pytest.mark.requirement("sandbox:seccomp:list")
@pytest.mark.parametrize("kind", ["zeros", "ones", "pointers", "garbage"])
def test_no_call_that_is_not_listed_reaches_the_kernel(kind: str) -> None:
    """Every number from 0 to 600, some beyond, and those of x32; if one got through, it would do what it does."""
    listed = syscalls.ALLOWED | syscalls.RULES.keys()
    free = {number for name, number in NUMBERS.items() if name in listed}
    x32 = [*range(0x40000000, 0x40000000 + 600), *free] if platform.machine() == "x86_64" else []
    beyond = [1000, 4095, 65535, 0x3FFFFFFF]
    numbers = [number for number in (*range(601), *beyond) if number not in (*free, *PASSED)]
    numbers += [number | 0x40000000 for number in x32]
    answers = python(
        """
        import random
        numbers, kind = json.load(sys.stdin)
        dice = random.Random(4711)
        room = ctypes.create_string_buffer(65536)
        make = {
            "zeros": lambda: 0,
            "ones": lambda: 2**64 - 1,
            "pointers": lambda: ctypes.addressof(room),
            "garbage": lambda: dice.choice((dice.getrandbits(64), dice.getrandbits(8), ctypes.addressof(room))),
        }[kind]
        print(json.dumps([call(number, *(make() for _ in range(6))) for number in numbers]))
        """,
        [numbers, kind],
    )
    missing = {NUMBERS[name] for name in syscalls.MISSING}
    last = max(NUMBERS.values())
    expected = [ENOSYS if n in missing or last < n < 0x40000000 else EPERM for n in numbers]
    wrong = {n: (a, e) for n, a, e in zip(numbers, answers, expected, strict=True) if a != e}
    assert wrong == {}
    assert len(numbers) > 300


@pytest.mark.requirement("sandbox:seccomp:list")
def test_what_the_kernel_exempts_from_every_filter_does_nothing() -> None:
    found = python(
        """
        ends = []
        for number in json.load(sys.stdin):
            pid = os.fork()
            if pid == 0:
                os._exit(call(number, 0, 0, 0, 0, 0, 0))
            ends.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        print(json.dumps(ends))
        """,
        PASSED,
    )
    # Older kernels have no exception: EPERM. Never 0: that would be a call that was made.
    assert set(found) <= {EPERM, ENXIO, -SIGILL}


@pytest.mark.requirement("sandbox:seccomp:list")
def test_without_the_filter_the_same_calls_are_made() -> None:
    """Otherwise the tests here would show what the other walls refuse, not what the filter does."""
    pid = os.getpid()
    calls = [
        (NUMBERS["unshare"], 0),
        (NUMBERS["personality"], 0x0040000),  # ADDR_NO_RANDOMIZE
        (NUMBERS["kcmp"], pid, pid, 0, 0, 0),
        (NUMBERS["ptrace"], 0),  # PTRACE_TRACEME
        (NUMBERS["socket"], 16, 3, 16),  # AF_NETLINK, SOCK_RAW, NETLINK_GENERIC
        (NUMBERS["clone3"], 0, 0),
    ]
    assert errnos(calls) == [EPERM, EPERM, EPERM, EPERM, EPERM, ENOSYS]
    assert not {EPERM, ENOSYS} & set(errnos(calls, filtered=False))


@pytest.mark.requirement("sandbox:seccomp:arguments")
def test_no_namespace_is_made_by_clone() -> None:
    flags = (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
    # The child's exit signal; a stack of 0 is the parent's, copied. None of these makes a child: EPERM comes first.
    calls = [(NUMBERS["clone"], flag | 17, 0, 0, 0, 0) for flag in flags]
    assert errnos([*calls, (NUMBERS["clone"], 1 << 40 | 17, 0, 0, 0, 0)]) == [EPERM] * 8


@pytest.mark.requirement("sandbox:seccomp:arguments")
def test_no_socket_of_another_family_is_made() -> None:
    families, kinds = range(1, 48), (1, 2, 3, 5)
    good = {(1, 1), (1, 2), (1, 5), (2, 1), (2, 2), (10, 1), (10, 2), (16, 2), (16, 3)}
    pairs = [(family, kind) for family in families for kind in kinds]
    found = errnos([(NUMBERS["socket"], family, kind, 0) for family, kind in pairs])
    for pair, answer in zip(pairs, found, strict=True):
        # A kernel without IPv6 says EAFNOSUPPORT: not the filter's answer.
        assert (answer != EPERM) == (pair in good), pair


@pytest.mark.requirement("sandbox:seccomp:arguments")
def test_no_input_is_put_into_a_terminal_and_no_device_is_made() -> None:
    found = python(
        """
        import errno, fcntl, termios
        def tried(what):
            try:
                what()
            except OSError as error:
                return errno.errorcode[error.errno]
            return "done"
        master, slave = os.openpty()
        print(json.dumps([
            tried(lambda: fcntl.ioctl(slave, termios.TIOCSTI, b"x")),
            tried(lambda: fcntl.ioctl(slave, termios.TIOCSETD, b"\\0\\0\\0\\0")),
            tried(lambda: fcntl.ioctl(slave, 0x541C, b"\\2")),
            tried(lambda: termios.tcgetattr(slave)),
            tried(lambda: os.mknod("/tmp/device", 0o020600, os.makedev(1, 3))),
            tried(lambda: os.mkfifo("/tmp/pipe")),
            [call(PERSONALITY, one) for one in (0xffffffff, 0, 0x40000, 0x400000, 8)],
        ]))
        """.replace("PERSONALITY", str(NUMBERS["personality"]))
    )
    assert found == ["EPERM", "EPERM", "EPERM", "done", "EPERM", "done", [0, 0, EPERM, EPERM, EPERM]]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only this processor has a second way into the kernel")
@pytest.mark.requirement("sandbox:seccomp:architecture")
def test_the_calls_of_i386_are_refused() -> None:
    code = """
        import mmap
        # mov eax, 20 (i386: getpid); int 0x80; ret
        room = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        room.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))
        enter = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(room)))
        print(json.dumps(enter()))
        """
    assert python(code) == -EPERM


@pytest.mark.requirement("sandbox:seccomp:servers")
def test_threads_processes_locks_and_names_work_in_python() -> None:
    found = python(
        """
        import asyncio, multiprocessing, pty, socket, sqlite3, subprocess, threading
        threads = [threading.Thread(target=lambda: None) for _ in range(8)]
        for one in threads: one.start()
        for one in threads: one.join()
        done = {"threads": 8}
        pid = os.fork()
        if pid == 0: os._exit(3)
        done["fork"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        done["vfork"] = subprocess.run(["true"], close_fds=False).returncode
        done["spawn"] = os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1]
        done["pipe"] = subprocess.run("echo a | cat", shell=True, capture_output=True, text=True).stdout
        async def child():
            made = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
            return (await made.communicate(b"b"))[0].decode()
        done["asyncio"] = asyncio.run(child())
        with multiprocessing.get_context("fork").Pool(2) as pool:
            done["pool"] = pool.map(abs, [-1, -2])
        pid, terminal = pty.fork()
        if pid == 0: os.execv("/bin/true", ["true"])
        done["terminal"] = os.waitpid(pid, 0)[1]
        with sqlite3.connect("/tmp/x.db") as one, sqlite3.connect("/tmp/x.db") as two:
            done["wal"] = one.execute("pragma journal_mode=wal").fetchone()[0]
            one.execute("create table t (x)"); one.execute("insert into t values (1)"); one.commit()
            done["rows"] = two.execute("select count(*) from t").fetchone()[0]
        done["names"] = [name for _, name in socket.if_nameindex()]
        done["localhost"] = socket.getaddrinfo("127.0.0.1", 80)[0][4][0]
        print(json.dumps(done))
        """
    )
    assert found == {
        "threads": 8,
        "fork": 3,
        "vfork": 0,
        "spawn": 0,
        "pipe": "a\n",
        "asyncio": "b",
        "pool": [1, 2],
        "terminal": 0,
        "wal": "wal",
        "rows": 1,
        "names": ["lo"],
        "localhost": "127.0.0.1",
    }


NODE: Final = """
const { Worker } = require('node:worker_threads'), fs = require('node:fs'), os = require('node:os');
const child = require('node:child_process'), net = require('node:net'), zlib = require('node:zlib');
const util = require('node:util');
(async () => {
  const done = {};
  done.worker = await new Promise((resolve, reject) => {
    const code = "require('node:worker_threads').parentPort.postMessage(6 * 7)";
    new Worker(code, { eval: true }).on('message', resolve).on('error', reject);
  });
  done.child = child.execSync('echo a | cat').toString();
  done.watch = await new Promise((resolve) => {
    const watcher = fs.watch('/tmp', (_, name) => { watcher.close(); resolve(name); });
    fs.writeFileSync('/tmp/seen', 'x');
  });
  done.copied = (await fs.promises.copyFile('/tmp/seen', '/tmp/copy'), fs.readFileSync('/tmp/copy', 'utf8'));
  done.socket = await new Promise((resolve) => {
    const server = net.createServer((end) => end.end('hi')).listen('/tmp/s', () =>
      net.connect('/tmp/s').on('data', (data) => { server.close(); resolve(data.toString()); }));
  });
  done.zlib = (await util.promisify(zlib.gzip)('x')).length > 0;
  done.pages = new WebAssembly.Memory({ initial: 1, maximum: 1000 }).grow(100);
  done.module = new WebAssembly.Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0])) instanceof WebAssembly.Module;
  done.interfaces = typeof os.networkInterfaces();
  console.log(JSON.stringify(done));
})();
"""


@pytest.mark.requirement("sandbox:seccomp:servers")
def test_threads_processes_watches_and_webassembly_work_in_node() -> None:
    assert run([str(node.program()), "-e", NODE], binds=[str(node.home())]) == {
        "worker": 42,
        "child": "a\n",
        "watch": "seen",
        "copied": "x",
        "socket": "hi",
        "zlib": True,
        "pages": 1,
        "module": True,
        "interfaces": "object",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the two servers, as the package sources have them."""
    place = tmp_path_factory.mktemp("servers")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--root-user-action=ignore"]
    npm = node.home() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    install = [node.program(), npm, "install", "--prefix", place, "--ignore-scripts", "--no-audit", "--no-fund"]
    environ = {**os.environ, "PATH": f"{node.program().parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    for command in ([*pip, "--only-binary=:all:", "--target", place / "python", TIME], [*install, EVERYTHING]):
        done = subprocess.run(
            command, capture_output=True, text=True, env=environ, timeout=_TIMEOUT_S, check=False, cwd=place
        )
        assert done.returncode == 0, done.stderr[-4000:]
    return place


def talk(argv: Sequence[str], place: pathlib.Path, tool: str, arguments: dict[str, object]) -> tuple[list[str], str]:
    """Names of the tools of a server that runs inside, and the text that `tool` answers."""
    command, descriptor = walls(argv, filtered=True, binds=[str(place), str(node.home())])
    opening = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    asked: list[tuple[str, Any]] = [
        ("initialize", opening),
        ("tools/list", {}),
        ("tools/call", {"name": tool, "arguments": arguments}),
    ]
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(place / "python"), "HOME": "/tmp"}
    answers: list[Any] = []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=(descriptor,), env=environ
    ) as process:
        os.close(descriptor)
        assert process.stdin is not None
        assert process.stdout is not None
        for number, (method, params) in enumerate(asked):
            message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            process.stdin.write(json.dumps(message) + "\n")
            if method == "initialize":
                process.stdin.write('{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')
            process.stdin.flush()
            answers.append(_answer(process.stdout, number))
        process.stdin.close()
        assert process.wait(_LIMIT_S) == 0
    assert answers[0]["protocolVersion"] == "2025-11-25"
    return [one["name"] for one in answers[1]["tools"]], answers[2]["content"][0]["text"]


def _answer(lines: Any, number: int) -> Any:
    for line in lines:
        message = json.loads(line)
        if message.get("id") == number and "result" in message:
            return message["result"]
    raise AssertionError("the server ended before it answered")


@pytest.mark.requirement("sandbox:seccomp:servers")
def test_a_python_server_of_the_index_answers(folder: pathlib.Path) -> None:
    argv = [sys.executable, "-m", "mcp_server_time", "--local-timezone", "UTC"]
    names, text = talk(argv, folder, "get_current_time", {"timezone": "Europe/Berlin"})
    assert names == ["get_current_time", "convert_time"]
    assert "Europe/Berlin" in text


@pytest.mark.requirement("sandbox:seccomp:servers")
def test_a_node_server_of_the_registry_answers(folder: pathlib.Path) -> None:
    script = folder / "node_modules" / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"
    names, text = talk([str(node.program()), str(script)], folder, "echo", {"message": "hello"})
    assert len(names) == 13
    assert "hello" in text
