"""The interpreter inside: the platform's own, the distribution's, and one that only the platform's user can reach."""

import pathlib
import sys

import pytest

from smcp.sandbox import interpreter, walls
from support import cell

pytestmark = pytest.mark.real

_DISTRIBUTION = list(pathlib.Path("/usr/bin").glob("python3.[0-9]*[0-9]"))
_WHO = "import json, sys, encodings; print(json.dumps([sys.version_info[:3], sys.base_prefix, encodings.__file__]))"


@pytest.mark.requirement("sandbox:interpreter:private-home")
async def test_an_interpreter_below_a_private_home_runs(tmp_path: pathlib.Path) -> None:
    home = tmp_path / "home"
    app = tmp_path / "app"
    app.mkdir()
    home.mkdir(mode=0o700)
    prefix = home / "python"
    _copy(pathlib.Path(sys.base_prefix), prefix)
    home.chmod(0o700)
    found = interpreter.at(str(prefix), sys.version_info[:3], shared=True)
    assert found.home == str(prefix)
    inside = await cell.ask(
        app,
        "",
        argv=(found.executable, "-c", _WHO),
        binds=(*found.binds, walls.Bind(str(app), "/app")),
        hidden=found.hidden,
        env=found.env,
    )
    assert tuple(inside[0]) == sys.version_info[:3]
    assert inside[1] == interpreter.MOUNT
    assert inside[2].startswith(interpreter.MOUNT)


@pytest.mark.requirement("sandbox:interpreter:no-host-packages")
async def test_packages_of_the_hosts_interpreter_neither_leak_in_nor_shadow(tmp_path: pathlib.Path) -> None:
    found = await cell.ask(
        tmp_path,
        """
        import importlib.util, json, os, sys
        here = [path for path in sys.path if path.endswith("site-packages")]
        print(json.dumps([
            [name for name in ("pip", "setuptools", "smcp", "msgspec") if importlib.util.find_spec(name)],
            [os.listdir(path) for path in here if os.path.isdir(path)],
        ]))
        """,
    )
    assert found[0] == []
    assert all(listed == [] for listed in found[1])


@pytest.mark.requirement("sandbox:interpreter:distribution")
async def test_a_distributions_interpreter_is_taken_as_it_is(tmp_path: pathlib.Path) -> None:
    minor = max(int(path.name.rpartition(".")[2]) for path in _DISTRIBUTION)
    found = interpreter.at("/usr", (3, minor, 0), shared=True)
    assert (found.home, found.binds, found.hidden, found.env) == ("", (), (), ())
    inside = await cell.ask(
        tmp_path, "", argv=(found.executable, "-c", _WHO), binds=(walls.Bind(str(tmp_path), "/app"),), hidden=()
    )
    assert inside[0][:2] == [3, minor]
    assert inside[1] == "/usr"


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """The interpreter with its standard library, by links where the file system allows: enough to run."""
    short = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = source / "lib" / short / "site-packages"
    for path in [source / "bin" / short, *source.glob("lib/libpython*"), *(source / "lib" / short).rglob("*")]:
        if (
            path.is_file()
            and packages not in path.parents
            and "__pycache__" not in path.parts
            and "test" not in path.parts
        ):
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
            place.chmod(0o755)
    (target / "lib" / short / "site-packages").mkdir(exist_ok=True)
    (target / "lib" / short / "site-packages" / "leak.py").write_text("")
