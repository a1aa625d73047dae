"""What hostile code tries from inside, in the cell that hosted servers get: each line of the list "seen to hold"."""

import asyncio
import json
import os
import pathlib
import platform
import shutil
import socket
from typing import Any, Final

import msgspec
import pytest

from smcp.sandbox import launch, spawn, syscalls, walls
from support import cell, processes

pytestmark = pytest.mark.real

_AS_ROOT: Final = os.geteuid() == 0
_MIB: Final = 1_048_576
_GROUPS: Final = {walls.MEMORY, walls.PIDS, walls.CPU} <= cell.host().layers
_NEEDS_GROUPS: Final = pytest.mark.skipif(not _GROUPS, reason="this machine has no control groups for this user")
# name: arguments. Refused by name, whatever they are given; here with what would work for who may.
_CALLS: Final = {
    "ptrace": (0, 0, 0, 0),
    "mount": (0, 0, 0, 0, 0),
    "umount2": (0, 0),
    "pivot_root": (0, 0),
    "chroot": (0,),
    "unshare": (0x10000000,),
    "setns": (0, 0),
    "bpf": (0, 0, 0),
    "perf_event_open": (0, 0, 0, 0, 0),
    "io_uring_setup": (8, 0),
    "io_uring_enter": (0, 0, 0, 0, 0),
    "io_uring_register": (0, 0, 0, 0),
    "keyctl": (0, -3, 1),
    "add_key": (0, 0, 0, 0, 0),
    "request_key": (0, 0, 0, 0),
    "process_vm_readv": (1, 0, 0, 0, 0, 0),
    "process_vm_writev": (1, 0, 0, 0, 0, 0),
    "process_madvise": (1, 0, 0, 0, 0),
    "pidfd_getfd": (0, 0, 0),
    "kcmp": (1, 1, 0, 0, 0),
    "personality": (0x0040000,),  # ADDR_NO_RANDOMIZE
    "userfaultfd": (0,),
    "open_by_handle_at": (0, 0, 0),
    "name_to_handle_at": (0, 0, 0, 0, 0),
    "fsopen": (0, 0),
    "fsmount": (0, 0, 0),
    "open_tree": (-100, 0, 1),
    "move_mount": (0, 0, 0, 0, 0),
    "mount_setattr": (0, 0, 0, 0, 0),
    "init_module": (0, 0, 0),
    "finit_module": (0, 0, 0),
    "delete_module": (0, 0),
    "kexec_load": (0, 0, 0, 0),
    "reboot": (0, 0, 0, 0),
    "swapon": (0, 0),
    "syslog": (2, 0, 0),
    "quotactl": (0, 0, 0, 0),
    "settimeofday": (0, 0),
    "clock_settime": (0, 0),
    "sethostname": (0, 0),
    "fanotify_init": (0, 0),
    "move_pages": (0, 0, 0, 0, 0, 0),
    "vmsplice": (0, 0, 0, 0),
    "seccomp": (0, 0, 0),
}


async def _running(launcher: launch.Launcher, inside: walls.Cell) -> tuple[asyncio.Task[spawn.Outcome], asyncio.Event]:
    """`inside`, running in the background; the event is its first line."""
    began = asyncio.Event()
    task = asyncio.create_task(spawn.run(inside, launcher, timeout_s=600, on_line=lambda _: began.set()))
    async with asyncio.timeout(60):
        waiting = asyncio.create_task(began.wait())
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
    return task, began


