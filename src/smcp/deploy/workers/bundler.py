"""esbuild in a cell: what it is asked, and what is taken of what it made.

The bundler is a native program that runs none of the project's code: it has no plugins, reads no configuration but the
`tsconfig.json` and `package.json` beside the files, and stands in a cell without network that holds the project and its
packages and nothing else of the platform. What it may have read elsewhere in its cell is named in its own account
(`--metafile`), and one such file refuses the build.

How modules are found and what becomes of them is as with wrangler, so that a project means the same in both places:
JavaScript and TypeScript become one module, `.wasm`, `.bin`, `.txt`, `.html` and `.sql` stay modules of their own.
"""

import os
import pathlib
import posixpath
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from smcp.deploy.workers import code, section
from smcp.kernel import errors
from smcp.sandbox import walls

SITE: Final = "/build"
"""In the cell: `project`, and `node_modules` beside it."""
PROJECT: Final = "project"
OUT: Final = "/out"

EMAIL: Final = walls.File(
    "/opt/workers/email.js",
    b"""export class EmailMessage {
  constructor() { throw new Error("Workers can't send mail here."); }
}
""",
)
"""In place of `cloudflare:email`, which workerd has only half of: packages import it that may never use it."""

LINES: Final = "/opt/lines.py"
_META: Final = "meta.json"
_MAP: Final = "index.js.map"
_MADE: Final = "made"
_KINDS: Final[Mapping[str, code.Kind]] = {
    ".wasm": "wasm", ".bin": "data", ".txt": "text", ".html": "text", ".sql": "text",
}  # fmt: skip
_MOST_BYTES: Final = 67_108_864
"""All modules together (Workers documentation, "Limits": 64 MB before compression)."""
_ASSET: Final = re.compile(r"[A-Z0-9]{8}\.[a-z]{3,4}(?:\?module)?", re.ASCII)
_NODE: Final = "nodejs_compat"
_NODE_SINCE: Final = "2026-08-04"
"""From this day on it need not be asked for."""
# Modules of Node.js that packages import without `node:` (Node.js documentation, "Built-in modules"); what stands
# below one of them ("fs/promises") follows it.
_BUILT_IN: Final = (
    "_tls_common", "assert", "async_hooks", "buffer", "child_process", "cluster", "console", "constants", "crypto",
    "dgram", "diagnostics_channel", "dns", "domain", "events", "fs", "http", "http2", "https", "inspector", "module",
    "net", "os", "path", "perf_hooks", "process", "punycode", "querystring", "readline", "repl", "stream",
    "string_decoder", "sys", "timers", "tls", "trace_events", "tty", "url", "util", "v8", "vm", "wasi",
    "worker_threads", "zlib",
)  # fmt: skip
# `require` of such a module inside of a CommonJS package: the runtime has a function for it, and the name of the
# function is what the bundler looks for.
_REQUIRE: Final = (
    b'import { createRequire as __smcpRequire } from "node:module"; var require = __smcpRequire("/worker/index.js");\n'
)
_REQUIRES: Final = b"var __require="
_SUCH: Final = re.compile(r'Could not resolve "([^"\n]{1,200})"')

_MESSAGE: Final = re.compile(r"\S \[(?:ERROR|WARNING)\] ")
_LOCATION: Final = re.compile(r"\s{2,}(\S.*):[0-9]+:[0-9]+:")

_T = TypeVar("_T")


def command(program: str, worker: section.Worker) -> tuple[str, ...]:
    """The command of the bundler `program` for the project, as seen inside the cell."""
    return (
        program,
        f"{SITE}/{PROJECT}/{worker.main.removeprefix('./')}",
        f"--outdir={OUT}/{_MADE}",
        f"--metafile={OUT}/{_META}",
        "--bundle",
        "--format=esm",
        "--platform=neutral",
        "--target=es2024",
        "--conditions=workerd,worker,browser",
        "--main-fields=browser,module,main",
        "--external:cloudflare:*",
        "--external:node:*",
        "--keep-names",
        "--sourcemap=external",
        "--sources-content=false",
        "--entry-names=index",
        "--asset-names=[hash]",
        # A process takes some six bytes for each one of the bundle, and one more where a letter is not Latin, be it in
        # a comment: V8 keeps the text, with two bytes for all of its letters then. Names stay as they are.
        "--charset=ascii",
        "--minify-whitespace",
        "--define:process.env.NODE_ENV=\"production\"",
        "--define:navigator.userAgent=\"Cloudflare-Workers\"",
        "--log-level=warning",
        "--log-limit=10",
        "--color=false",
        *(f"--loader:{suffix}=copy" for suffix in _KINDS),
        f"--alias:cloudflare:email={EMAIL.path}",
        *(f"--alias:{name}=node:{name}" for name in _BUILT_IN if has_node(worker)),
    )  # fmt: skip


class _Output(msgspec.Struct, frozen=True):
    exports: tuple[str, ...] = ()


class _Meta(msgspec.Struct, frozen=True):
    """What is read of esbuild's account."""

    inputs: dict[str, Any]
    outputs: dict[str, _Output]


