"""The tier `gvisor`: the same promises behind another kernel; and where runsc is not there, a clear refusal."""

import asyncio
import errno
import functools
import json
import os
import pathlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx2
import msgspec
import pytest

from smcp.kernel import errors, settings
from smcp.sandbox import cells, gvisor, launch, node, probe, spawn, walls
from smcp.sandbox.egress import rules
from support import cell, netcell, processes, wheels, workshop
from support.platform import Platform

pytestmark = pytest.mark.real

_HERE: Final = bool(cell.host().runsc)
_KEEPER: Final = pathlib.Path(__file__).parents[2] / "fixtures" / "keeper.py"
_MANIFEST: Final = 'runtime = "gvisor"\n[secrets]\nAPI_KEY = "env"\nCERT = "file"\n[volume]\nsize = "1MiB"\n'
_REFUSED: Final = "This platform has no gVisor, which the manifest asks for"

_Test = Callable[..., Awaitable[None]]


def _or_refused(test: _Test) -> _Test:
    """`test` where gVisor is; elsewhere, that the launcher refuses such a cell, by a clear word."""
    if _HERE:
        return test

    @functools.wraps(test)
    async def refused(**fixtures: Any) -> None:
        async with cell.standing(fixed=list(fixtures.values())) as (launcher, _):
            await _refused(launcher)

    return refused


async def _refused(launcher: launch.Launcher) -> None:
    plain = msgspec.structs.replace(cell.python("/nowhere", "print(1)"), binds=())
    with pytest.raises(errors.SandboxMissing, match="no gVisor for hosted servers"):
        await spawn.run(gvisor.wider(plain), launcher, timeout_s=60)


def _inside(app: pathlib.Path, code: str, **changes: Any) -> walls.Cell:
    return gvisor.wider(msgspec.structs.replace(cell.python(app, code), **changes))


async def _ask(app: pathlib.Path, code: str, **changes: Any) -> Any:
    async with cell.launched(cell.LIMITS, [app]) as launcher:
        return await cell.asked(launcher, _inside(app, code, **changes))


async def _ended(app: pathlib.Path, code: str, **changes: Any) -> spawn.Outcome:
    async with cell.launched(cell.LIMITS, [app]) as launcher:
        return await spawn.run(msgspec.structs.replace(_inside(app, code), **changes), launcher, timeout_s=60)


# --- whether it is there ---


@pytest.mark.requirement("sandbox:gvisor:absent")
async def test_it_is_named_with_what_brings_it_and_is_used_only_where_it_works() -> None:
    found = probe.layers(settings.Sandbox())
    (layer,) = (one for one in found if one.name == walls.GVISOR)
    assert layer.present is _HERE
    assert layer.present or "apt-get install runsc" in layer.fix
    without = [one if one is not layer else layer._replace(present=False) for one in found]
    assert probe.host(settings.Sandbox(), without).runsc == ""
    with pytest.raises(errors.SandboxMissing, match="gvisor"):
        probe.host(settings.Sandbox(require=("user", "gvisor")), without)


@pytest.mark.requirement("sandbox:gvisor:absent")
async def test_a_launcher_without_it_refuses_such_a_cell() -> None:
    with cell.house() as plan:
        layers = plan.host.layers
        for host in (
            msgspec.structs.replace(plan.host, runsc=""),
            msgspec.structs.replace(plan.host, runsc="/usr/bin/true", layers=layers - {walls.MEMORY}),
        ):
            launcher = await launch.Launcher.start(msgspec.structs.replace(plan, host=host))
            try:
                await _refused(launcher)
            finally:
                await launcher.close()


@pytest.mark.requirement("sandbox:gvisor:absent")
async def test_a_manifest_that_asks_for_it_in_vain_is_refused_and_nothing_is_built(tmp_path: pathlib.Path) -> None:
    wheels.build_wheel(tmp_path, "hello", "1.0", {"hello.py": "def main(): print('hello')\n"}, {"hello": "hello:main"})
    async with workshop.opened(tmp_path / "shop", tmp_path) as shop:
        # Its builders know of no gVisor, whatever this machine has.
        operation = await shop.deploy("pypi:hello", manifest='runtime = "gvisor"')
        assert operation.state == "failed"
        assert (operation.error or "").startswith(_REFUSED)
        assert "'smcp doctor'" in (operation.error or "")
        assert operation.steps == ()
        assert await shop.versions.servers(workshop.ACME) == []