async def _end(task: "asyncio.Task[spawn.Outcome]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# --- what it takes ---


@_NEEDS_GROUPS
@pytest.mark.requirement("sandbox:hostile:resources")
async def test_a_fork_bomb_ends_at_its_limit_and_other_cells_go_on(tmp_path: pathlib.Path) -> None:
    bomb = """
    import os, threading
    print("lit", flush=True)
    while True:
        try:
            os.fork()
        except OSError:
            pass
    """
    async with cell.standing(fixed=[tmp_path]) as (launcher, house):
        inside = msgspec.structs.replace(cell.python(tmp_path, bomb), processes=40, cpus=0.5)
        task, _ = await _running(launcher, inside)
        other = cell.python(
            tmp_path, "import subprocess; print(subprocess.run('true').returncode == 0)", tenant="globex"
        )
        for _ in range(3):
            assert (await spawn.run(other, launcher, timeout_s=60)).tail[-1] == "True"
        count = 0
        async with asyncio.timeout(60):
            while count <= 10:
                await asyncio.sleep(0.05)  # it tells nobody when it has grown
                count = len(processes.naming('print("lit"')) - 2  # bubblewrap's two show their command, too
            await _end(task)
        assert count <= 40
        assert processes.naming(f"smcp-cell:{house.platform}") | processes.naming('print("lit"') == set()


@_NEEDS_GROUPS
@pytest.mark.requirement("sandbox:hostile:resources")
@pytest.mark.parametrize(
    "hog",
    [
        # Many processes, each below its own limit; then files in /tmp and /dev/shm, and a little memory.
        "[os.fork() for _ in range(4)]\nkept = []\nwhile True: kept.append(os.urandom(1 << 18))",
        "kept = [open(f'/tmp/{n}', 'wb', 0) for n in range(4)]\n"
        "try:\n  while True: kept[0].write(bytes(1 << 18))\nexcept OSError: pass\n"
        "more = []\nwhile True: more.append(os.urandom(1 << 18))",
        "import mmap\nkept = mmap.mmap(-1, 1 << 30)\nfor n in range(0, 1 << 30, 4096): kept[n] = 1",
    ],
    ids=["processes", "files", "shared"],
)
async def test_what_takes_more_memory_than_its_cap_dies_and_tmp_counts(tmp_path: pathlib.Path, hog: str) -> None:
    async with cell.launched(fixed=[tmp_path]) as launcher:
        small = {"memory_bytes": 64 * _MIB, "tmp_bytes": 48 * _MIB, "file_bytes": 48 * _MIB}
        inside = msgspec.structs.replace(cell.python(tmp_path, f"import os\n{hog}"), **small)
        other, _ = await _running(
            launcher, cell.python(tmp_path, "import time; print('up', flush=True); time.sleep(600)", tenant="globex")
        )
        outcome = await spawn.run(inside, launcher, timeout_s=cell.WAIT_S)
        # RLIMIT_DATA may be what stops one process first (MemoryError); shared pages only the cgroup counts.
        assert outcome.code != 0
        assert outcome.out_of_memory or "MemoryError" in outcome.tail[-1], outcome
        assert not other.done()
        await _end(other)


@_NEEDS_GROUPS
@pytest.mark.requirement("sandbox:hostile:resources")
async def test_processor_time_is_held_at_its_quota(tmp_path: pathlib.Path) -> None:
    spin = """
    import json, os, time
    began, before = time.monotonic(), sum(os.times()[:4])
    children = [pid for pid in (os.fork(),) if pid]
    while time.monotonic() - began < 2: pass
    for pid in children: os.waitpid(pid, 0)
    if children:
        print(json.dumps([sum(os.times()[:4]) - before, time.monotonic() - began]))
    """
    async with cell.launched(fixed=[tmp_path]) as launcher:
        seen: list[tuple[float, float]] = []
        # A machine that is held up itself may charge that to who runs; who has no quota takes much more each time.
        while not seen or not seen[-1][0] < 0.25 * seen[-1][1] + 0.15:
            assert len(seen) < 5, seen
            seen.append(await cell.asked(launcher, msgspec.structs.replace(cell.python(tmp_path, spin), cpus=0.25)))


@pytest.mark.requirement("sandbox:hostile:resources")
async def test_signals_to_everybody_reach_only_its_own(tmp_path: pathlib.Path) -> None:
    async with cell.launched(fixed=[tmp_path]) as launcher:
        other, _ = await _running(
            launcher, cell.python(tmp_path, "import time; print('up', flush=True); time.sleep(600)")
        )
        murder = cell.python(
            tmp_path,
            "import os\nfor n in (1, *range(3, 70000)):\n  try: os.kill(n, 9)\n"
            "  except OSError: pass\nos.kill(-1, 9)\nprint('alive')",
        )
        await spawn.run(murder, launcher, timeout_s=cell.WAIT_S)
        assert not other.done()
        await _end(other)


# --- what it calls ---


@pytest.mark.requirement("sandbox:hostile:calls")
async def test_calls_that_lead_out_are_refused(tmp_path: pathlib.Path) -> None:
    table = syscalls.numbers(platform.machine())
    calls = {name: [table[name], *arguments] for name, arguments in _CALLS.items() if name in table}
    assert len(calls) > 40
    found = await cell.ask(
        tmp_path,
        f"""
        import ctypes, errno, json
        libc = ctypes.CDLL(None, use_errno=True)
        def tried(number, *arguments):
            ctypes.set_errno(0)
            result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(word) for word in arguments))
            return [result, errno.errorcode.get(ctypes.get_errno())]
        calls = json.loads({json.dumps(json.dumps(calls))})
        print(json.dumps({{name: tried(*words) for name, words in calls.items()}}))
        """,
    )
    assert {name: answer for name, answer in found.items() if answer not in ([-1, "EPERM"], [-1, "ENOSYS"])} == {}
    for name in ("ptrace", "mount", "unshare", "bpf", "io_uring_setup", "keyctl", "process_vm_readv", "personality"):
        assert found[name] == [-1, "EPERM"], name
    assert found["userfaultfd"] == [-1, "EPERM"]


@pytest.mark.requirement("sandbox:hostile:calls")
async def test_no_new_user_namespace_by_any_way(tmp_path: pathlib.Path) -> None:
    found = await cell.ask(
        tmp_path,
        """
        import ctypes, json, os, subprocess
        libc = ctypes.CDLL(None, use_errno=True)
        NEWUSER = 0x10000000
        def forked(flags):
            clone = ctypes.c_long(56 if os.uname().machine == "x86_64" else 220)
            pid = libc.syscall(clone, ctypes.c_long(flags | 17), 0, 0, 0, 0)
            if pid == 0:
                os._exit(0)
            return pid
        tools = [["unshare", "-U", "true"], ["unshare", "-r", "true"], ["nsenter", "-t", "1", "-a", "true"]]
        tools = [tool for tool in tools if os.path.exists("/usr/bin/" + tool[0])]
        codes = [subprocess.run(tool, capture_output=True).returncode for tool in tools]
        print(json.dumps([forked(NEWUSER), ctypes.get_errno(), codes]))
        """,
    )
    assert found[0] == -1
    assert found[1] == 1  # EPERM
    assert 0 not in found[2]


@pytest.mark.requirement("sandbox:hostile:calls")
async def test_every_process_of_it_is_without_capability_filtered_and_gains_nothing(tmp_path: pathlib.Path) -> None:
    found = await cell.ask(
        tmp_path,
        """
        import json
        names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups")
        def status(pid):
            lines = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status").read().splitlines())
            return [lines[name].split() for name in names]
        print(json.dumps([status("self"), status(1)]))
        """,
    )
    for one in found:
        assert one[:5] == [["0" * 16]] * 5
        assert one[5] == ["1"]
        assert one[7:9] == [["65534"] * 4] * 2
        assert one[6] == ["2"]
        assert set(one[9]) <= {"65534"}


@pytest.mark.skipif(not _AS_ROOT, reason="only root can make a setuid file of root's")
@pytest.mark.requirement("sandbox:hostile:setuid")
async def test_a_setuid_file_gives_nothing(tmp_path: pathlib.Path) -> None:
    for name, mode in (("setuid", 0o4755), ("setgid", 0o2755)):
        shutil.copy("/usr/bin/cat", tmp_path / name)
        os.chmod(tmp_path / name, mode)
    os.chmod(tmp_path, 0o755)
    found = await cell.ask(
        tmp_path,
        """
        import json, subprocess
        def ids(program):
            said = subprocess.run([program, "/proc/self/status"], capture_output=True, text=True).stdout
            lines = dict(line.split(":", 1) for line in said.splitlines())
            return [lines[name].split() for name in ("Uid", "Gid", "CapEff", "CapPrm")]
        mounts = [line.split() for line in open("/proc/self/mountinfo").read().splitlines()]
        loose = [words[4] for words in mounts if "nosuid" not in words[5].split(",")]
        su = subprocess.run(["/usr/bin/su", "-c", "id", "root"], stdin=subprocess.DEVNULL, capture_output=True)
        print(json.dumps([ids("/app/setuid"), ids("/app/setgid"), loose, su.returncode]))
        """,
    )
    nobody = [["65534"] * 4, ["65534"] * 4, ["0" * 16], ["0" * 16]]
    assert found[:2] == [nobody, nobody]
    assert found[2] == []
    assert found[3] != 0


# --- what it sees and reaches ---


@pytest.mark.requirement("sandbox:hostile:neighbours")
async def test_another_tenants_processes_sockets_and_files_are_neither_seen_nor_reached(tmp_path: pathlib.Path) -> None:
    async with cell.launched(fixed=[tmp_path]) as launcher:
        await launcher.open_volume("globex", "memory", _MIB)
        neighbour = """
        import os, socket, time
        kept = []
        for address in ("\\0neighbour", "/tmp/neighbour"):
            one = socket.socket(socket.AF_UNIX); one.bind(address); one.listen(); kept.append(one)
        tcp = socket.create_server(("127.0.0.1", 8123)); kept.append(tcp)
        open("/dev/shm/neighbour", "w").write("canary"); open("/tmp/file", "w").write("canary")
        open("/data/neighbour", "w").write("canary")
        print("up", flush=True); time.sleep(600)
        """
        theirs = cell.python(tmp_path, neighbour, tenant="globex")
        theirs = msgspec.structs.replace(theirs, volume=walls.Volume("memory", "/data"), egress=(80,))
        task, _ = await _running(launcher, theirs)
        found = await cell.asked(
            launcher,
            cell.python(
                tmp_path,
                """
                import json, os, socket
                def connects(family, address):
                    try:
                        socket.socket(family).connect(address)
                        return True
                    except OSError:
                        return False
                print(json.dumps({
                    "reached": [connects(socket.AF_UNIX, "\\0neighbour"), connects(socket.AF_UNIX, "/tmp/neighbour"),
                        connects(socket.AF_INET, ("127.0.0.1", 8123))],
                    "sockets": open("/proc/net/unix").read().splitlines()[1:],
                    "seen": [os.listdir("/dev/shm"), os.listdir("/tmp"), os.path.exists("/data")],
                    "pids": sorted(int(n) for n in os.listdir("/proc") if n.isdigit()),
                }))
                """,
            ),
        )
        assert not task.done()
        assert found == {"reached": [False] * 3, "sockets": [], "seen": [[], [], False], "pids": [1, 2]}
        await _end(task)


@pytest.mark.skipif(not _AS_ROOT, reason="without root there is one uid")
@pytest.mark.requirement("sandbox:hostile:uids")
async def test_each_tenant_is_another_uid_of_the_host_and_none_is_root_or_the_platform(tmp_path: pathlib.Path) -> None:
    async with cell.standing(fixed=[tmp_path]) as (launcher, house):
        code = "import os, time\nos.fork()\nprint('up', flush=True)\ntime.sleep(600)"
        tasks = {
            tenant: await _running(launcher, cell.python(tmp_path, code, tenant=tenant))
            for tenant in ("acme", "globex", "initech")
        }
        again = await _running(launcher, cell.python(tmp_path, code, tenant="acme"))
        fetcher = await _running(launcher, cell.python(tmp_path, code, tenant=""))
        uids: dict[int, set[tuple[str, ...]]] = {}
        for one in processes.naming(f"smcp-cell:{house.platform}"):
            for process in processes.descendants(one.pid):
                ids = _ids(process.pid)
                uids.setdefault(int(ids[0]), set()).add(ids)
        # All four ids of a process are its tenant's; there are three tenants and the fetcher.
        assert all(set(ids) == {str(uid)} for uid, seen in uids.items() for ids in seen), uids
        first = house.uid_first
        assert set(uids) == {first + 1, first + 16, first + 17, first + 18}
        for task, _ in (*tasks.values(), again, fetcher):
            await _end(task)


def _ids(pid: int) -> tuple[str, ...]:
    """Every uid, gid and group of a process, as the host has them."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return (*lines["Uid"].split(), *lines["Gid"].split(), *lines["Groups"].split())


@pytest.mark.requirement("sandbox:hostile:platform")
async def test_the_launchers_socket_the_store_and_the_artefact_are_out_of_reach(tmp_path: pathlib.Path) -> None:
    (tmp_path / "code").write_text("print()")
    os.chmod(tmp_path, 0o777)
    async with cell.standing(fixed=[tmp_path]) as (launcher, house):
        data = os.path.dirname(house.work)
        found = await cell.asked(
            launcher,
            cell.python(
                tmp_path,
                f"""
                import json, os, socket, stat
                kinds = []
                for name in os.listdir("/proc/self/fd"):
                    try:
                        kinds.append(stat.S_ISSOCK(os.fstat(int(name)).st_mode))
                    except OSError:
                        pass
                def can(call, *arguments):
                    try:
                        call(*arguments)
                        return True
                    except OSError:
                        return False
                ways = ["/proc/1/root", "/proc/1/cwd", "/proc/self/root", "/proc/2/root", "/dev/fd/../../1/root"]
                print(json.dumps({{
                    "sockets": any(kinds),
                    "data": [os.path.exists(way + {data!r}) for way in ("", *ways)],
                    "shadow": [os.path.exists(way + "/etc/shadow") for way in ("", *ways)],
                    "seen": sorted({{name for way in ways if can(os.listdir, way) for name in os.listdir(way)}}
                        - set(os.listdir("/")) - set(os.listdir("/tmp"))),
                    "artefact": [can(open, "/app/new", "w"), can(open, "/app/code", "a"), can(os.unlink, "/app/code"),
                        can(os.rename, "/app/code", "/app/x"), can(os.chmod, "/app/code", 0o777),
                        can(os.utime, "/app/code"), can(os.link, "/app/code", "/tmp/x"), can(os.mkdir, "/app/d")],
                    "keys": open("/proc/keys").read() if can(open, "/proc/keys") else "",
                }}))
                """,
            ),
        )
    assert found["sockets"] is False
    assert not any(found["data"] + found["shadow"] + found["artefact"])
    assert found["seen"] == []
    assert found["keys"] == ""


@pytest.mark.requirement("sandbox:hostile:network")
@pytest.mark.parametrize("egress", [(), (80, 443)], ids=["no network", "egress"])
async def test_no_metadata_address_no_name_and_no_raw_socket(tmp_path: pathlib.Path, egress: tuple[int, ...]) -> None:
    # With egress the cell's network leads to the guard, who is not there: a connection stands, and is silent.
    async with cell.launched(fixed=[tmp_path]) as launcher:
        outcome = cell.python(
            tmp_path,
            """
            import json, socket
            def said(family, kind, address, data=b"GET / HTTP/1.0\\r\\n\\r\\n"):
                try:
                    with socket.socket(family, kind) as one:
                        one.settimeout(0.4)
                        one.connect(address)
                        one.send(data)
                        return bool(one.recv(1))
                except OSError:
                    return False
            T, U = socket.SOCK_STREAM, socket.SOCK_DGRAM
            four = ["169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "168.63.129.16", "10.0.0.1"]
            six = ["fd00:ec2::254", "fe80::1", "::ffff:169.254.169.254", "2606:4700::1111"]
            ways = [(kind, port) for kind in (T, U) for port in (53, 80)]
            answers = [said(socket.AF_INET, kind, (host, port)) for host in four for kind, port in ways]
            answers += [said(socket.AF_INET6, kind, (host, 80)) for host in six for kind in (T, U)]
            def made(*words):
                try:
                    socket.socket(*words).close()
                    return True
                except OSError:
                    return False
            families = [made(17, 3, 0), made(17, 2, 768), made(40, 1), made(38, 5), made(16, 3, 15), made(31, 3, 1),
                made(2, 3, 1), made(10, 3, 58), made(15, 3, 2), made(44, 3), made(29, 3, 1)]
            print(json.dumps([any(answers), families]))
            """,
        )
        found = await cell.asked(launcher, msgspec.structs.replace(outcome, egress=egress))
    assert found == [False, [False] * 11]


@pytest.mark.requirement("sandbox:hostile:devices")
async def test_only_harmless_devices_exist_and_none_is_made(tmp_path: pathlib.Path) -> None:
    found = await cell.ask(
        tmp_path,
        """
        import json, os, stat
        def made(path, kind):
            try:
                os.mknod(path, kind | 0o666, os.makedev(1, 1))
                return True
            except OSError:
                return False
        print(json.dumps({
            "names": sorted(os.listdir("/dev")), "made": [made("/tmp/a", stat.S_IFCHR), made("/tmp/b", stat.S_IFBLK)],
            "nodev": [line.split()[4] for line in open("/proc/self/mountinfo")
                if "nodev" not in line.split()[5].split(",") and not line.split()[4].startswith(("/dev/", "/proc/"))],
            "cgroup": open("/proc/self/cgroup").read().split("\\n")[:-1], "sys": os.path.exists("/sys"),
        }))
        """,
    )
    # A core file's device is bubblewrap's choice of bind or link.
    usual = "core fd full null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert set(found["names"]) <= set(usual.split())
    assert (found["made"], found["nodev"], found["sys"]) == ([False, False], [], False)
    assert all(line.endswith(":/") for line in found["cgroup"]), found["cgroup"]


@pytest.mark.requirement("sandbox:hostile:platform")
async def test_nothing_of_the_host_listens_within_reach(tmp_path: pathlib.Path) -> None:
    """Sockets with a path below what a cell sees, made before it starts, are no way to who listens there."""
    place = tmp_path / "app"
    place.mkdir(mode=0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0smcp-hostile-{os.getpid()}")
        listener.listen()
        found: Any = await cell.ask(
            place,
            f"""
            import json, os, socket
            reached = []
            for name in ["\\0smcp-hostile-{os.getpid()}", "/run/docker.sock", "/var/run/docker.sock",
                         "/run/dbus/system_bus_socket", "/run/systemd/private", "/tmp/.X11-unix/X0"]:
                try:
                    socket.socket(socket.AF_UNIX).connect(name)
                    reached.append(name)
                except OSError:
                    pass
            sockets = [p for p in ("/run", "/var", "/tmp/.X11-unix") if os.path.exists(p)]
            print(json.dumps([reached, sockets]))
            """,
        )
    assert found == [[], []]
