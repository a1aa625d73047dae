"""npm packages of a test's own registry: fetched by the real npm, built and run in real sandboxes."""

import base64
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator

import pytest

from smcp.deploy import npm_config, npm_modules
from smcp.sandbox import node
from support import registry, workshop

_SERVER = "#!/usr/bin/env node\nconsole.log(JSON.stringify([process.argv.slice(2), require('dep')]));\n"
_TOUCH = "touch /build/project/ran /cache/ran /app/ran /tmp/ran; echo ran"


@pytest.fixture
def shelf() -> Iterator[registry.Registry]:
    """A registry with a server and something that it needs."""
    with registry.serving() as made:
        made.add(
            {"name": "@s/server", "version": "1.0.0", "bin": "a.js", "dependencies": {"dep": "^1"}}, {"a.js": _SERVER}
        )
        made.add({"name": "dep", "version": "1.4.0", "main": "x.js"}, {"x.js": "module.exports = 'fine';"})
        yield made


def _environ(shelf: registry.Registry, **more: str) -> dict[str, str]:
    return {**workshop.OFFLINE, "npm_config_registry": shelf.address, **more}


@pytest.mark.requirement("deploy:npm:deploy", "deploy:npm:reproducible", "deploy:npm:locked")
async def test_a_package_runs_with_all_it_needs_and_the_same_lock_is_the_same_digest(
    shelf: registry.Registry, tmp_path: pathlib.Path
) -> None:
    async with workshop.opened(tmp_path, environ=_environ(shelf)) as shop:
        operation = await shop.deploy("npm:@s/server", None, 'args = ["${HOME}", "--x; touch y"]')
        assert operation.error is None, operation
        assert operation.server == "server"
        _, first = await shop.versions.live(workshop.ACME, "server")
        assert first.source == "npm:@s/server@1.0.0"
        assert (first.runtime, first.interpreter.startswith("node-")) == ("node", True)
        assert [(one.name, one.version) for one in first.lock] == [("@s/server", "1.0.0"), ("dep", "1.4.0")]
        assert all(one.integrity.startswith("sha512-") and len(one.sha256) == 64 for one in first.lock)
        ended = await shop.run(first)
        assert json.loads(ended.tail[-1]) == [["${HOME}", "--x; touch y"], "fine"]
        assert shop.leftovers() == []

        again = await shop.deploy("npm:@s/server@1.0.0", "other")
        assert again.error is None, again
        _, second = await shop.versions.live(workshop.ACME, "other")
        assert (second.digest, second.lock) == (first.digest, first.lock)
        stages = [step.stage for step in again.steps]
        assert stages[0] == "resolve"
        assert {"download", "build", "store", "probe", "live"} <= set(stages)


@pytest.mark.requirement("deploy:npm:scripts")
async def test_no_script_of_any_package_runs_and_the_operation_says_whose(
    shelf: registry.Registry, tmp_path: pathlib.Path
) -> None:
    scripts = dict.fromkeys(("preinstall", "install", "postinstall", "prepare", "prepublish", "preprepare"), _TOUCH)
    npmrc = "ignore-scripts=false\nscript-shell=/bin/sh\ngit=/bin/sh\n"
    hostile = {"a.js": _SERVER, ".npmrc": npmrc, "binding.gyp": "{'targets': []}"}
    needs = {"name": "bad", "version": "1.0.0", "bin": "a.js", "scripts": scripts, "dependencies": {"dep": "*"}}
    shelf.add(needs, hostile)
    shelf.add({"name": "dep", "version": "1.5.0", "main": "x.js", "scripts": scripts}, {"x.js": "module.exports = 1;"})
    async with workshop.opened(tmp_path, environ=_environ(shelf)) as shop:
        operation = await shop.deploy("npm:bad")
        assert operation.error is None, operation
        assert any("install scripts were not run: bad, dep" in step.text for step in operation.steps)
        _, made = await shop.versions.live(workshop.ACME, "bad")
        tree = await shop.artefacts.path(workshop.ACME, made.digest)
        assert "ran" not in {name for _, _, names in os.walk(tmp_path) for name in names}
        assert sorted(path.name for path in tree.iterdir()) == ["node_modules"]
        assert sorted(path.name for path in (tree / "node_modules").iterdir()) == ["bad", "dep"]