# --- the walls ---


@pytest.mark.requirement("sandbox:gvisor:kernel")
@_or_refused
async def test_what_answers_system_calls_is_not_this_machines_kernel(tmp_path: pathlib.Path) -> None:
    found = await _ask(
        tmp_path,
        """
        import json, os, subprocess
        log = subprocess.run(["/usr/bin/dmesg"], capture_output=True, text=True).stdout
        print(json.dumps([list(os.uname()), log, open("/proc/version").read()]))
        """,
    )
    assert "Starting gVisor" in found[1]
    assert found[0][1] == "sandbox"
    assert found[0][2:4] != [os.uname().release, os.uname().version]
    assert os.uname().release not in found[2]


@pytest.mark.requirement("sandbox:gvisor:walls")
@_or_refused
async def test_it_sees_and_reaches_what_any_cell_does(tmp_path: pathlib.Path) -> None:
    found = await _ask(
        tmp_path,
        """
        import json, os, socket, sysconfig
        def refused(path):
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
            except OSError:
                return True
        def reached(address):
            try:
                socket.create_connection((address, 80), 3)
                return True
            except OSError:
                return False
        status = dict(one.split(":\\t", 1) for one in open("/proc/self/status").read().splitlines() if ":\\t" in one)
        print(json.dumps({
            "root": os.listdir("/"), "keys": sorted(os.environ),
            "pids": [p for p in os.listdir("/proc") if p.isdigit()],
            "caps": sorted({status[f"Cap{one}"] for one in ("Inh", "Prm", "Eff", "Bnd")}),
            "refused": [refused(f"{place}/x") for place in ("", "/usr", "/app", "/etc", "/opt")],
            "reached": [reached(one) for one in ("169.254.169.254", "192.0.2.1")],
            "twice": os.environ["TWICE"], "site": os.listdir(sysconfig.get_path("purelib")),
        }))
        """,
        env=(*cells.base_env(cell.found().python), ("TWICE", "first"), ("TWICE", "${HOME}")),
    )
    assert set(found["root"]) <= {"app", "dev", "opt", "proc", "sys", "tmp", "usr", *walls.ROOT_LINKS}
    assert set(found["keys"]) - {"TWICE"} == {name for name, _ in cells.base_env(cell.found().python)}
    assert found["twice"] == "${HOME}"
    assert found["site"] == []
    assert len(found["pids"]) == 1
    assert found["caps"] == ["0000000000000000"]
    assert found["refused"] == [True] * 5
    assert found["reached"] == [False] * 2


@pytest.mark.requirement("sandbox:gvisor:walls")
@_or_refused
async def test_its_limits_bite(tmp_path: pathlib.Path) -> None:
    hog = "import os\nkept = []\nwhile True: kept.append(os.urandom(1 << 20))"
    outcome = await _ended(tmp_path, hog, memory_bytes=1 << 28)
    assert outcome.code != 0
    assert outcome.out_of_memory
    found = await _ask(
        tmp_path,
        """
        import errno, json, os
        def ended(what):
            try:
                what()
            except OSError as error:
                return error.errno
        def fill():
            for number in range(64):
                with open(f"/tmp/{number}", "wb") as file:
                    file.write(b"x" * 1_000_000)
        kept = []
        print(json.dumps([ended(fill), ended(lambda: [kept.append(os.open("/", 0)) for _ in range(1000)])]))
        """,
    )
    assert found == [errno.ENOSPC, errno.EMFILE]
    bomb = "import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(600)"
    # Its kernel is what runs out of threads, and its end is the end of all in it.
    assert (await _ended(tmp_path, bomb, processes=150)).code != 0


