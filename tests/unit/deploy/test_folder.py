"""Folders: what their locks may say, what starts them, and what is refused with the place and what to do."""

import json
import pathlib
import subprocess
import sys
from typing import Any, Final, cast

import pytest

from smcp.deploy import folder, locks
from smcp.kernel import errors

_A: Final = "a" * 64
_B: Final = "b" * 64
_HASH: Final = f"--hash=sha256:{_A}"


def _project(root: pathlib.Path, **files: str) -> pathlib.Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_py", ".py").replace("_toml", ".toml").replace("_json", ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.requirement("deploy:folder:lock")
def test_a_requirements_file_with_hashes_is_read_and_written_anew() -> None:
    text = (
        f"# made by uv\nAnyIO[trio]==4.1.0 ; sys_platform != 'win32' and python_version >= \"3.9\" \\\n    {_HASH} \\\n"
        f"    --hash=sha256:{_B}  # via mcp\n\nmcp==2.0rc1 --hash=md5:00 {_HASH}\n"
    )
    first, second = locks.requirements(text)
    assert first.requirement == (
        f"anyio==4.1.0 ; sys_platform != 'win32' and python_version >= \"3.9\" --hash=sha256:{_A} --hash=sha256:{_B}"
    )
    assert second.requirement == f"mcp==2.0rc1 --hash=sha256:{_A}"


_REFUSED: Final = {
    "no hash": ("mcp==1.0", "no --hash"),
    "only md5": ("mcp==1.0 --hash=md5:00", "no --hash"),
    "a range": (f"mcp>=1.0 {_HASH}", "is not NAME==VERSION"),
    "a star": (f"mcp==1.* {_HASH}", "no exact version"),
    "an address": (f"mcp @ https://example.com/mcp.whl {_HASH}", "comes from an address"),
    "git": ("git+https://example.com/mcp", "comes from an address"),
    "a file": (f"file:///etc/passwd {_HASH}", "comes from an address"),
    "editable": ("-e .", "is a folder"),
    "a path": ("./mcp", "is a folder"),
    "another file": ("-r /etc/passwd", "the option '-r'"),
    "an index": ("--index-url=http://evil.example", "the option '--index-url"),
    "an option behind": (f"mcp==1.0 {_HASH} --config-settings=x", "is no digest"),
    "an option in the marker": (f"mcp==1.0 ; --index-url http://evil.example {_HASH}", "the marker"),
    "code in the marker": (f"mcp==1.0 ; __import__('os') {_HASH}", "the marker"),
    "a short digest": ("mcp==1.0 --hash=sha256:abc", "no SHA-256"),
    "a half line": ("mcp==1.0 \\", "middle of a line"),
    "an endless line": ("x" * 70_000, "endless"),
}


@pytest.mark.requirement("deploy:folder:lock-refused")
@pytest.mark.parametrize("kind", _REFUSED)
def test_attack_argument_injection_what_is_no_pin_is_refused_with_its_line(kind: str) -> None:
    text, told = _REFUSED[kind]
    with pytest.raises(errors.DeployFailed) as caught:
        list(locks.requirements(f"# one\nfine==1.0 {_HASH}\n{text}\n"))
    assert told in caught.value.public
    assert "line 3" in caught.value.public or "middle" in told


def _pylock(**package: Any) -> str:
    fields = {"name": "mcp", "version": "1.0", "wheels": [{"hashes": {"sha256": _A}}], **package}
    lines = [f"{key} = {_toml(value)}" for key, value in fields.items() if value is not None]
    return "lock-version = '1.0'\n[[packages]]\n" + "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value)
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in items.items()) + "}"
    if isinstance(value, list):
        listed = cast("list[Any]", value)
        return "[" + ", ".join(map(_toml, listed)) + "]"
    return json.dumps(value)


@pytest.mark.requirement("deploy:folder:lock")
def test_a_pylock_is_read_and_the_project_itself_in_it_is_left_out() -> None:
    [pin] = locks.pylock(_pylock(marker="os_name == 'posix'"))
    assert pin.requirement == f"mcp==1.0 ; os_name == 'posix' --hash=sha256:{_A}"
    assert list(locks.pylock(_pylock(version=None, wheels=None, directory={"path": "."}))) == []


