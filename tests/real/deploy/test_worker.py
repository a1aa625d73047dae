"""Projects of Workers through the real build cell: what becomes of them, and what does not become a Worker."""

import itertools
import json
import os
import pathlib
import stat
from collections.abc import Mapping
from typing import Final

import pytest

from smcp.cli import pack
from smcp.deploy import deployer, versions
from smcp.deploy.workers import code
from smcp.kernel import ids
from smcp.runtime import places
from support import workshop

pytestmark = pytest.mark.real

_DATE: Final = "2026-11-01"
_WRANGLER: Final = f'name = "notes"\nmain = "src/index.ts"\ncompatibility_date = "{_DATE}"\n'
_HELLO: Final = "export default { async fetch() { return new Response('hello') } };\n"
# (module (func (export "f") (result i32) i32.const 42)), as the WebAssembly specification's binary format has it.
_WASM: Final = bytes.fromhex("0061736d010000000105016000017f03020100070501016600000a06010400412a0b")


def _project(root: pathlib.Path, files: Mapping[str, str | bytes]) -> pathlib.Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


async def _deploy(shop: workshop.Workshop, root: pathlib.Path) -> deployer.Operation:
    return await shop.deploy(await shop.upload(workshop.packed(root)), "notes", pack.manifest(root))


async def _made(shop: workshop.Workshop, root: pathlib.Path) -> versions.Deployment:
    done = await _deploy(shop, root)
    assert done.deployment is not None, done.error
    return await shop.versions.deployment(workshop.ACME, ids.server("notes"), done.deployment)


@pytest.mark.requirement("workers:build:small")
async def test_the_text_of_a_module_is_short_and_ascii_and_means_what_it_meant(tmp_path: pathlib.Path) -> None:
    source = """
/* A comment with letters that V8 would keep the whole text in two bytes for: жё中 */
const said = { "größe": `中文 ${1 + 1}`, raw: String.raw`\\n é 字` };
function grüße() {
        return [said["größe"], said.raw, grüße.name, /[ж字]/u.test("字"), (() => said.größe.length).name];
}
export default { async fetch() { return Response.json(grüße()) } };
"""
    manifest = f'[worker]\nmain = "index.js"\ncompatibility_date = "{_DATE}"\n'
    root = _project(tmp_path / "notes", {"index.js": source, "smcp.toml": manifest})
    async with workshop.opened(tmp_path / "data", environ={**workshop.OFFLINE, "PATH": "/nonexistent"}) as shop:
        made = await _made(shop, root)
        text = (await shop.artefacts.path(workshop.ACME, made.digest) / code.DIRECTORY / code.MAIN).read_bytes()
        # Raw texts and regular expressions are what they are; all else can be said in ASCII, and comments are gone.
        assert {letter for letter in text.decode() if not letter.isascii()} == {"é", "字", "ж"}
        assert b"    " not in text
        async with shop.isolate(made) as client:
            assert json.loads(await client.get()) == ["中文 2", "\\n é 字", "grüße", True, ""]


@pytest.mark.requirement("workers:build:plain")
async def test_a_single_file_is_a_worker_without_node_and_packages(tmp_path: pathlib.Path) -> None:
    manifest = f'[worker]\nmain = "index.js"\ncompatibility_date = "{_DATE}"\n[worker.vars]\nA = {{b = [1]}}\n'
    root = _project(tmp_path / "notes", {"index.js": _HELLO, "smcp.toml": manifest})
    async with workshop.opened(tmp_path / "data", environ={**workshop.OFFLINE, "PATH": "/nonexistent"}) as shop:
        made = await _made(shop, root)
        assert (made.runtime, made.argv, made.lock) == ("worker", (), ())
        assert made.interpreter.startswith("workerd-1.")
        assert made.manifest.worker is not None
        assert made.manifest.worker.vars == {"A": {"b": [1]}}
        path = await shop.artefacts.path(workshop.ACME, made.digest)
        assert sorted(one.name for one in path.rglob("*") if one.is_file()) == [code.MAIN, code.LINES, code.INDEX]
        async with shop.isolate(made) as client:
            assert await client.get() == "hello"
        assert shop.leftovers() == []
        # The same project is the same artefact.
        assert (await _made(shop, root)).digest == made.digest