@pytest.mark.requirement("sandbox:gvisor:walls")
@_or_refused
async def test_the_processes_behind_it_have_the_tenants_uid_and_a_kill_leaves_none(tmp_path: pathlib.Path) -> None:
    code = """
    import os, time
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            break
    print("up", flush=True)
    time.sleep(600)
    """
    async with cell.standing(cell.LIMITS, [tmp_path]) as (launcher, house):
        for _ in range(3):
            read, write = os.pipe2(os.O_CLOEXEC)
            nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            try:
                child = await launcher.spawn(_inside(tmp_path, code), stdin=nothing, stdout=write, stderr=write)
            finally:
                os.close(nothing)
                os.close(write)
            heard = b""
            while heard.count(b"up") < 4:
                heard += await asyncio.to_thread(os.read, read, 100)
            family = processes.descendants(child.pid)
            assert len(family) >= 4
            if house.uid_first:
                owners = {os.stat(f"/proc/{one.pid}").st_uid for one in family}
                assert len(owners) == 1
                assert min(owners) > house.uid_first
            ours = os.readlink("/proc/self/ns/net")
            assert ours not in {os.readlink(f"/proc/{one.pid}/ns/net") for one in family}
            assert await child.freeze()
            await child.thaw()
            child.kill()
            assert await child.wait() in (137, -9)
            assert processes.alive(family) == set()
            os.close(read)
        assert processes.naming(f"smcp-cell:{house.platform}") == set()


@pytest.mark.requirement("sandbox:gvisor:walls")
@_or_refused
async def test_how_it_ended_is_told(tmp_path: pathlib.Path) -> None:
    assert (await _ended(tmp_path, "raise SystemExit(7)")).code == 7
    assert (await _ended(tmp_path, "import os; os.kill(os.getpid(), 9)")).code == 137
    outcome = await _ended(tmp_path, "", argv=("/nope",))
    assert outcome.code == 128
    assert "failed to load /nope: no such file" in outcome.tail[-1]


@pytest.mark.requirement("sandbox:gvisor:absent")
@_or_refused
async def test_builds_which_write_are_no_cells_for_it(tmp_path: pathlib.Path) -> None:
    async with cell.standing() as (launcher, house):
        made = pathlib.Path(house.work) / "build"
        made.mkdir()
        inside = _inside(tmp_path, "print(1)", binds=(walls.Bind(str(made), "/app", writable=True),))
        with pytest.raises(errors.SandboxMissing, match="its volume and its /tmp only"):
            await launcher.spawn(inside, stdin=0, stdout=1, stderr=2)


@pytest.mark.requirement("sandbox:gvisor:walls")
@_or_refused
async def test_attack_a_link_in_an_artefact_leads_no_mount_of_the_launchers_elsewhere(tmp_path: pathlib.Path) -> None:
    outside = tmp_path / "outside"
    (outside / "place").mkdir(parents=True)
    app = tmp_path / "app"
    app.mkdir()
    (app / "link").symlink_to(outside)
    async with cell.launched(cell.LIMITS, [app]) as launcher:
        for target in ("/app/link/place", "/app/link/made", "/app/made"):
            inside = _inside(app, "print(1)")
            inside = msgspec.structs.replace(inside, binds=(*inside.binds, walls.Bind(str(app), target)))
            with pytest.raises(errors.SandboxMissing):
                await launcher.spawn(inside, stdin=0, stdout=1, stderr=2)
    assert os.listdir(app) == ["link"]
    assert os.listdir(outside) == ["place"]


# --- what a server is given ---


@pytest.mark.requirement("sandbox:gvisor:given")
@_or_refused
async def test_a_volume_is_the_same_in_either_tier(tmp_path: pathlib.Path) -> None:
    volume = walls.Volume("notes", "/data")
    writes = "import json; open('/data/note', 'a').write('x'); print(json.dumps(open('/data/note').read()))"
    async with cell.launched(cell.LIMITS, [tmp_path]) as launcher:
        await launcher.open_volume(cell.TENANT, "notes", 1 << 20)
        plain = msgspec.structs.replace(cell.python(tmp_path, writes), volume=volume)
        assert await cell.asked(launcher, plain) == "x"
        assert await cell.asked(launcher, _inside(tmp_path, writes, volume=volume)) == "xx"
        assert await cell.asked(launcher, plain) == "xxx"
        sealed = walls.Volume("notes", "/data", writable=False)
        outcome = await spawn.run(_inside(tmp_path, writes, volume=sealed), launcher, timeout_s=cell.WAIT_S)
        assert "Read-only file system" in outcome.tail[-1]
        fills = "open('/data/much', 'wb').write(b'x' * 3_000_000)"
        outcome = await spawn.run(_inside(tmp_path, fills, volume=volume), launcher, timeout_s=cell.WAIT_S)
        assert "No space left" in outcome.tail[-1]
        await launcher.close_volume(cell.TENANT, "notes")


