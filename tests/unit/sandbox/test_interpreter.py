"""Which interpreter a deployment fits."""

import pathlib

import pytest

from smcp.kernel import errors
from smcp.sandbox import interpreter


@pytest.mark.requirement("sandbox:interpreter:recorded")
@pytest.mark.parametrize(
    ("recorded", "fits"),
    [
        ("cpython-3.11.7 /opt/python", True),
        ("cpython-3.11.2 /opt/python", True),
        ("cpython-3.12.1 /opt/python", False),
        ("cpython-3.11.7 /usr", False),
        ("pypy-3.11.7 /opt/python", False),
        ("", False),
    ],
)
def test_a_deployment_runs_only_on_the_minor_version_and_place_it_was_built_for(recorded: str, fits: bool) -> None:
    mine = interpreter.Interpreter(
        label="cpython-3.11.7 /opt/python", executable="/opt/python/bin/python3.11", home="/x", hidden=(), env=()
    )
    assert interpreter.serves(mine, recorded) is fits


@pytest.mark.requirement("sandbox:interpreter:recorded")
def test_a_prefix_without_a_python_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.SandboxMissing, match=r"no Python 3\.11"):
        interpreter.at(str(tmp_path), (3, 11, 0), shared=False)