@pytest.mark.requirement("deploy:folder:lock-refused")
@pytest.mark.parametrize(
    ("package", "told"),
    [
        ({"vcs": {"url": "https://example.com"}}, "comes from a vcs"),
        ({"directory": {"path": ".."}}, "comes from a directory"),
        ({"archive": {"url": "https://example.com"}}, "comes from a archive"),
        ({"version": None}, "no name and exact version"),
        ({"name": "../x"}, "no name and exact version"),
        ({"wheels": None}, "no wheel"),
        ({"wheels": [{"hashes": {"md5": "x"}}]}, "without a SHA-256"),
        ({"wheels": [{"hashes": {"sha256": "x y"}}]}, "no SHA-256"),
        ({"marker": "'x' in dependency_groups"}, "marker"),
        ({"marker": 5}, "marker"),
    ],
)
def test_a_pylock_with_anything_else_is_refused_with_the_package(package: dict[str, Any], told: str) -> None:
    with pytest.raises(errors.DeployFailed, match=told) as caught:
        list(locks.pylock(_pylock(**package)))
    assert "package 1" in caught.value.public


@pytest.mark.requirement("deploy:folder:no-lock")
def test_a_folder_without_a_lock_is_refused_with_the_command_that_makes_one(tmp_path: pathlib.Path) -> None:
    _project(tmp_path, pyproject_toml="[project]\nname = 'x'\n", package_json="{}")
    with pytest.raises(errors.DeployFailed, match="uv export"):
        locks.find(tmp_path)
    (tmp_path / "uv.lock").write_text("")
    with pytest.raises(errors.DeployFailed, match=r"uv\.lock is not read.*uv export"):
        locks.find(tmp_path)
    with pytest.raises(errors.DeployFailed, match="npm install --package-lock-only"):
        folder.node_lock(tmp_path)
    (tmp_path / "pnpm-lock.yaml").write_text("")
    with pytest.raises(errors.DeployFailed, match=r"pnpm-lock\.yaml is not read"):
        folder.node_lock(tmp_path)


def _lock(packages: dict[str, Any], **root: Any) -> str:
    return json.dumps({"lockfileVersion": 3, "packages": {"": root, **packages}})


@pytest.mark.requirement("deploy:folder:lock-refused")
@pytest.mark.parametrize(
    ("path", "entry", "told"),
    [
        ("node_modules/x", {"resolved": "../x", "link": True}, "node_modules/x"),
        ("../x", {"version": "1.0.0", "integrity": "sha512-x"}, "'../x'"),
        ("node_modules/../../x", {"version": "1.0.0"}, "no place"),
        ("node_modules/x", {"version": "git+https://example.com/x"}, "no package of the registry"),
        ("node_modules/x", {"version": "file:/etc"}, "no package of the registry"),
        ("node_modules/x", {"version": "1.0.0", "resolved": "http://evil.example/x.tgz"}, "no SHA-512 for x@1.0.0"),
    ],
)
def test_an_npm_lock_with_anything_but_the_registrys_packages_is_refused_by_name(
    path: str, entry: dict[str, Any], told: str, tmp_path: pathlib.Path
) -> None:
    _project(tmp_path, package_json="{}")
    (tmp_path / "package-lock.json").write_text(_lock({path: entry}))
    with pytest.raises(errors.DeployFailed) as caught:
        folder.node_lock(tmp_path)
    assert told in caught.value.public


@pytest.mark.requirement("deploy:folder:lock-refused")
def test_an_npm_lock_of_another_package_json_is_refused(tmp_path: pathlib.Path) -> None:
    _project(tmp_path, package_json='{"dependencies": {"x": "^2"}}')
    (tmp_path / "package-lock.json").write_text(_lock({}, dependencies={"x": "^1"}))
    with pytest.raises(errors.DeployFailed, match="Run 'npm install'"):
        folder.node_lock(tmp_path)