@pytest.mark.requirement("sandbox:gvisor:given")
@_or_refused
async def test_its_egress_ends_at_the_guard(tmp_path: pathlib.Path) -> None:
    code = """
    import json, socket, urllib.error, urllib.request
    def fetched(host, port):
        try:
            return urllib.request.urlopen(f"http://{host}:{port}/", timeout=60).read().decode()
        except (OSError, urllib.error.URLError) as error:
            return type(error).__name__
    print(json.dumps([fetched("allowed.example", PORT), fetched("other.example", PORT), fetched("127.0.0.1", PORT)]))
    """
    with netcell.website() as port:
        world = netcell.pinned("allowed.example", "other.example")
        parsed = rules.parsed((f"allowed.example:{port}",))
        inside = _inside(
            tmp_path, code.replace("PORT", str(port)), egress=rules.ports(parsed), files=netcell.egress.files()
        )
        async with cell.launched(cell.LIMITS, [tmp_path]) as launcher:
            outcome = await spawn.run(
                inside,
                launcher,
                timeout_s=cell.WAIT_S,
                answer=lambda sockets: world.egress.attach(sockets, parsed, world.lines.append),
            )
    assert outcome.code == 0, outcome
    allowed, *others = json.loads(outcome.tail[-1])
    assert allowed == "hello"
    assert "hello" not in others
    assert any("allowed.example" in line for line in world.lines)


@pytest.mark.requirement("sandbox:gvisor:given")
@_or_refused
async def test_node_runs_in_it(tmp_path: pathlib.Path) -> None:
    runs = node.current(os.environ)
    assert runs is not None, "there is no Node.js"
    code = "console.log(JSON.stringify([os.release(), process.version, await (await fetch('data:,x')).text()]))"
    argv = (runs.executable, "--input-type=module", "-e", f"import os from 'node:os'; {code}")
    limits = settings.Sandbox()
    inside = gvisor.wider(cells.hosted(limits, runs, cell.TENANT, str(tmp_path), argv))
    async with cell.launched(limits, [tmp_path]) as launcher:
        release, version, _ = await cell.asked(launcher, inside)
    assert release != os.uname().release
    assert version.startswith("v")


@pytest.mark.requirement("sandbox:gvisor:given", "sandbox:gvisor:absent")
def test_a_server_whose_manifest_asks_for_it_is_hosted_with_its_secrets_and_volume_or_clearly_refused(
    tmp_path: pathlib.Path,
) -> None:
    code = {"smcp_fixture_keeper.py": _KEEPER.read_text("utf-8")}
    entry = {"smcp-fixture-keeper": "smcp_fixture_keeper:main"}
    wheels.build_wheel(tmp_path, "smcp-fixture-keeper", "1.0.0", code, entry)
    (tmp_path / "ground").mkdir()
    with Platform(tmp_path / "ground", {"SMCP_DEPLOY_WHEEL_DIRS": str(tmp_path)}) as platform:
        platform.create_tenant("acme")
        key = platform.create_key("acme", "admin")
        for name, kind in (("API_KEY", "env"), ("CERT", "file")):
            platform.api("PUT", f"/tenants/acme/servers/keeper/secrets/{name}", {"value": f"the {kind}"}, key=key)
        if not _HERE:
            order = tmp_path / "smcp.toml"
            order.write_text(_MANIFEST)
            argv = ("deploy", "pypi:smcp-fixture-keeper", "--name", "keeper", "--manifest", str(order))
            done = platform.smcp(*argv, key=key, code=1)
            assert _REFUSED in json.dumps(done)
            return
        platform.deploy("acme", "pypi:smcp-fixture-keeper", "keeper", key, _MANIFEST)

        def told(what: str, about: str = "") -> Any:
            answer = httpx2.post(
                f"{platform.base_url}/api/v1/tenants/acme/servers/keeper/call",
                headers={"Authorization": f"Bearer {key}"},
                json={"tool": "tell", "arguments": {"what": what, "about": about}},
                timeout=60.0,
            )
            assert answer.is_success, answer.text
            return json.loads(answer.json()["content"][0]["text"])

        assert told("value", "API_KEY") == "the env"
        assert told("files") == {"CERT": ["the file", "0o400", True, False]}
        assert "runsc-sandbox" in {one.command.split("\0")[0].split(" ")[0] for one in platform.family()}
