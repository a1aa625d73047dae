"""What gVisor is told of a cell: never a flag of a tenant's, and no more than the cell may."""

import hypothesis
import hypothesis.strategies as st
import msgspec
import pytest

from smcp.kernel import errors
from smcp.sandbox import gvisor, walls

_CELL = walls.Cell(
    argv=("/app/venv/bin/server",),
    binds=(walls.Bind("/data/artefact", "/app"),),
    tenant="acme",
    env=(("HOME", "/tmp"),),
    volume=walls.Volume("notes", "/data"),
    hidden=("/opt/python/lib/site-packages",),
    memory_bytes=1 << 28,
    tmp_bytes=1 << 20,
    open_files=64,
    processes=32,
)
_HOST = walls.Host(runsc="/usr/bin/runsc")
_WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@pytest.mark.requirement("sandbox:gvisor:operands")
@hypothesis.given(argv=st.lists(_WORDS, min_size=1, max_size=5), value=_WORDS)
def test_what_a_tenant_writes_is_an_argument_or_a_value_and_nothing_else(argv: list[str], value: str) -> None:
    cell = msgspec.structs.replace(_CELL, argv=tuple(argv), env=(("NAME", "old"), ("NAME", value)))
    assert gvisor.command(cell, "name", "/stage") == gvisor.command(_CELL, "name", "/stage")
    said = msgspec.json.decode(msgspec.json.encode(gvisor.config(cell, "/stage/root", "/stage/1")))
    plain = gvisor.config(_CELL, "/stage/root", "/stage/1")
    assert said["process"].pop("args") == argv
    assert said["process"].pop("env") == [f"NAME={value}"]
    assert plain["process"].pop("args") == ["/app/venv/bin/server"]
    assert plain["process"].pop("env") == ["HOME=/tmp"]
    assert said == plain


@pytest.mark.requirement("sandbox:gvisor:operands", "sandbox:gvisor:walls")
def test_it_is_told_of_no_capability_no_network_and_a_root_that_is_read_only() -> None:
    made = gvisor.config(_CELL, "/stage/root", "/stage/1")
    assert made["root"] == {"path": "/stage/root", "readonly": True}
    assert all(
        made["process"]["capabilities"][name] == [] for name in ("bounding", "effective", "permitted", "ambient")
    )
    assert made["process"]["noNewPrivileges"]
    # Of the host it mounts the volume only: all else is in the root, or in gVisor's own memory.
    assert [one["source"] for one in made["mounts"] if one["type"] == "bind"] == ["/stage/1"]
    assert {"type": "network"} in made["linux"]["namespaces"]
    assert "--network=none" in gvisor.command(_CELL, "name", "/stage")
    guarded = msgspec.structs.replace(_CELL, egress=(443,))
    assert "--network=host" in gvisor.command(guarded, "name", "/stage")


@pytest.mark.requirement("sandbox:gvisor:absent")
@pytest.mark.parametrize("layer", gvisor.NEEDS)
def test_a_host_without_what_it_needs_is_refused(layer: str) -> None:
    gvisor.check(_CELL, _HOST)
    for host in (walls.Host(), walls.Host(runsc="/usr/bin/runsc", layers=frozenset(walls.LAYERS) - {layer})):
        with pytest.raises(errors.SandboxMissing, match="no gVisor"):
            gvisor.check(_CELL, host)


@pytest.mark.requirement("sandbox:gvisor:walls")
def test_what_gvisor_takes_itself_comes_on_top() -> None:
    wider = gvisor.wider(_CELL)
    assert wider.tier == walls.GVISOR
    assert wider.memory_bytes > _CELL.memory_bytes
    assert wider.processes > 2 * _CELL.processes
    limits = {one["type"]: one["hard"] for one in gvisor.config(wider, "/r", "/v")["process"]["rlimits"]}
    assert limits == {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": 64, "RLIMIT_FSIZE": 1 << 20}
