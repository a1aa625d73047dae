"""What a deployment that is a Worker becomes for its driver."""

import pathlib

import msgspec
import pytest

from smcp.app import workers
from smcp.deploy import manifest, versions
from smcp.deploy.workers import builder, code
from smcp.kernel import errors, ids
from smcp.runtime import driver
from smcp.sandbox import tools

_TENANT = ids.TenantId("acme")
_SERVER = ids.ServerName("notes")
_MANIFEST = """
egress = ["api.example.com"]
secrets = { API_KEY = "env" }

[volume]
size = "1MiB"

[worker]
main = "src/index.ts"
compatibility_date = "2026-11-01"
compatibility_flags = ["nodejs_compat"]
path = "/api/mcp"
vars = { TEXT = "a\\"é", LIMITS = { most = 1 } }
kv = { NOTES = "notes" }
buckets = { FILES = "files" }
durable_objects = [{ binding = "ROOM", class_name = "Room" }, { binding = "OLD", class_name = "Old", sqlite = false }]
services = { SEARCH = "search", FIND = { server = "find", entrypoint = "Finder" } }
own_process = true
"""
_MODULES = (code.Module("index.js", "esm"), code.Module("ABCDEFGH.wasm?module", "wasm"))
_PINNED = tools.Tools(workerd=tools.Tool(name="workerd", version=tools.WORKERD.version, path="/x"))


def _deployment(text: str = _MANIFEST) -> versions.Deployment:
    return versions.Deployment(
        id="dep-1",
        server=_SERVER,
        number=1,
        created=0.0,
        by="key-1",
        source="upload:sha256:x",
        digest="sha256:x",
        manifest=manifest.parse(text),
        lock=(),
        argv=(),
        interpreter="workerd-1.0.0",
        runtime="worker",
    )


@pytest.fixture
def artefact(tmp_path: pathlib.Path) -> pathlib.Path:
    """An artefact with two modules."""
    code.write(tmp_path, _MODULES)
    return tmp_path


@pytest.mark.requirement("workers:spec:told")
async def test_everything_that_the_manifest_says_reaches_the_driver(artefact: pathlib.Path) -> None:
    made = await workers.spec(_TENANT, _SERVER, _deployment(), artefact, _PINNED)
    assert (made.runtime, made.argv, made.artefact, made.env) == ("worker", (), str(artefact), ())
    assert made.secrets == (("API_KEY", "env"),)
    assert [str(one) for one in made.egress] == ["api.example.com:443"]
    assert made.volume is not None
    assert made.volume.size_bytes == 1_048_576
    assert made.worker == driver.Worker(
        modules=(driver.Module("index.js", "esm"), driver.Module("ABCDEFGH.wasm?module", "wasm")),
        compatibility_date="2026-11-01",
        compatibility_flags=("nodejs_compat",),
        path="/api/mcp",
        variables=(("TEXT", '"a\\"é"'), ("LIMITS", '{"most": 1}')),
        kv=(("NOTES", "notes"),),
        buckets=(("FILES", "files"),),
        durables=(driver.Durable("ROOM", "Room", "Room"), driver.Durable("OLD", "Old", "Old", sqlite=False)),
        services=(
            driver.Service("SEARCH", ids.ServerName("search")),
            driver.Service("FIND", ids.ServerName("find"), "Finder"),
        ),
        alone=True,
    )


@pytest.mark.requirement("workers:spec:told")
async def test_durable_objects_have_a_volume_and_nothing_else_has(artefact: pathlib.Path) -> None:
    least = '[worker]\nmain = "x.js"\ncompatibility_date = "2026-11-01"\n'
    made = await workers.spec(_TENANT, _SERVER, _deployment(least), artefact, _PINNED)
    assert made.volume is None
    text = f'{least}durable_objects = [{{ binding = "A", class_name = "B" }}]'
    made = await workers.spec(_TENANT, _SERVER, _deployment(text), artefact, _PINNED)
    assert made.volume is not None


@pytest.mark.requirement("workers:spec:refused")
async def test_a_worker_that_can_t_run_here_is_refused_in_words(artefact: pathlib.Path) -> None:
    with pytest.raises(errors.SandboxMissing, match="workerd"):
        await workers.spec(_TENANT, _SERVER, _deployment(), artefact, tools.Tools())
    later = f'[worker]\nmain = "x.js"\ncompatibility_date = "{int(builder.newest()[:4]) + 1}-01-01"\n'
    with pytest.raises(errors.ServerStopped, match="compatibility date"):
        await workers.spec(_TENANT, _SERVER, _deployment(later), artefact, _PINNED)
    other = msgspec.structs.replace(_deployment(), manifest=manifest.Manifest())
    with pytest.raises(errors.TamperedData):
        await workers.spec(_TENANT, _SERVER, other, artefact, _PINNED)


@pytest.mark.requirement("workers:spec:refused")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"modules": []}',
        '{"modules": [{"name": "../x", "kind": "esm"}]}',
        '{"modules": [{"name": "/x", "kind": "esm"}]}',
        '{"modules": [{"name": ".x", "kind": "esm"}]}',
        '{"modules": [{"name": "a/b", "kind": "esm"}]}',
        '{"modules": [{"name": "x\\n", "kind": "esm"}]}',
        '{"modules": [{"name": "x", "kind": "python"}]}',
        '{"modules": [{"name": "x", "kind": "esm", "more": 1}]}',
        '{"modules": [{"name": "x", "kind": "esm"}], "more": 1}',
    ],
)
def test_an_index_that_the_platform_did_not_write_is_refused(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / code.INDEX).write_text(text)
    with pytest.raises(errors.TamperedData):
        code.read(tmp_path)
    with pytest.raises(errors.TamperedData):
        code.read(tmp_path / "nowhere")


@pytest.mark.requirement("workers:spec:refused")
def test_an_index_that_is_a_link_is_not_followed(tmp_path: pathlib.Path, artefact: pathlib.Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    (away / code.INDEX).symlink_to(artefact / code.INDEX)
    with pytest.raises(errors.TamperedData):
        code.read(away)