_MANY: Final = """
import wasm from "./f.wasm";
import again from "./f.wasm?module";
import notes from "./notes.txt";
import page from "./page.html";
import data from "./data.bin";
import settings from "./settings.json";
import { EventEmitter } from "events";
import { named } from "@lib/named";

enum Kind { One = 1 }
interface Env { GREETING: string }

export class Room {}

export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    const call = async (module: WebAssembly.Module) => {
      const { f } = (await WebAssembly.instantiate(module)).exports;
      return (f as () => number)();
    };
    return Response.json({
      wasm: await call(wasm), again: await call(again), notes, page, data: new Uint8Array(data as ArrayBuffer).length,
      settings, kind: Kind.One, emitter: typeof new EventEmitter().on, named: named(), greeting: env.GREETING,
      mode: process.env.NODE_ENV,
    });
  },
} satisfies ExportedHandler<Env>;
"""


@pytest.mark.requirement("workers:build:modules")
async def test_a_typescript_project_of_wranglers_is_one_module_and_those_beside_it(tmp_path: pathlib.Path) -> None:
    root = _project(
        tmp_path / "notes",
        {
            "wrangler.toml": f'{_WRANGLER}observability = {{ enabled = true }}\n[vars]\nGREETING = "Hello"\n',
            "src/index.ts": _MANY,
            "src/f.wasm": _WASM,
            "src/notes.txt": "one\n",
            "src/page.html": "<p>",
            "src/data.bin": b"\xff\0\xfe",
            "src/settings.json": '{"a": 1}',
            "src/lib/named.ts": "export function named(): string { return named.name }",
            "tsconfig.json": '{"compilerOptions": {"paths": {"@lib/*": ["./src/lib/*"]}, "plugins": [{"name": "x"}]}}',
            "package.json": json.dumps(
                {"name": "notes", "scripts": {"build": "exit 1", "prepare": "exit 1"}, "devDependencies": {"x": "1"}}
            ),
            "esbuild.config.mjs": "throw new Error('nobody runs this')",
        },
    )
    async with workshop.opened(tmp_path / "data") as shop:
        done = await _deploy(shop, root)
        assert done.deployment is not None, done.error
        assert any("observability" in step.text for step in done.steps)
        made = await shop.versions.deployment(workshop.ACME, ids.server("notes"), done.deployment)
        async with shop.isolate(made) as client:
            assert json.loads(await client.get()) == {
                "wasm": 42,
                "again": 42,
                "notes": "one\n",
                "page": "<p>",
                "data": 3,
                "settings": {"a": 1},
                "kind": 1,
                "emitter": "function",
                "named": "named",
                "greeting": "Hello",
                "mode": "production",
            }


_STACK: Final = """import { stack } from "./lib/deep";

export default {
  async fetch(): Promise<Response> {
    return new Response(stack());
  },
};
"""
_DEEP: Final = """import old from "./old.cjs";
interface Nothing {
  a: 1;
}

export const stack = (): string =>
  old() + new Error("deep").stack!;
"""


@pytest.mark.requirement("workers:build:places")
async def test_a_stack_is_told_by_the_lines_of_the_authors_files(tmp_path: pathlib.Path) -> None:
    root = _project(
        tmp_path / "notes",
        {
            # With a module of Node.js that a package of the old kind asks for, which takes a line in front.
            "wrangler.toml": _WRANGLER,
            "src/index.ts": _STACK,
            "src/lib/deep.ts": _DEEP,
            "src/lib/old.cjs": "const { sep } = require('path');\nmodule.exports = () => sep;\n",
        },
    )
    async with workshop.opened(tmp_path / "data") as shop:
        made = await _made(shop, root)
        async with shop.isolate(made) as client:
            said = await client.get()
        path = await shop.artefacts.path(workshop.ACME, made.digest)
    assert said.startswith("/Error: deep")
    told = places.Places(str(path / code.DIRECTORY)).told(said)
    assert [line.strip().rpartition("(")[2].rstrip(")") for line in told.split("\n")[1:]] == [
        "src/lib/deep.ts:7",
        "src/index.ts:5",
    ]


