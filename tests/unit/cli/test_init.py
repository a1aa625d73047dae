"""`smcp init`: a folder of one's own, with nothing of the template's name in it and nothing overwritten."""

import json
import pathlib
import tomllib

import pytest

from smcp.cli import init, main, pack
from smcp.deploy import folder, locks
from smcp.deploy.workers import wrangler


def _init(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, object]]:
    code = main.run(["init", *argv, "--json"])
    said = capsys.readouterr()
    document: dict[str, object] = json.loads(said.out or said.err)
    return code, document


@pytest.mark.requirement("cli:init:made")
@pytest.mark.parametrize("template", init.TEMPLATES)
def test_a_folder_is_made_and_named_as_its_server(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], template: str
) -> None:
    root = tmp_path / "deep" / "My Notes_2"
    code, said = _init(capsys, str(root), "--template", template)
    assert code == 0
    assert said["server"] == "my-notes-2"
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    assert files == said["files"]
    for path in root.rglob("*"):
        assert path.is_dir() or b"server-name" not in path.read_bytes()
    text = pack.manifest(root)
    worker = pack.worker(root, text)
    assert pack.name(root, text, "" if worker is None else worker.name) == "my-notes-2"
    assert ".gitignore" in files
    assert ".gitignore" not in pack.choose(root).files


@pytest.mark.requirement("cli:init:made")
def test_each_template_has_the_lock_of_its_project() -> None:
    here = pathlib.Path(init.__file__).with_name("templates")
    assert sorted(one.name for one in here.iterdir()) == sorted(init.TEMPLATES)
    for name in ("worker-ts", "node"):
        assert folder.node_lock(here / name)
        assert "resolved" not in (here / name / "package-lock.json").read_text()
    pins = {one.name: one.version for one in locks.find(here / "python")}
    project = tomllib.loads((here / "python/pyproject.toml").read_text())["project"]
    assert [f"mcp=={pins['mcp']}"] == project["dependencies"]
    assert wrangler.find(here / "worker-ts") == "wrangler.jsonc"


@pytest.mark.requirement("cli:init:refused")
def test_nothing_is_overwritten_or_followed(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, empty, file, away = (tmp_path / one for one in ("full", "empty", "file", "away"))
    for path in (full, empty, away):
        path.mkdir()
    (full / "mine").write_text("mine")
    file.write_text("mine")
    assert _init(capsys, str(empty))[0] == 0
    for path in (full, file, empty):
        code, said = _init(capsys, str(path))
        assert (code, "error" in said) == (2, True)
    assert [one.name for one in full.iterdir()] == ["mine"]
    assert file.read_text() == "mine"
    assert _init(capsys, str(tmp_path / "---"))[0] == 2
    assert not (tmp_path / "---").exists()
    assert _init(capsys, str(tmp_path / "x"), "--template", "cobol")[0] == 2