@pytest.mark.requirement("deploy:folder:start")
@pytest.mark.parametrize(
    ("files", "command", "said"),
    [
        ({"pyproject_toml": "[project]\nname='x'\n[project.scripts]\nx='m:a.b'\ny='m:c'"}, "", "script b ['x', '1']"),
        ({"pyproject_toml": "[project]\nname='x'\n[project.scripts]\nx='m:a.b'\ny='m:c'"}, "y", "script c ['y', '1']"),
        ({"pyproject_toml": "[project]\nname='other'\n[project.scripts]\ny='m:c'"}, "", "script c ['y', '1']"),
        ({"pyproject_toml": "[project]\nname='Pa.ck'\nversion='1.5'", "src__pa_ck__init": ""}, "", "module 1.5"),
        (
            {"tools__run_py": "import m, sys; print('file', sys.argv[1:], __name__)"},
            "tools/run.py",
            "file ['1'] __main__",
        ),
    ],
)
def test_a_python_project_starts_as_it_says(
    files: dict[str, str], command: str, said: str, tmp_path: pathlib.Path
) -> None:
    root = tmp_path / "app/project"
    for name in ("src/pa_ck", "src"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "src/m.py").write_text(
        "import sys\nclass a:\n    def b(): print('script b', sys.argv)\ndef c(): print('script c', sys.argv)\n"
    )
    (root / "src/pa_ck/__main__.py").write_text(
        "from importlib import metadata\nprint('module', metadata.version('pa-ck'))"
    )
    _project(root, **{name: text for name, text in files.items() if "init" not in name})
    folder.python_start(root, command).write(tmp_path / "app")
    start = tmp_path / "app/start.py"
    start.write_text(start.read_text().replace("/app/", f"{tmp_path}/app/"))  # here it is not at /app
    done = subprocess.run([sys.executable, "-P", start, "1"], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == said, done.stderr


@pytest.mark.requirement("deploy:folder:start")
@pytest.mark.parametrize(
    ("project", "command", "told"),
    [
        ("", "", "Nothing says how"),
        ("[project.scripts]\na='m:f'\nb='m:f'", "", "several scripts: a, b"),
        ("[project.scripts]\na='m:f'", "c", "no script 'c'"),
        ("[project.scripts]\na='m:f(); import os'", "", "not MODULE:FUNCTION"),
        ("[project.scripts]\na='../m:f'", "", "not MODULE:FUNCTION"),
        ("[project]\nname='../../x'", "", "no name of a package"),
        ("[project]\nscripts=5", "", "no table"),
        ("[", "", "not valid TOML"),
        ("", "no.py", "not in what was sent"),
        ("", "../x.py", "no place inside"),
    ],
)
def test_a_python_project_that_can_not_start_is_refused_and_says_why(
    project: str, command: str, told: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "x.py").write_text("")
    root = _project(tmp_path / "project", pyproject_toml=project)
    with pytest.raises(errors.DeployFailed, match=told):
        folder.python_start(root, command)


@pytest.mark.requirement("deploy:folder:start")
def test_a_node_project_starts_as_it_says_or_is_refused(tmp_path: pathlib.Path) -> None:
    for name in ("cli.js", "main.mjs", "dist/x.js"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    for package, command, file in (
        ({"name": "x", "bin": "cli.js", "main": "main.mjs"}, "", "cli.js"),
        ({"main": "./main.mjs"}, "", "main.mjs"),
        ({"main": "main.mjs"}, "dist/x.js", "dist/x.js"),
        ({"name": "x", "bin": {"x": "cli.js", "y": "./dist/x.js"}}, "y", "dist/x.js"),
    ):
        (tmp_path / "package.json").write_text(json.dumps(package))
        assert folder.node_start(tmp_path, command) == file
    for package, command, told in (
        ({}, "", "Nothing says how"),
        ({"main": "dist/none.js"}, "", "smcp deploy --include"),
        ({"main": "../x.js"}, "", "no place inside"),
        ({"main": "/etc/passwd"}, "", "no place inside"),
        ({"bin": "../x"}, "", "outside of the package"),
        ({"main": 5}, "", "can't be read"),
    ):
        (tmp_path / "package.json").write_text(json.dumps(package))
        with pytest.raises(errors.DeployFailed, match=told):
            folder.node_start(tmp_path, command)


@pytest.mark.requirement("deploy:folder:start")
def test_which_kind_of_project_a_folder_is(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.DeployFailed, match="no project"):
        folder.which(tmp_path, "")
    (tmp_path / "package.json").write_text("{}")
    assert folder.which(tmp_path, "") == "node"
    assert folder.which(tmp_path, "x.py") == "python"
    (tmp_path / "pyproject.toml").write_text("")
    with pytest.raises(errors.DeployFailed, match="a Python and a Node"):
        folder.which(tmp_path, "")
    assert folder.which(tmp_path, "x.mjs") == "node"
    (tmp_path / "requirements.txt").write_text("")
    assert folder.which(tmp_path, "") == "python"
