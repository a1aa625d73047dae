"""The command line of the walls: what is always there, and what no tenant's word can become."""

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from smcp.kernel import errors
from smcp.sandbox import walls

_CELL = walls.Cell(
    argv=("/app/venv/bin/server",),
    binds=(walls.Bind("/data/artefact", "/app"),),
    env=(("PATH", "/usr/bin"),),
    memory_bytes=1 << 30,
    tmp_bytes=1 << 26,
    open_files=256,
    processes=64,
)
_WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    [
        "--",
        "--share-net",
        "--bind",
        "--ro-bind",
        "--cap-add",
        "--args",
        "-v",
        "--unshare-user-try",
        "$(id)",
        "\n--dev-bind",
    ]
)


def _whole(host: walls.Host) -> list[str]:
    """The command where no cgroup counts processes."""
    return [*walls.command(_CELL, host)[: -len(_CELL.argv)], *walls.inside(_CELL, host, limit_processes=True)]


def _after(command: list[str], option: str) -> list[str]:
    return [command[place + 1] for place, word in enumerate(command[:-1]) if word == option]


@pytest.mark.requirement("sandbox:command:walls")
def test_every_wall_is_in_the_command() -> None:
    command = walls.command(_CELL)
    options = command[: len(command) - len(_CELL.argv) - 1]
    for option in (
        *(f"--unshare-{name}" for name in walls.NAMESPACES),
        "--disable-userns",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
    ):
        assert options.count(option) == 1, option
    assert _after(options, "--cap-drop") == ["ALL"]
    assert options.index("--remount-ro") < options.index("--chdir")
    assert "/" in _after(options, "--remount-ro")
    assert command[-2:] == ["--", "/app/venv/bin/server"]
    assert "/proc/sys" in _after(options, "--ro-bind")


@pytest.mark.requirement("sandbox:command:walls")
def test_only_a_cell_with_egress_gets_its_network_from_the_launcher() -> None:
    assert "--unshare-net" in walls.command(_CELL)
    # It is in a network namespace of its own already: bubblewrap makes no second one.
    guarded = walls.command(msgspec.structs.replace(_CELL, egress=(443,)))
    assert "--unshare-net" not in guarded
    assert "--unshare-user" in guarded


@pytest.mark.requirement("sandbox:command:absent-layers")
@pytest.mark.parametrize("layer", walls.LAYERS)
def test_a_layer_that_the_machine_lacks_is_left_out_alone(layer: str) -> None:
    host = walls.Host(layers=frozenset(walls.LAYERS) - {layer})
    full, less = (_whole(one) for one in (walls.Host(), host))
    if layer in (walls.SECCOMP, walls.UID, *walls.GROUPS, walls.GVISOR):
        assert less == full  # these are put on by the launcher, before, beside or instead of the command
        return
    assert len(less) < len(full)
    # What is left keeps its order: nothing else changed.
    rest = iter(full)
    assert all(word in rest for word in less)


@pytest.mark.requirement("sandbox:limits:bite")
def test_processes_are_counted_by_a_cgroup_or_else_by_an_rlimit_of_the_cells_own_user_namespace() -> None:
    # Inside, after the walls: outside, it would count all that this user runs anywhere.
    assert walls.inside(_CELL, walls.Host(), limit_processes=True) == [
        "/usr/bin/prlimit",
        "--nproc=64",
        "--",
        "/app/venv/bin/server",
    ]
    assert walls.inside(_CELL, walls.Host(), limit_processes=False) == ["/app/venv/bin/server"]


@pytest.mark.requirement("sandbox:command:binds")
def test_nothing_else_that_is_mounted_lies_over_a_wall() -> None:
    for place in ("/", "/proc/self", "/usr/lib/x", "/dev/shm", "tmp"):
        for change in ({"files": (walls.File(place, b""),)}, {"volume": walls.Volume("memory", place)}):
            with pytest.raises(errors.SandboxMissing):
                walls.check(msgspec.structs.replace(_CELL, **change))


@pytest.mark.requirement("sandbox:command:operands")
@hypothesis.given(argv=st.lists(_WORDS, min_size=1, max_size=5), value=_WORDS)
def test_what_a_tenant_writes_is_an_operand_and_never_a_flag(argv: list[str], value: str) -> None:
    hypothesis.assume(argv[0])
    command = walls.command(msgspec.structs.replace(_CELL, argv=tuple(argv), env=(("NAME", value),)))
    plain = walls.command(msgspec.structs.replace(_CELL, argv=("x",), env=(("NAME", "x"),)))
    head = len(plain) - 1
    assert command[head:] == argv
    assert command[head - 1] == "--"
    place = plain.index("--setenv") + 2
    assert command[place] == value
    assert [*command[:place], "x", *command[place + 1 : head]] == plain[:head]


@pytest.mark.requirement("sandbox:command:binds")
@pytest.mark.parametrize(
    "path",
    ["", "app", "./app", "../app", "/a/../b", "/a//b", "/a/", "//a", "/a/.", "/a\0b", "--bind"],
)
def test_a_bind_that_is_not_absolute_and_normal_is_refused(path: str) -> None:
    for bind in (walls.Bind(path, "/app"), walls.Bind("/app", path)):
        with pytest.raises(errors.SandboxMissing):
            walls.command(msgspec.structs.replace(_CELL, binds=(bind,)))


@pytest.mark.requirement("sandbox:command:binds")
@pytest.mark.parametrize(
    "target", ["/", "/proc", "/proc/sys", "/dev", "/dev/null", "/usr", "/usr/bin", "/bin/x", "/sys"]
)
def test_nothing_is_mounted_over_a_wall(target: str) -> None:
    with pytest.raises(errors.SandboxMissing):
        walls.command(msgspec.structs.replace(_CELL, binds=(walls.Bind("/data", target),)))


@pytest.mark.requirement("sandbox:command:binds")
@pytest.mark.parametrize(
    "change",
    [
        {"argv": ()},
        {"argv": ("",)},
        {"argv": ("a\0b",)},
        {"env": (("", "x"),)},
        {"env": (("A=B", "x"),)},
        {"env": (("A", "x\0y"),)},
        {"cwd": "tmp"},
        {"hidden": ("../x",)},
    ],
)
def test_a_cell_that_no_wall_can_hold_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(errors.SandboxMissing):
        walls.command(msgspec.structs.replace(_CELL, **change))


@pytest.mark.requirement("sandbox:command:secrets")
def test_the_environment_does_not_show_in_a_repr() -> None:
    secret = msgspec.structs.replace(_CELL, env=(("TOKEN", "canary-4711"),))
    assert "canary" not in repr(secret)
    assert "canary" not in f"{secret}"
    assert "canary" not in repr(walls.File("/run/token", b"canary-4711"))
