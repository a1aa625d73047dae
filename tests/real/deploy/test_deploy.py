"""Deployments from wheels, through real sandboxes and a real store."""

import asyncio
import json
import pathlib
import zipfile
from collections.abc import AsyncGenerator

import msgspec
import pytest

from smcp.audit import events
from smcp.deploy import versions
from smcp.kernel import errors, ids
from support import wheels, workshop

pytestmark = pytest.mark.real

_MAIN = """
import json, os, sys
def main():
    seen = {"version": VERSION, "argv": sys.argv[1:], "env": dict(os.environ), "app": sorted(os.listdir("/app"))}
    print(json.dumps(seen))
"""


def _hello(directory: pathlib.Path, version: str = "1.0", **more: object) -> pathlib.Path:
    code = f"VERSION = {version!r}\n{_MAIN}"
    return wheels.build_wheel(directory, "hello-mcp", version, {"hello.py": code}, {"hello-mcp": "hello:main"}, **more)  # pyright: ignore[reportArgumentType] - passed through


@pytest.fixture
def shelf(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory of wheels with one package."""
    _hello(tmp_path / "wheels")
    return tmp_path / "wheels"


@pytest.fixture
async def shop(tmp_path: pathlib.Path, shelf: pathlib.Path) -> AsyncGenerator[workshop.Workshop]:
    async with workshop.opened(tmp_path / "data", shelf) as opened:
        yield opened


@pytest.mark.requirement("deploy:deploy:wheel-dirs", "deploy:deploy:steps")
async def test_a_wheel_becomes_a_live_server(shop: workshop.Workshop) -> None:
    done = await shop.deploy("pypi:hello-mcp", "hello")
    assert done.error is None
    server, made = await shop.versions.live(workshop.ACME, "hello")
    assert (server.live, server.number, server.desired) == (done.deployment, 1, "running")
    assert made.source == "pypi:hello-mcp==1.0"
    assert made.argv == ("/app/venv/bin/hello-mcp",)
    assert [(one.name, one.version) for one in made.lock] == [("hello-mcp", "1.0")]
    assert json.loads((await shop.run(made)).tail[-1])["app"] == ["venv"]
    stages = [step.stage for step in done.steps]
    assert [stage for place, stage in enumerate(stages) if stage not in stages[:place]] == [
        "resolve", "download", "build", "store", "probe", "live",
    ]  # fmt: skip
    assert [type(event) for event in shop.events] == [events.DeploySucceeded]
    assert shop.leftovers() == []


@pytest.mark.requirement("deploy:artefact:reproducible")
async def test_the_same_wheels_give_the_same_digest_in_another_place(
    tmp_path: pathlib.Path, shelf: pathlib.Path, shop: workshop.Workshop
) -> None:
    await shop.deploy("pypi:hello-mcp", "one")
    await shop.deploy("pypi:hello-mcp", "two")
    async with workshop.opened(tmp_path / "elsewhere", shelf) as other:
        await other.deploy("pypi:hello-mcp", "one")
        digests = {
            (await place.versions.live(workshop.ACME, name))[1].digest
            for place, name in ((shop, "one"), (shop, "two"), (other, "one"))
        }
    assert len(digests) == 1


@pytest.mark.requirement("deploy:manifest:literal")
async def test_a_manifests_text_reaches_the_server_literally(shop: workshop.Workshop) -> None:
    manifest = """
    args = ["--flag", "${HOME}", "$(id)", "; true"]
    [env]
    GREETING = "${PATH} and `id`"
    """
    assert (await shop.deploy("pypi:hello-mcp", "hello", manifest)).error is None
    _, made = await shop.versions.live(workshop.ACME, "hello")
    seen = json.loads((await shop.run(made)).tail[-1])
    assert seen["argv"] == ["--flag", "${HOME}", "$(id)", "; true"]
    assert seen["env"]["GREETING"] == "${PATH} and `id`"


@pytest.mark.requirement("deploy:live:rollback")
async def test_a_rollback_moves_the_pointer_back_and_forth(shop: workshop.Workshop, shelf: pathlib.Path) -> None:
    first = await shop.deploy("pypi:hello-mcp", "hello")
    _hello(shelf, "2.0")
    second = await shop.deploy("pypi:hello-mcp", "hello")
    assert (await shop.versions.live(workshop.ACME, "hello"))[1].source == "pypi:hello-mcp==2.0"
    assert (await shop.versions.rollback(workshop.ACME, "hello")).live == first.deployment
    server, made = await shop.versions.live(workshop.ACME, "hello")
    assert json.loads((await shop.run(made)).tail[-1])["version"] == "1.0"
    with pytest.raises(errors.Conflict):
        await shop.versions.rollback(workshop.ACME, "hello")
    assert (await shop.versions.rollback(workshop.ACME, "hello", second.deployment)).live == second.deployment
    with pytest.raises(errors.NotFound):
        await shop.versions.rollback(workshop.ACME, "hello", "dep-00000000000000000000000000")
    assert [one.number for one in await shop.versions.deployments(workshop.ACME, server.name)] == [1, 2]


@pytest.mark.requirement("deploy:live:unchanged")
async def test_a_deployment_that_does_not_start_changes_nothing(shop: workshop.Workshop, shelf: pathlib.Path) -> None:
    good = await shop.deploy("pypi:hello-mcp", "hello")
    before = await shop.store.tenant(workshop.ACME).objects.list(("artefact",))
    wheels.build_wheel(
        shelf, "hello-mcp", "3.0", {"hello.py": "raise SystemExit('broken')"}, {"hello-mcp": "hello:main"}
    )
    bad = await shop.deploy("pypi:hello-mcp", "hello")
    assert bad.state == "failed"
    assert "broken" in (bad.error or "")
    assert (await shop.versions.server(workshop.ACME, "hello")).live == good.deployment
    assert await shop.store.tenant(workshop.ACME).objects.list(("artefact",)) == before
    assert shop.leftovers() == []
    assert isinstance(shop.events[-1], events.DeployFailed)


@pytest.mark.requirement("deploy:live:unchanged")
async def test_a_first_deployment_that_fails_leaves_no_server(shop: workshop.Workshop) -> None:
    bad = await shop.deploy("pypi:no-such-package", "ghost")
    assert bad.state == "failed"
    assert await shop.versions.servers(workshop.ACME) == []
    with pytest.raises(errors.NotFound):
        await shop.versions.server(workshop.ACME, "ghost")


@pytest.mark.requirement("deploy:deploy:suspended")
async def test_a_suspended_tenants_deployment_ends_says_so_and_leaves_nothing(
    shop: workshop.Workshop, shelf: pathlib.Path
) -> None:
    operation = await shop.deployer.submit("key-x", workshop.ACME, "pypi:hello-mcp", "hello", None)
    while not (await shop.deployer.operation(workshop.ACME, operation.id)).steps:  # noqa: ASYNC110 - progress has no event
        await asyncio.sleep(0.01)
    await shop.deployer.stop_tenant(ids.TenantId("globex"))
    assert (await shop.deployer.operation(workshop.ACME, operation.id)).state == "running"
    await shop.deployer.stop_tenant(workshop.ACME)
    ended = await shop.deployer.operation(workshop.ACME, operation.id)
    assert (ended.state, "suspended" in (ended.error or "")) == ("failed", True)
    assert [type(event) for event in shop.events] == [events.DeployFailed]
    assert shop.leftovers() == []
    # The next one, when it is resumed, knows nothing of it.
    assert (await shop.deploy("pypi:hello-mcp", "hello")).error is None


@pytest.mark.requirement("deploy:deploy:killed")
async def test_a_deployment_that_is_cut_off_leaves_nothing(shop: workshop.Workshop, shelf: pathlib.Path) -> None:
    wheels.build_wheel(
        shelf, "hello-mcp", "4.0", {"hello.py": "import time; time.sleep(600)"}, {"hello-mcp": "hello:main"}
    )
    operation = await shop.deployer.submit("key-1", workshop.ACME, "pypi:hello-mcp", "hello", None)
    async with asyncio.timeout(60):
        await shop.probing.wait()
    await shop.deployer.close()
    ended = await _now(shop, operation.id)
    assert (ended.state, ended.server) == ("failed", "hello")
    assert await shop.versions.servers(workshop.ACME) == []
    assert await shop.store.tenant(workshop.ACME).objects.list(()) == []
    assert shop.leftovers() == []


@pytest.mark.requirement("deploy:deploy:killed")
async def test_what_a_killed_platform_left_is_swept_and_told(tmp_path: pathlib.Path, shelf: pathlib.Path) -> None:
    data = tmp_path / "data"
    async with workshop.opened(data, shelf) as first:
        await first.deploy("pypi:hello-mcp", "hello")
        submitted = await first.deployer.submit("key-1", workshop.ACME, "pypi:hello-mcp", "hello", None)
        running = await first.deployer.operation(workshop.ACME, submitted.id)
        await first.deployer.close()
        # What a SIGKILL in the middle leaves: the record says running, directories lie about.
        kv = first.store.tenant(workshop.ACME).kv
        await kv.put(("operation", submitted.id), msgspec.msgpack.encode(running))
        for left in (data / "work" / submitted.id / "app", data / "cache/artefacts/acme/.making-1/x"):
            left.mkdir(parents=True)
            left.chmod(0o500)
        assert len(first.leftovers()) == 2
    async with workshop.opened(data, shelf) as second:
        assert second.leftovers() == []
        told = await second.deployer.operation(workshop.ACME, submitted.id)
        assert told.state == "failed"
        assert "stopped during this deployment" in (told.error or "")
        assert (await second.versions.live(workshop.ACME, "hello"))[1].number == 1


@pytest.mark.requirement("deploy:deploy:concurrent")
async def test_two_deployments_of_one_server_at_once_are_a_clear_conflict(shop: workshop.Workshop) -> None:
    first = await shop.deployer.submit("key-1", workshop.ACME, "pypi:hello-mcp", "hello", None)
    with pytest.raises(errors.Conflict, match=first.id):
        await shop.deployer.submit("key-1", workshop.ACME, "pypi:hello-mcp", "hello", None)
    other = await shop.deployer.submit("key-1", workshop.ACME, "pypi:hello-mcp", "other", None)
    assert [(await shop.ended(one)).state for one in (first, other)] == ["succeeded", "succeeded"]


@pytest.mark.requirement("deploy:versions:delete")
async def test_a_deleted_server_is_gone_with_its_artefacts_unless_another_uses_them(shop: workshop.Workshop) -> None:
    await shop.deploy("pypi:hello-mcp", "one")
    await shop.deploy("pypi:hello-mcp", "two")
    objects = shop.store.tenant(workshop.ACME).objects
    await shop.versions.delete(workshop.ACME, "one")
    assert len(await objects.list(("artefact",))) == 1
    _, made = await shop.versions.live(workshop.ACME, "two")
    assert (await shop.run(made)).code == 0
    await shop.versions.delete(workshop.ACME, "two")
    assert await objects.list(("artefact",)) == []
    assert await shop.versions.servers(workshop.ACME) == []
    with pytest.raises(errors.NotFound):
        await shop.versions.live(workshop.ACME, "two")
    assert not (await asyncio.to_thread(shop.artefacts.location(workshop.ACME, made.digest).exists))


@pytest.mark.requirement("deploy:artefact:verified")
async def test_a_changed_copy_is_noticed_and_made_anew(tmp_path: pathlib.Path, shelf: pathlib.Path) -> None:
    async with workshop.opened(tmp_path / "data", shelf) as first:
        await first.deploy("pypi:hello-mcp", "hello")
        _, made = await first.versions.live(workshop.ACME, "hello")
        script = next((await first.artefacts.path(workshop.ACME, made.digest)).rglob("hello.py"))
        script.chmod(0o644)
        script.write_text("def main(): print('changed')")
    async with workshop.opened(tmp_path / "data", shelf) as second:
        assert json.loads((await second.run(made)).tail[-1])["version"] == "1.0"


@pytest.mark.requirement("deploy:versions:peek")
async def test_the_live_deployment_is_known_from_memory_and_never_stale(shop: workshop.Workshop) -> None:
    await shop.deploy("pypi:hello-mcp", "hello")
    await shop.versions.live(workshop.ACME, "hello")
    await shop.versions.set_desired(workshop.ACME, "hello", "stopped")
    known = shop.versions.peek_live(workshop.ACME, "hello")
    if not isinstance(known, tuple):
        known = await shop.versions.live(workshop.ACME, "hello")
    assert known[0].desired == "stopped"
    await shop.versions.delete(workshop.ACME, "hello")
    assert not isinstance(shop.versions.peek_live(workshop.ACME, "hello"), tuple)


def _directory(path: pathlib.Path) -> pathlib.Path:
    path.mkdir(parents=True)
    return path


def _named(directory: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    return list(directory.rglob(pattern))


def _entry(name: str, mode: int = 0o100644) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
    entry.external_attr = mode << 16
    return entry


@pytest.mark.requirement("deploy:wheels:refused")
@pytest.mark.parametrize(
    ("entry", "data", "why"),
    [
        (_entry("../../escaped.py"), b"", "leaves the wheel"),
        (_entry("/etc/escaped"), b"", "leaves the wheel"),
        (_entry("pkg/../../escaped"), b"", "leaves the wheel"),
        (_entry("a\\..\\escaped"), b"", "readers see differently"),
        (_entry("link", 0o120777), b"/etc/passwd", "is a link"),
        (_entry("fifo", 0o010644), b"", "is a link or a device"),
        (_entry("bomb"), b"\0" * 30_000_000, "larger than deploy.max_bytes"),
    ],
    ids=["parent", "absolute", "nested", "backslash", "symlink", "fifo", "bomb"],
)
async def test_a_malicious_wheel_is_refused_before_it_is_unpacked(
    tmp_path: pathlib.Path, entry: zipfile.ZipInfo, data: bytes, why: str
) -> None:
    entry.compress_type = zipfile.ZIP_DEFLATED
    _hello(tmp_path / "wheels", extra=((entry, data),))
    async with workshop.opened(tmp_path / "data", tmp_path / "wheels", max_bytes=20_000_000) as shop:
        done = await shop.deploy("pypi:hello-mcp", "hello")
        assert done.state == "failed"
        assert why in (done.error or "")
        assert shop.leftovers() == []
    assert _named(tmp_path, "escaped*") == []


@pytest.mark.requirement("deploy:fetch:no-code")
async def test_a_source_distribution_is_refused_and_none_of_its_code_runs(tmp_path: pathlib.Path) -> None:
    shelf = _directory(tmp_path / "wheels")
    with zipfile.ZipFile(shelf / "hello-mcp-1.0.zip", "w") as archive:
        archive.writestr("hello-mcp-1.0/setup.py", "open('/build/ran', 'w'); open('/cache/ran', 'w')\n")
    async with workshop.opened(tmp_path / "data", shelf) as shop:
        done = await shop.deploy("pypi:hello-mcp", "hello")
        assert "has no wheel for" in (done.error or "")
        assert "only source distributions" in (done.error or "")
    assert _named(tmp_path, "ran") == []


@pytest.mark.requirement("deploy:fetch:no-code")
async def test_a_requirement_by_url_can_not_make_the_fetch_run_code(tmp_path: pathlib.Path) -> None:
    shelf = tmp_path / "wheels"
    source = _directory(shelf / "evil")
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "own"\nbackend-path = ["."]\n'
        '[project]\nname = "evil"\nversion = "1"\n'
    )
    (source / "own.py").write_text("open('/cache/ran', 'w')\n")
    _hello(shelf, requires=("evil @ file:///wheels/0/evil",))
    async with workshop.opened(tmp_path / "data", shelf) as shop:
        done = await shop.deploy("pypi:hello-mcp", "hello")
        assert done.state == "failed"
    assert _named(tmp_path, "ran") == []


@pytest.mark.requirement("deploy:fetch:errors")
async def test_an_unknown_package_and_a_library_are_told_apart(tmp_path: pathlib.Path) -> None:
    wheels.build_wheel(tmp_path / "wheels", "just-a-library", "1.0", {"lib.py": ""})
    wheels.build_wheel(tmp_path / "wheels", "many", "1.0", {"m.py": ""}, {"one": "m:a", "two": "m:b"})
    async with workshop.opened(tmp_path / "data", tmp_path / "wheels") as shop:
        told = [
            (await shop.deploy(f"pypi:{name}")).error or ""
            for name in ("absent-package", "just-a-library", "many", "many==9.9")
        ]
    assert "no package called absent-package" in told[0]
    assert "starts nothing" in told[1]
    assert "several commands: one, two" in told[2]
    assert "No version of many fits 'many==9.9'. Versions with a wheel" in told[3]


@pytest.mark.requirement("deploy:fetch:secrets")
async def test_credentials_of_a_private_index_are_in_no_message(tmp_path: pathlib.Path, shelf: pathlib.Path) -> None:
    environ = {
        "PIP_INDEX_URL": "http://user:canary-4711@127.0.0.1:9/simple",
        "PIP_RETRIES": "0",
        "HOME": "/nonexistent",
    }
    async with workshop.opened(tmp_path / "data", environ=environ) as shop:
        done = await shop.deploy("pypi:hello-mcp")
        assert done.state == "failed"
        assert "canary" not in repr((done, shop.builder.__dict__, shop.events))
    found = [path for path in (tmp_path / "data").rglob("*") if path.is_file() and b"canary" in path.read_bytes()]
    assert found == []


@pytest.mark.requirement("deploy:build:offline")
async def test_code_that_runs_in_the_build_has_no_network_and_no_credential(tmp_path: pathlib.Path) -> None:
    # A .pth file runs at each start of the environment's Python, which is what pip is run with.
    code = (
        "import os, socket, json; s = socket.socket(); "
        "json.dump([s.connect_ex(('127.0.0.1', 80)), s.connect_ex(('1.1.1.1', 80)), sorted(os.environ)], "
        "open('/app/seen.json', 'w')) if os.access('/app', os.W_OK) else None\n"
    )
    wheels.build_wheel(
        tmp_path / "wheels",
        "hello-mcp",
        "1.0",
        {"hello.py": f"VERSION='1'\n{_MAIN}", "a.pth": code},
        {"hello-mcp": "hello:main"},
    )
    environ = {"PIP_INDEX_URL": "http://user:canary@127.0.0.1:9/simple", **workshop.OFFLINE}
    async with workshop.opened(tmp_path / "data", tmp_path / "wheels", environ=environ) as shop:
        done = await shop.deploy("pypi:hello-mcp", "hello")
        assert done.error is None
        _, made = await shop.versions.live(workshop.ACME, "hello")
        seen = next(iter((await shop.artefacts.path(workshop.ACME, made.digest)).glob("seen.json")), None)
        if seen is not None:
            refused_local, refused_far, names = json.loads(seen.read_text())
            assert refused_local != 0
            assert refused_far != 0
            assert not [name for name in names if "INDEX" in name]


async def _now(shop: workshop.Workshop, operation: str) -> "workshop.deployer.Operation":
    return await shop.deployer.operation(workshop.ACME, operation)


def test_a_record_of_a_deployment_survives_its_encoding() -> None:
    tool = versions.Tool("a", "b", b'{"type":"object"}')
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(tool), type=versions.Tool) == tool