@pytest.mark.requirement("deploy:npm:only-registry")
@pytest.mark.parametrize(
    "wish",
    ["git+file:///tmp/x.git", "git+https://127.0.0.1:9/x.git", "file:/etc", "http://127.0.0.1:9/x.tgz", "o/r"],
)
async def test_a_dependency_from_elsewhere_is_refused_and_nothing_of_it_is_asked(
    wish: str, shelf: registry.Registry, tmp_path: pathlib.Path
) -> None:
    shelf.add(
        {"name": "bad", "version": "1.0.0", "bin": "a.js", "dependencies": {"elsewhere": wish}}, {"a.js": _SERVER}
    )
    async with workshop.opened(tmp_path, environ=_environ(shelf)) as shop:
        operation = await shop.deploy("npm:bad")
        assert operation.state == "failed"
        assert "registry" in (operation.error or ""), operation
        assert shop.leftovers() == []


@pytest.mark.requirement("deploy:npm:refused", "deploy:npm:program")
@pytest.mark.parametrize("trick", ["link", "hardlink", "device", "traversal", "absolute", "bin", "sh", "integrity"])
async def test_a_package_with_a_trick_is_refused(trick: str, shelf: registry.Registry, tmp_path: pathlib.Path) -> None:
    entry = tarfile.TarInfo({"traversal": "package/../../x", "absolute": "/app/x"}.get(trick, "package/x"))
    kinds = {"link": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}
    entry.type, entry.linkname = kinds.get(trick, tarfile.REGTYPE), "/etc/passwd"
    package = {"name": "bad", "version": "1.0.0", "bin": "../../../etc/passwd" if trick == "bin" else "a.js"}
    files = {"package.json": json.dumps(package), "a.js": "#!/bin/sh\n" if trick == "sh" else _SERVER}
    data = registry.tarball(files, *([] if trick in ("bin", "sh", "integrity") else [entry]))
    shelf.add_file(package, data, registry.integrity(b"other") if trick == "integrity" else "")
    expected = {"bin": "outside of the package", "sh": "not for Node.js", "integrity": "its digest"}.get(
        trick, "bad@1.0.0 has an"
    )
    async with workshop.opened(tmp_path, environ=_environ(shelf)) as shop:
        operation = await shop.deploy("npm:bad")
        assert operation.state == "failed"
        assert expected in (operation.error or ""), operation
        assert shop.leftovers() == []


@pytest.mark.requirement("deploy:npm:bombs")
async def test_a_bomb_ends_at_the_limit(shelf: registry.Registry, tmp_path: pathlib.Path) -> None:
    shelf.add({"name": "bad", "version": "1.0.0", "bin": "a.js"}, {"a.js": _SERVER, "zeros": b"\0" * 40_000_000})
    async with workshop.opened(tmp_path, environ=_environ(shelf), max_bytes=10_000_000) as shop:
        operation = await shop.deploy("npm:bad")
        assert "deploy.max_bytes" in (operation.error or ""), operation


@pytest.mark.requirement("deploy:npm:errors")
async def test_what_went_wrong_is_told_apart(shelf: registry.Registry, tmp_path: pathlib.Path) -> None:
    shelf.add({"name": "library", "version": "1.0.0"})
    shelf.add({"name": "needy", "version": "1.0.0", "bin": "a.js", "dependencies": {"absent": "1"}}, {"a.js": _SERVER})
    shelf.add({"name": "new", "version": "1.0.0", "bin": "a.js", "engines": {"node": ">=99"}}, {"a.js": "1"})
    async with workshop.opened(tmp_path, environ=_environ(shelf)) as shop:

        async def failed(source: str) -> str:
            return (await shop.deploy(source, "x")).error or "nothing"

        assert "no package called nowhere," in await failed("npm:nowhere")
        assert "no package called absent (needed by needy)" in await failed("npm:needy")
        assert "no version that fits '@s/server@9.9.9'" in await failed("npm:@s/server@9.9.9")
        assert "starts nothing" in await failed("npm:library")
        told = await shop.deploy("npm:new")
        assert told.error is None, told
        assert any("new@1.0.0 asks for another version of Node.js" in step.text for step in told.steps)
    gone = _environ(shelf, npm_config_fetch_retries="0", npm_config_registry="http://127.0.0.1:9")
    async with workshop.opened(tmp_path / "gone", environ=gone) as shop:
        assert "can't be reached" in ((await shop.deploy("npm:x")).error or "")


@pytest.mark.requirement("deploy:npm:secrets", "deploy:npm:configuration")
async def test_a_private_registry_is_reached_and_its_token_appears_nowhere(
    shelf: registry.Registry, tmp_path: pathlib.Path
) -> None:
    shelf.token = "canary-token-7"
    name = f"npm_config_{shelf.address.removeprefix('http:')}/:_authToken"
    async with workshop.opened(tmp_path / "in", environ=_environ(shelf, **{name: shelf.token})) as shop:
        done = await shop.deploy("npm:@s/server")
        assert done.error is None, done
        assert "canary" not in repr((done, shop.events))
        for path in (tmp_path / "in").rglob("*"):
            assert not path.is_file() or b"canary" not in path.read_bytes(), path
    async with workshop.opened(tmp_path / "out", environ=_environ(shelf)) as shop:
        assert "refused access" in ((await shop.deploy("npm:@s/server")).error or "")
    wrong = base64.b64encode(b"user:canary-password").decode()
    name = name.replace("_authToken", "_auth")
    async with workshop.opened(tmp_path / "bad", environ=_environ(shelf, **{name: wrong})) as shop:
        assert "canary" not in repr(await shop.deploy("npm:@s/server"))