_REFUSED: Final[Mapping[str, tuple[Mapping[str, str | bytes], str]]] = {
    "no file": ({"src/index.js": _HELLO}, "'src/index.ts' is not in what was sent"),
    "not supported": ({"wrangler.toml": f"{_WRANGLER}[site]\nbucket = 'x'\n", "src/index.ts": _HELLO}, "Line 4: site"),
    "a build command": (
        {"wrangler.toml": f"{_WRANGLER}[build]\ncommand = 'touch /out/x'\n", "src/index.ts": _HELLO},
        "Line 4: build",
    ),
    "a date to come": (
        {"wrangler.toml": _WRANGLER.replace(_DATE, "2027-01-01"), "src/index.ts": _HELLO},
        "after the last one",
    ),
    "an error": ({"src/index.ts": "export default {"}, "src/index.ts:1:16:"),
    "no module": ({"src/index.ts": "addEventListener('fetch', () => {})"}, "no default export"),
    "no class": (
        {
            "wrangler.toml": f"{_WRANGLER}durable_objects.bindings = [{{ name = 'A', class_name = 'Room' }}]\n"
            "[[migrations]]\nnew_sqlite_classes = ['Room']\n",
            "src/index.ts": _HELLO,
        },
        "does not export the class Room",
    ),
    "for development": (
        {
            "package.json": '{"devDependencies": {"@a/b": "1"}}',
            "src/index.ts": f"import b from '@a/b/c'; b();\n{_HELLO}",
        },
        "@a/b is among the devDependencies",
    ),
    "no lock": ({"package.json": '{"dependencies": {"a": "1"}}', "src/index.ts": _HELLO}, "no lock"),
    "not text": ({"src/a.txt": b"\xff", "src/index.ts": f"import a from './a.txt'; a;\n{_HELLO}"}, "no UTF-8 text"),
    "a manifest that does not fit": (
        {"smcp.toml": "args = ['x']\n", "src/index.ts": _HELLO},
        "do not go together: a Worker has no args",
    ),
    "not a module of the runtime": (
        {"src/index.ts": f"import a from 'workerd:unsafe'; a;\n{_HELLO}"},
        'Could not resolve "workerd:unsafe"',
    ),
}


@pytest.mark.requirement("workers:build:refused")
@pytest.mark.parametrize("name", _REFUSED)
async def test_a_project_that_is_no_worker_is_refused_and_told_why(tmp_path: pathlib.Path, name: str) -> None:
    files, told = _REFUSED[name]
    root = _project(tmp_path / "notes", {"wrangler.toml": _WRANGLER, **files})
    async with workshop.opened(tmp_path / "data") as shop:
        done = await _deploy(shop, root)
        assert done.state == "failed"
        assert told in (done.error or "")
        assert shop.leftovers() == []


def _host_file() -> pathlib.Path:
    """A plain file of this machine that everybody may read, by the one name that it has."""
    usr = pathlib.Path("/usr")
    every = itertools.chain(usr.rglob("*.txt"), usr.rglob("*.json"))
    return next(
        one
        for one in every
        if stat.S_ISREG(one.lstat().st_mode) and one.lstat().st_mode & 0o004 and str(one) == os.path.realpath(one)
    )


@pytest.mark.requirement("workers:build:walled")
async def test_files_of_the_machine_are_no_part_of_a_worker(tmp_path: pathlib.Path) -> None:
    found = _host_file()
    up = f"../../..{found}"
    async with workshop.opened(tmp_path / "data") as shop:
        for number, way in enumerate((str(found), up)):
            root = _project(
                tmp_path / str(number),
                {
                    "wrangler.toml": _WRANGLER,
                    "src/index.ts": f"import a from {json.dumps(way)}; console.log(a);\n{_HELLO}",
                },
            )
            done = await _deploy(shop, root)
            assert done.state == "failed"
            assert f"imports '{found}', which is outside" in (done.error or "")


@pytest.mark.requirement("workers:build:walled")
@pytest.mark.parametrize("place", ["/etc/passwd", "../../../../etc/passwd", "/proc/self/environ", "/build", "../notes"])
async def test_a_tsconfig_that_extends_out_of_the_tree_brings_nothing_in(tmp_path: pathlib.Path, place: str) -> None:
    files = {
        "wrangler.toml": _WRANGLER,
        "tsconfig.json": json.dumps({"extends": place}),
        "src/index.ts": _HELLO,
    }
    async with workshop.opened(tmp_path / "data") as shop:
        done = await _deploy(shop, _project(tmp_path / "notes", files))
        # Not found, or no configuration: either way none of its text is told, nor in the artefact.
        said = f"{done.error} {[step.text for step in done.steps]}"
        assert "root:" not in said
        assert "PATH=" not in said


@pytest.mark.requirement("workers:build:walled")
async def test_an_endless_file_ends_the_build_and_not_the_machine(tmp_path: pathlib.Path) -> None:
    files = {"wrangler.toml": _WRANGLER, "tsconfig.json": '{"extends": "/dev/zero"}', "src/index.ts": _HELLO}
    async with workshop.opened(tmp_path / "data", timeout_s=60) as shop:
        done = await _deploy(shop, _project(tmp_path / "notes", files))
        assert done.state == "failed"
        assert shop.leftovers() == []