def take(out: pathlib.Path, app: pathlib.Path, worker: section.Worker) -> tuple[code.Module, ...]:
    """Move what was made from `out` into `app`, the directory that becomes the artefact. Blocking.

    Raises `errors.DeployFailed` for what may not be in a Worker.
    """
    meta = _read(out / _META, _Meta)
    _check_inputs(meta.inputs)
    _check_exports(meta.outputs, [one.class_name for one in worker.durable_objects])
    target = app / code.DIRECTORY
    target.mkdir()
    text = _bytes(out / _MADE / code.MAIN)
    if requires(out, worker):
        text = _REQUIRE + text
    (target / code.MAIN).write_bytes(text)
    (target / code.LINES).write_bytes(_bytes(out / code.LINES))
    modules, size = [code.Module(code.MAIN, "esm")], len(text)
    for path in sorted((out / _MADE).iterdir()):
        if path.name in (code.MAIN, _MAP):
            continue
        kind = _KINDS.get(path.suffix)
        if kind is None or _ASSET.fullmatch(path.name) is None:
            raise errors.DeployFailed(f"The bundler made something that is no module: {path.name[:100]!r}.")
        data = _bytes(path)
        if kind == "text":
            _check_text(data)
        # As the code asks for it: `?module` is how some say that they want a WebAssembly.Module.
        for name in (path.name, f"{path.name}?module"):
            if f'"./{name}"'.encode() in text:
                (target / name).write_bytes(data)
                modules.append(code.Module(name, kind))
                size += len(data)
    if size > _MOST_BYTES:
        raise errors.DeployFailed(f"The Worker's modules are {size} bytes, and at most {_MOST_BYTES} are allowed.")
    code.write(app, tuple(modules))
    return tuple(modules)


def requires(out: pathlib.Path, worker: section.Worker) -> bool:
    """Whether what was made asks for modules of Node.js with `require`, which takes a line in front of it. Blocking."""
    return has_node(worker) and _REQUIRES in _bytes(out / _MADE / code.MAIN)


def lines_command(python: str, shift: int) -> tuple[str, ...]:
    """What makes the table of places of what was made, as seen inside the cell; `shift` lines are put in front."""
    table = f"{OUT}/{code.LINES}"
    return (python, "-I", LINES, f"{OUT}/{_MADE}/{_MAP}", table, str(shift), f"{SITE}/", f"{PROJECT}/")


def tools() -> tuple[str, ...]:
    """The files of this module's own that its cells see. Blocking."""
    return (str(pathlib.Path(__file__).with_name("lines.py").resolve()),)


def why(lines: Iterable[str], packages: Collection[str], *, node: bool) -> str:
    """What a person can do about what esbuild said. `packages` are those that are only for development.

    `node`: whether the Worker has the modules of Node.js."""
    said = "\n".join(_own(lines))
    hints: list[str] = []
    for name in dict.fromkeys(_SUCH.findall(said)):
        parts = name.split("/")
        package = "/".join(parts[:2]) if name.startswith("@") else parts[0]
        if package in packages:
            hints.append(f"{package} is among the devDependencies, which are not installed: move it to dependencies.")
        elif package in _BUILT_IN and not node:
            hints.append(f'{package} is a module of Node.js: compatibility_flags = ["{_NODE}"] gives it.')
    shown = " / ".join(line.strip() for line in said.splitlines() if line.strip())
    return " ".join((*hints, f"esbuild says: {shown[:1200]}"))


def _own(lines: Iterable[str]) -> Iterable[str]:
    """Without what esbuild shows of other files: a tsconfig.json may have led it to any of its cell."""
    shown = True
    for line in lines:
        if _MESSAGE.match(line) is not None:
            shown = True
        elif (place := _LOCATION.fullmatch(line)) is not None:
            shown = place[1].startswith("../node_modules/") or not place[1].startswith(("/", ".."))
        if shown:
            yield line


def has_node(worker: section.Worker) -> bool:
    """Whether the Worker's runtime has Node.js's modules (Workers documentation, "Compatibility flags")."""
    asked = {_NODE, f"{_NODE}_v2"} & set(worker.compatibility_flags)
    return bool(asked) or (worker.compatibility_date >= _NODE_SINCE and f"no_{_NODE}" not in worker.compatibility_flags)


def _absolute(name: str) -> str:
    """A file of the account, which is told from the project's directory on."""
    return posixpath.normpath(posixpath.join(f"{SITE}/{PROJECT}", name))


def _check_inputs(names: Iterable[str]) -> None:
    """Raises `errors.DeployFailed` for code that is neither the project's nor one of its packages'."""
    for name in names:
        # A module that package.json's `browser` turns off, and esbuild's own code.
        if name.startswith("<"):
            continue
        path = _absolute(name.removeprefix("(disabled):"))
        if not path.startswith((f"{SITE}/{PROJECT}/", f"{SITE}/node_modules/")) and path != EMAIL.path:
            raise errors.DeployFailed(f"The code imports '{path[:200]}', which is outside of the project.")


def _check_exports(outputs: Mapping[str, _Output], classes: Iterable[str]) -> None:
    main = f"{OUT}/{_MADE}/{code.MAIN}"
    exported = next((one.exports for name, one in outputs.items() if _absolute(name) == main), ())
    if "default" not in exported:
        raise errors.DeployFailed(
            "The file of worker.main has no default export. A Worker is a module: export default { async fetch(request,"
            " env, ctx) { … } }."
        )
    for name in classes:
        if name not in exported:
            raise errors.DeployFailed(f"The file of worker.main does not export the class {name} of durable_objects.")


def _check_text(data: bytes) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        raise errors.DeployFailed("A .txt, .html or .sql file that the code imports is no UTF-8 text.") from None


def _read(path: pathlib.Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(_bytes(path), type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise errors.DeployFailed("The bundler's account can't be read.", detail=str(error)) from error


def _bytes(path: pathlib.Path) -> bytes:
    """A file that esbuild wrote: no link is followed, and none that is larger than a Worker is read."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise errors.DeployFailed("The bundler made no Worker.", detail=str(error)) from error
    if len(data) > _MOST_BYTES:
        raise errors.DeployFailed(f"What the bundler made of the project is larger than {_MOST_BYTES} bytes.")
    return data
