"""Missing layers: named, explained, with the command that brings them; required ones stop the start."""

import pytest

from smcp.kernel import errors, settings
from smcp.sandbox import probe, walls

_ALL = [probe.Layer(name, True, "there", "") for name in walls.LAYERS]


@pytest.mark.requirement("sandbox:probe:required")
def test_a_required_layer_that_is_missing_stops_the_start_and_says_what_to_run() -> None:
    found = [one if one.name != "net" else probe.Layer("net", False, "forbidden", "sudo something") for one in _ALL]
    with pytest.raises(errors.SandboxMissing, match=r"net \(forbidden; fix: sudo something\)"):
        probe.host(settings.Sandbox(), found)


@pytest.mark.requirement("sandbox:probe:optional")
def test_a_layer_that_is_not_required_is_left_out() -> None:
    found = [one if one.name != "cgroup" else probe.Layer("cgroup", False, "old kernel", "") for one in _ALL]
    host = probe.host(settings.Sandbox(require=("user", "net")), found)
    assert host.layers == frozenset(walls.LAYERS) - {"cgroup"}


@pytest.mark.requirement("sandbox:probe:required")
def test_a_misspelt_layer_stops_the_start() -> None:
    with pytest.raises(errors.BadSettings, match="netz"):
        probe.host(settings.Sandbox(require=("user", "netz")), _ALL)


@pytest.mark.requirement("sandbox:probe:fix")
@pytest.mark.parametrize(
    ("layer", "said", "switches", "fix"),
    [
        (
            "user",
            "bwrap: setting up uid map: Permission denied",
            {"apparmor": "1"},
            "apparmor_restrict_unprivileged_userns=0",
        ),
        ("user", "bwrap: No permissions to create new namespace", {"unprivileged_userns_clone": "0"}, "userns_clone=1"),
        ("user", "bwrap: Creating new namespace failed", {"max_user_namespaces": "0"}, "max_user_namespaces=15000"),
        ("net", "bwrap: Operation not permitted", {}, "--cap-add SYS_ADMIN"),
        ("proc", "bwrap: Can't mount proc on /newroot/proc: Operation not permitted", {}, "systempaths=unconfined"),
    ],
)
def test_each_known_obstacle_comes_with_its_exact_fix(
    layer: str, said: str, switches: dict[str, str], fix: str
) -> None:
    def read(path: str) -> str:
        return next((value for name, value in switches.items() if name in path), "")

    _, told = probe.explain(layer, said, read)
    assert fix in told


@pytest.mark.requirement("sandbox:probe:fix")
def test_every_layer_is_reported_once() -> None:
    assert [layer.name for layer in probe.layers(settings.Sandbox())] == list(walls.LAYERS)
