"""Folders, deployed with `smcp deploy` to a real platform, and called by a real client."""

import io
import itertools
import json
import os
import pathlib
import tarfile
from typing import Any

import pytest

from smcp.kernel import errors
from support import clients, projects, workshop
from support.clients import Endpoint
from support.platform import Platform

pytestmark = pytest.mark.real

_NUMBERS = itertools.count(1)


@pytest.fixture
def admin(platform: Platform) -> str:
    """A new tenant's admin key; the tenant's name is in it."""
    tenant = f"folders-{next(_NUMBERS)}"
    platform.create_tenant(tenant)
    return platform.create_key(tenant, "admin", "mcp_user")


def _endpoint(shown: Any, key: str) -> Endpoint:
    return Endpoint(shown["server"]["endpoint"], key)


@pytest.mark.requirement("deploy:folder:python", "cli:deploy:folder")
async def test_a_python_folder_with_a_lock_is_hosted_and_nothing_of_it_is_built(
    platform: Platform, admin: str, tmp_path: pathlib.Path
) -> None:
    root = projects.python(tmp_path / "greeter")
    done = platform.smcp("deploy", str(root), key=admin)
    seen = await clients.python(_endpoint(done, admin), "auto", "greet", {"name": "Ada"})
    assert seen.texts == ("${HOME}, Ada! 1.2.3 False",)
    deployment = done["server"]["deployment"]
    assert deployment["source"].startswith("upload:sha256:")
    assert "mcp" in {one["name"] for one in deployment["lock"]}
    assert deployment["argv"][-1] == "/app/start.py"


@pytest.mark.requirement("deploy:folder:node")
async def test_a_node_folder_with_a_lock_is_hosted_and_its_npmrc_and_scripts_are_not_heard(
    platform: Platform, admin: str, tmp_path: pathlib.Path
) -> None:
    root = projects.javascript(tmp_path / "greeter")
    done = platform.smcp("deploy", str(root), "--name", "node-greeter", "--include", ".npmrc", key=admin)
    seen = await clients.python(_endpoint(done, admin), "legacy", "greet", {"name": "Ada"})
    assert json.loads(seen.texts[0]) == {"said": "Hello, Ada!", "args": [], "key": None}
    assert done["server"]["name"] == "node-greeter"


@pytest.mark.requirement("deploy:folder:reproducible")
async def test_the_same_upload_and_lock_give_the_same_digest(tmp_path: pathlib.Path) -> None:
    root = projects.python(tmp_path / "greeter")
    (root / "src/greeter/main.py").write_text("def main():\n    print('fine')\n")
    digests: set[str] = set()
    async with workshop.opened(tmp_path / "shop", environ=os.environ) as shop:
        for name in ("one", "two"):
            source = await shop.upload(workshop.packed(root))
            operation = await shop.deploy(source, name)
            assert operation.error is None, operation
            _, live = await shop.versions.live(workshop.ACME, name)
            digests.add(live.digest)
            assert (await shop.run(live)).tail == ("fine",)
        assert shop.leftovers() == []
    assert len(digests) == 1


@pytest.mark.requirement("deploy:folder:locked")
async def test_a_lock_that_is_not_whole_or_not_true_fails_and_says_so(tmp_path: pathlib.Path) -> None:
    root = projects.python(tmp_path / "greeter")
    lock = projects.python_lock()
    first = lock.partition("--hash=sha256:")[2][:64]
    cut = lock[: lock.index("anyio==")] + lock[lock.index("attrs==") :]
    async with workshop.opened(tmp_path / "shop", environ=os.environ) as shop:
        for text, told in ((lock.replace(first, "0" * 64), "digest"), (cut, "anyio is needed and not in it")):
            (root / "requirements.txt").write_text(text)
            operation = await shop.deploy(await shop.upload(workshop.packed(root)), "broken")
            assert operation.state == "failed"
            assert told in (operation.error or ""), operation.error


@pytest.mark.requirement("deploy:unpack:kinds")
async def test_attack_a_hostile_upload_becomes_no_deployment_and_leaves_nothing(tmp_path: pathlib.Path) -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, kind in (("pyproject.toml", tarfile.REGTYPE), ("src", tarfile.SYMTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc"
            archive.addfile(entry)
    async with workshop.opened(tmp_path / "shop", environ=os.environ) as shop:
        operation = await shop.deploy(await shop.upload(target.getvalue()), "hostile")
        assert operation.error == "The upload was refused: the entry 'src' is a symbolic link."
        assert shop.leftovers() == []
        assert await shop.versions.servers(workshop.ACME) == []
        with pytest.raises(errors.InvalidParams, match="what the server is called"):
            await shop.deploy(await shop.upload(target.getvalue()))