@pytest.mark.requirement("deploy:npm:guarded")
@pytest.mark.parametrize(
    "what",
    [
        "require('child_process').spawn('true')",
        "require('child_process').execSync('true')",
        "require('node:child_process').fork('/x.js')",
        "new (require('child_process').ChildProcess)().spawn({file: '/bin/true'})",
        "import('node:child_process').then((it) => it.spawnSync('true'))",
        "process.dlopen({exports: {}}, '/x.node')",
        "require('net').connect(PORT, '127.0.0.1')",
        "require('net').connect({port: PORT, host: 'localhost'})",
        "require('net').connect('/run/x.sock')",
        "require('net').connect(80, '169.254.169.254')",
        "require('net').connect(80, '::ffff:169.254.169.254')",
        "require('net').connect(80, '64:ff9b::a9fe:a9fe')",
        "require('net').connect(80, 'fe80::1')",
        "require('tls').connect(PORT, '127.0.0.1')",
        "require('http').get('http://127.0.0.1:PORT/')",
        "fetch('http://127.0.0.1:PORT/')",
    ],
)
def test_in_the_fetch_no_process_starts_and_no_private_address_is_called(what: str, tmp_path: pathlib.Path) -> None:
    found = node.current(os.environ)
    assert found is not None, "there is no Node.js"
    guard = npm_modules.tools()[0]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        script = tmp_path / "x.cjs"
        script.write_text(what.replace("PORT", str(listener.getsockname()[1])), "utf-8")
        program = [shutil.which("node", path=os.environ["PATH"]) or found.executable, "--require", guard, str(script)]
        ended = subprocess.run(program, capture_output=True, text=True, timeout=120, env={}, check=False)
        assert ended.returncode != 0
        assert "the fetch " in ended.stderr, ended.stderr
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.requirement("deploy:npm:hosts")
async def test_the_hosts_of_the_fetch_can_be_asked_for(shelf: registry.Registry, tmp_path: pathlib.Path) -> None:
    async with workshop.opened(tmp_path, environ=_environ(shelf)) as shop:
        named = npm_config.read(_environ(shelf), ())
        assert await npm_modules.Modules(shop.bench, shop.node, named).hosts() == (shelf.address.split("/")[2],)
        scoped = npm_config.read({"npm_config_@s:registry": "https://scoped.example"}, ())
        own = await npm_modules.Modules(shop.bench, shop.node, scoped).hosts()
        assert "scoped.example:443" in own
        assert len(own) == 2  # and the one that npm goes to by itself


@pytest.mark.requirement("sandbox:node:closed-home")
async def test_a_node_below_a_closed_home_fetches_and_runs(shelf: registry.Registry, tmp_path: pathlib.Path) -> None:
    found = node.current(os.environ)
    assert found is not None, "there is no Node.js"
    home = tmp_path / "home"
    (home / "node/bin").mkdir(parents=True)
    (home / "node/lib/node_modules").mkdir(parents=True)
    shutil.copy(_host(found, found.executable), home / "node/bin/node")
    source = pathlib.Path(_host(found, found.npm)).parents[1]
    shutil.copytree(source, home / "node/lib/node_modules/npm", symlinks=True)
    (home / "node/bin/npm").symlink_to("../lib/node_modules/npm/bin/npm-cli.js")
    (home / "node/lib/node_modules/leak.js").write_text("", "utf-8")
    home.chmod(0o700)
    path = f"{home}/node/bin:{os.environ['PATH']}"
    async with workshop.opened(tmp_path / "data", environ=_environ(shelf, PATH=path)) as shop:
        operation = await shop.deploy("npm:@s/server")
        assert operation.error is None, operation
        _, made = await shop.versions.live(workshop.ACME, "server")
        assert made.interpreter == f"node-{found.version} /opt/node"
        assert made.argv[0] == "/opt/node/bin/node"
        ended = await shop.run(made)
        assert json.loads(ended.tail[-1]) == [[], "fine"]


def _host(found: node.Node, inside: str) -> str:
    """Where something of the Node.js is on this machine."""
    for bind in (*found.binds, *found.npm_binds):
        if inside == bind.target or inside.startswith(f"{bind.target}/"):
            return bind.source + inside.removeprefix(bind.target)
    return inside
