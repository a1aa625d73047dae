"""The walls between rooms are held by import-linter; its contracts are in pyproject.toml."""

import subprocess
import sys
import tomllib

import pytest

from checks import tree

CONFIG = tomllib.loads((tree.ROOT / "pyproject.toml").read_text("utf-8"))


@pytest.mark.requirement("checks:layers:kept")
def test_no_import_crosses_a_wall() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"],
        cwd=tree.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Contracts: {len(CONFIG['tool']['importlinter']['contracts'])} kept, 0 broken." in done.stdout


@pytest.mark.requirement("checks:layers:kept")
def test_every_room_has_its_layer() -> None:
    (layers,) = (c["layers"] for c in CONFIG["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    listed = {room.strip() for layer in layers for room in layer.split("|")}
    rooms = {file.parent.name for file in (tree.ROOT / "src/smcp").glob("*/__init__.py")}
    assert listed == rooms
