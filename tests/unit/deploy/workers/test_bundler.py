"""What is taken of what the bundler made, whoever wrote it."""

import json
import os
import pathlib
from typing import Any, Final

import msgspec
import pytest

from smcp.deploy.workers import bundler, code, section
from smcp.kernel import errors

_WORKER: Final = section.Worker(main="src/index.ts", compatibility_date="2026-07-01")
_TEXT: Final = b'import a from "./AAAAAAAA.wasm";\nexport default {};\n'


def _made(root: pathlib.Path, **changed: Any) -> pathlib.Path:
    """What esbuild leaves of a small project; `changed` are parts of its account, and files."""
    out = root / "out"
    (out / "made").mkdir(parents=True)
    (root / "app").mkdir()
    meta = {
        "inputs": changed.get("inputs", {"src/index.ts": {}, "src/a.wasm": {}, "../node_modules/zod/x.js": {}}),
        "outputs": {"../../out/made/index.js": {"exports": changed.get("exports", ["default"])}},
    }
    files = {
        "meta.json": json.dumps(meta).encode(),
        "made/index.js": _TEXT,
        "made/index.js.map": b"{}",
        "index.js.lines": b"table",
        "made/AAAAAAAA.wasm": b"\0asm",
    }
    for name, content in (files | changed.get("files", {})).items():
        (out / name).write_bytes(content)
    return out


def _take(root: pathlib.Path, out: pathlib.Path, worker: section.Worker = _WORKER) -> tuple[code.Module, ...]:
    return bundler.take(out, root / "app", worker)


@pytest.mark.requirement("workers:build:modules")
def test_modules_are_listed_in_order(tmp_path: pathlib.Path) -> None:
    taken = _take(tmp_path, _made(tmp_path))
    assert (
        taken == (code.Module("index.js", "esm"), code.Module("AAAAAAAA.wasm", "wasm")) == code.read(tmp_path / "app")
    )
    assert (tmp_path / "app/worker/index.js.lines").read_bytes() == b"table"
    assert not (tmp_path / "app/worker/index.js.map").exists()
    assert (tmp_path / "app/worker/index.js").read_bytes() == _TEXT


@pytest.mark.requirement("workers:build:modules")
@pytest.mark.parametrize(("date", "flags", "shifted"), [
    ("2026-07-01", (), False), ("2026-07-01", ("nodejs_compat",), True), ("2026-11-01", (), True),
    ("2026-11-01", ("no_nodejs_compat",), False),
])  # fmt: skip
def test_require_is_given_where_the_runtime_has_it(
    tmp_path: pathlib.Path, date: str, flags: tuple[str, ...], shifted: bool
) -> None:
    text = b"var __require=x;\nexport default {};\n"
    worker = msgspec.structs.replace(_WORKER, compatibility_date=date, compatibility_flags=flags)
    out = _made(tmp_path, files={"made/index.js": text})
    assert bundler.requires(out, worker) is shifted
    _take(tmp_path, out, worker)
    made = (tmp_path / "app/worker/index.js").read_bytes()
    assert made.count(b"\n") - text.count(b"\n") == int(shifted)
    assert made.endswith(text)


@pytest.mark.requirement("workers:build:walled")
@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../../etc/passwd", "../out/x", "..", "src/../../../usr/x", "(disabled):/usr/x",
        "../node_modules", "../project2/x",
    ],
)  # fmt: skip
def test_an_input_from_elsewhere_refuses_the_build(tmp_path: pathlib.Path, name: str) -> None:
    with pytest.raises(errors.DeployFailed, match="outside of the project"):
        _take(tmp_path, _made(tmp_path, inputs={"src/index.ts": {}, name: {}}))


@pytest.mark.requirement("workers:build:walled")
@pytest.mark.parametrize("name", ["x.js", "AAAAAAAA.so", "aaaaaaaa.wasm", "AAAAAAAA.wasm.wasm", "AAAA AAA.wasm"])
def test_what_is_no_module_refuses_the_build(tmp_path: pathlib.Path, name: str) -> None:
    with pytest.raises(errors.DeployFailed, match="no module"):
        _take(tmp_path, _made(tmp_path, files={f"made/{name}": b"x"}))


@pytest.mark.requirement("workers:build:walled")
@pytest.mark.parametrize("name", ["meta.json", "made/index.js", "index.js.lines", "made/AAAAAAAA.wasm"])
def test_a_link_is_not_followed_and_an_endless_file_is_not_read(tmp_path: pathlib.Path, name: str) -> None:
    out = _made(tmp_path)
    os.truncate(out / name, 67_108_865)
    with pytest.raises(errors.DeployFailed, match="larger than"):
        _take(tmp_path, out)
    (out / name).rename(tmp_path / "away")
    (out / name).symlink_to(tmp_path / "away")
    with pytest.raises(errors.DeployFailed, match="made no Worker"):
        bundler.take(out, _fresh(tmp_path), _WORKER)


def _fresh(root: pathlib.Path) -> pathlib.Path:
    (root / "app2").mkdir()
    return root / "app2"


@pytest.mark.requirement("workers:build:walled")
def test_many_modules_are_bounded_together(tmp_path: pathlib.Path) -> None:
    names = [f"{letter * 8}.wasm" for letter in "ABC"]
    out = _made(tmp_path, files={"made/index.js": "".join(f'import "./{one}";\n' for one in names).encode()})
    for name in names:
        with (out / "made" / name).open("ab") as file:
            file.truncate(30_000_000)
    with pytest.raises(errors.DeployFailed, match="at most 67108864"):
        _take(tmp_path, out)


@pytest.mark.requirement("workers:build:walled")
def test_excerpts_of_other_files_are_not_told() -> None:
    said = [
        '✘ [ERROR] Unexpected "x"', "    src/index.ts:1:2:", "      1 │ mine", "        ╵ ^",
        "✘ [ERROR] Unexpected", "    ../../proc/self/environ:1:0:", "      1 │ SECRET=1", "        ╵ ^",
        "✘ [ERROR] Unexpected", "    /usr/x.json:1:0:", "      1 │ SECRET=2",
        "✘ [ERROR] Wrong", "    ../node_modules/zod/x.js:1:0:", "      1 │ theirs",
    ]  # fmt: skip
    told = bundler.why(said, (), node=True)
    assert "mine" in told
    assert "theirs" in told
    assert "SECRET" not in told


@pytest.mark.requirement("workers:build:refused")
def test_what_is_missing_is_told_with_what_brings_it() -> None:
    said = ['✘ [ERROR] Could not resolve "@a/b/c"', '✘ [ERROR] Could not resolve "fs/promises"']
    told = bundler.why(said, ["@a/b"], node=False)
    assert "@a/b is among the devDependencies" in told
    assert 'compatibility_flags = ["nodejs_compat"]' in told
