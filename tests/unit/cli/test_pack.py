"""What of a folder is sent: shown before, the same every time, and never what a link leads to."""

import io
import pathlib
import subprocess

import pytest

from smcp.cli import failures, pack
from smcp.deploy import packed

_FILES = ("a.py", "src/b.py", "x.bin")


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with three files to send, and much that is left out."""
    made = tmp_path / "project"
    (made / "src").mkdir(parents=True)
    for name in (*_FILES, ".env", "smcp.toml", "m.pyc"):
        (made / name).write_text(name)
    for name in (".git/config", ".venv/x", "env/pyvenv.cfg", "node_modules/x/y.js", "src/__pycache__/c.pyc", "venv/z"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text("no")
    (tmp_path / "outside").write_text("outside")
    (made / "link").symlink_to(tmp_path / "outside")
    (made / "linked").symlink_to(tmp_path)
    return made


@pytest.mark.requirement("cli:deploy:folder")
def test_what_is_left_out_is_said(root: pathlib.Path) -> None:
    chosen = pack.choose(root)
    assert chosen.files == _FILES
    said = "\n".join(chosen.left_out)
    for name in (".env", ".venv", "env", "node_modules", "link", "linked"):
        assert name in said


@pytest.mark.requirement("cli:deploy:folder")
def test_what_is_asked_for_is_sent_all_the_same_but_no_link(root: pathlib.Path) -> None:
    assert pack.choose(root, [".env", "node_modules/x"]).files == (".env", "a.py", "node_modules/x/y.js", *_FILES[1:])
    for name in ("link", "linked", "none", "../outside"):
        with pytest.raises(failures.Failure, match="no such file"):
            pack.choose(root, [name])


@pytest.mark.requirement("cli:deploy:folder")
def test_what_git_ignores_is_left_out(root: pathlib.Path) -> None:
    (root / ".git/config").unlink()
    subprocess.run(["git", "init", "--quiet", str(root)], check=True, capture_output=True)
    (root / ".gitignore").write_text("*.bin\n")
    chosen = pack.choose(root)
    assert chosen.files == ("a.py", "src/b.py")
    assert "What git ignores is left out, too." in chosen.left_out
    assert pack.choose(root, ["x.bin"]).files == _FILES
    # An installed package, a build: the folder that is named is meant all the same.
    (root / ".gitignore").write_text("src/\n")
    assert pack.choose(root / "src").files == ("b.py",)


@pytest.mark.requirement("cli:deploy:folder")
def test_the_same_files_are_the_same_bytes_which_the_platform_takes(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    first, second = io.BytesIO(), io.BytesIO()
    pack.write(pack.choose(root), first)
    (root / "a.py").touch()
    pack.write(pack.choose(root), second)
    assert first.getvalue() == second.getvalue()
    (tmp_path / "upload").write_bytes(first.getvalue())
    assert packed.unpack(tmp_path / "upload", tmp_path / "out", 10_000).files == 3
    assert (tmp_path / "out/src/b.py").read_text() == "src/b.py"


@pytest.mark.requirement("cli:deploy:folder")
def test_a_file_that_becomes_a_link_meanwhile_is_not_followed(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    chosen = pack.choose(root)
    (root / "a.py").unlink()
    (root / "a.py").symlink_to(tmp_path / "outside")
    with pytest.raises(failures.Failure, match="can't be read"):
        pack.write(chosen, io.BytesIO())


@pytest.mark.requirement("cli:deploy:folder")
def test_a_server_is_called_as_its_manifest_its_project_or_its_folder(root: pathlib.Path) -> None:
    assert pack.name(root, None) == "project"
    (root / "package.json").write_text('{"name": "@scope/My.Server"}')
    assert pack.name(root, None) == "my-server"
    (root / "pyproject.toml").write_text('[project]\nname = "py-server"\n')
    assert pack.name(root, None) == "py-server"
    assert pack.name(root, 'name = "mine"') == "mine"
