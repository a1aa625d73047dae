"""MCP bundles (`.mcpb`): a zip with a manifest.json and everything that the server needs.

Format: modelcontextprotocol/mcpb, MANIFEST.md (manifest_version 0.1 to 0.4; `dxt_version` in older files). Taken are
Node.js and Python servers that bring their packages along; they lie at /app and run in the platform's own Node.js or
Python. Of the manifest's texts exactly two things are replaced, once: `${__dirname}` becomes /app, and
`${user_config.KEY}` the value of an option that the manifest declares. What a value holds is not looked at again, and
everything else, `${HOME}` and `$PATH` included, stays as it is written (CVE-2026-32625). A name in it is never a path
(GHSA-p3h2-2j4p-p83g). Options that are sensitive become secrets: the variable that uses one is set by
`smcp secret set`, not by the manifest.
"""

import asyncio
import pathlib
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from smcp.deploy import build as builds
from smcp.deploy import folder, manifest, npm_modules, wheels
from smcp.kernel import errors
from smcp.sandbox import cells, interpreter

MANIFEST: Final = "manifest.json"
MAX_BYTES: Final = 1_048_576
_NAME: Final = re.compile(r"(?:@[A-Za-z0-9][A-Za-z0-9._-]{0,60}/)?[A-Za-z0-9][A-Za-z0-9 ._-]{0,127}", re.ASCII)
_VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}", re.ASCII)
_FORMATS: Final = re.compile(r"0\.[1-4](?:\.[0-9]{1,3})?", re.ASCII)
_KEY: Final = r"[A-Za-z_][A-Za-z0-9_-]{0,127}"
_REFERENCE: Final = re.compile(rf"\$\{{(?:__dirname|user_config\.({_KEY}))\}}", re.ASCII)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_NODE: Final = frozenset({"node", "node.exe"})
_PYTHON: Final = frozenset({"python", "python3", "python.exe"})
_LIBRARIES: Final = ("server/lib", "lib")

Scalar = str | int | float | bool
Values = Mapping[str, str | list[str]]
"""What was chosen for the options, by key."""


class Option(msgspec.Struct, frozen=True):
    """Something that a person chooses (`user_config`)."""

    type: str = "string"
    title: str = ""
    required: bool = False
    default: Scalar | list[Scalar] | None = None
    sensitive: bool = False


class _Config(msgspec.Struct, frozen=True):
    command: str = ""
    args: list[str] = []
    env: dict[str, str] = {}


class _Overridden(_Config, frozen=True):
    platform_overrides: dict[str, dict[str, Any]] = {}


class _Server(msgspec.Struct, frozen=True):
    type: str
    entry_point: str = ""
    mcp_config: _Overridden = _Overridden()


class _Compatibility(msgspec.Struct, frozen=True):
    platforms: list[str] = []


class Bundle(msgspec.Struct, frozen=True):
    """What is read of a manifest.json."""

    name: str
    version: str
    server: _Server
    manifest_version: str = ""
    dxt_version: str = ""
    user_config: dict[str, Option] = {}
    compatibility: _Compatibility = _Compatibility()


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """How a bundle's server is started."""

    runtime: Literal["node", "python"]
    args: tuple[str, ...]
    """Behind the interpreter."""
    env: dict[str, str]
    secrets: tuple[str, ...]
    """Variables that need a secret of that name."""


def is_bundle(tree: pathlib.Path) -> bool:
    """Whether an unpacked zip is a bundle. Blocking."""
    try:
        found: Any = msgspec.json.decode(_data(tree))
    except (OSError, msgspec.MsgspecError, RecursionError):
        return False
    return isinstance(found, dict) and bool({"manifest_version", "dxt_version"} & set(found))  # pyright: ignore[reportUnknownArgumentType] - JSON


def parse(data: bytes) -> Bundle:
    """The manifest in `data`. Raises `errors.DeployFailed`, which says what is wrong or not supported."""
    try:
        found = msgspec.json.decode(data, type=Bundle)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise errors.DeployFailed(f"The bundle's manifest.json can't be read: {str(error)[:200]}.") from error
    version = found.manifest_version or found.dxt_version
    if _FORMATS.fullmatch(version) is None:
        raise errors.DeployFailed(f"The bundle's manifest_version is '{version[:20]}'; 0.1 to 0.4 are understood.")
    if _NAME.fullmatch(found.name) is None or ".." in found.name:
        raise errors.DeployFailed("The bundle's name is not one: letters, digits, spaces, dots, hyphens, underscores.")
    if _VERSION.fullmatch(found.version) is None:
        raise errors.DeployFailed("The bundle's version is not one.")
    for key in found.user_config:
        if re.fullmatch(_KEY, key, re.ASCII) is None:
            raise errors.DeployFailed("The bundle's user_config has an option whose name is none.")
    return found


def start(found: Bundle, values: Values) -> Start:
    """How the server is started with `values`. Raises `errors.DeployFailed` for what is missing or not supported."""
    runtime = _runtime(found)
    unknown = sorted(set(values) - set(found.user_config))
    if unknown:
        listed = ", ".join(sorted(found.user_config)) or "none"
        raise errors.DeployFailed(f"The bundle has no option '{unknown[0][:80]}'. It has: {listed}.")
    config = _on_linux(found.server.mcp_config)
    program = config.command or runtime
    if program not in (_NODE if runtime == "node" else _PYTHON):
        raise errors.DeployFailed(
            f"The bundle starts '{program[:80]}'; a bundle of type {runtime} is started with {runtime} only. What is"
            " fetched when it starts (npx, uvx) is deployed by its package: 'smcp deploy npm:NAME' or 'pypi:NAME'."
        )
    chosen = _Chosen(found.user_config, values)
    args: list[str] = []
    for template in config.args or [found.server.entry_point]:
        args += chosen.arguments(template)
    if args and args[0] == found.server.entry_point:
        args[0] = f"{cells.APP}/{args[0]}"  # the program itself, and no text of anybody's
    env: dict[str, str] = {}
    secrets: list[str] = []
    for name, template in config.env.items():
        if _VARIABLE.fullmatch(name) is None:
            raise errors.DeployFailed("The bundle's env has a variable whose name is none.")
        sensitive = [key for key in references(template) if key in found.user_config and chosen.is_sensitive(key)]
        if not sensitive:
            env[name] = chosen.text(template)
        elif any(found.user_config[key].required for key in sensitive):
            secrets.append(name)
    return Start(runtime=runtime, args=tuple(args), env=env, secrets=tuple(secrets))


def secret_values(found: Bundle, values: Values) -> dict[str, str]:
    """The variables that use a sensitive option for which there is a value, whole: for `smcp secret set`."""
    chosen = _Chosen(found.user_config, values)
    made: dict[str, str] = {}
    for name, template in _on_linux(found.server.mcp_config).env.items():
        keys = [key for key in references(template) if key in found.user_config and chosen.is_sensitive(key)]
        if keys and all(key in values for key in keys):
            made[name] = chosen.text(template, secret=True)
    return made


def references(template: str) -> list[str]:
    """The keys of the options that `template` uses."""
    return [match[1] for match in _REFERENCE.finditer(template) if match[1]]


class _Chosen:
    """Options with their values."""

    def __init__(self, options: Mapping[str, Option], values: Values) -> None:
        self._options = options
        self._values = values

    def is_sensitive(self, key: str) -> bool:
        return self._options[key].sensitive

    def text(self, template: str, *, secret: bool = False) -> str:
        """`template` with its two kinds of references replaced, once."""

        def value(match: re.Match[str]) -> str:
            key = match[1]
            if key is None:
                return cells.APP
            if key not in self._options:
                return match[0]
            if self.is_sensitive(key) and not secret:
                raise errors.DeployFailed(
                    f"The bundle puts its sensitive option '{key}' into an argument, where everybody may see it. A"
                    " secret is given as a variable only."
                )
            return ",".join(self._all(key))

        return _REFERENCE.sub(value, template)

    def arguments(self, template: str) -> list[str]:
        """As `text`; an argument that is one option and nothing else becomes as many as it has values."""
        match = _REFERENCE.fullmatch(template)
        if match is not None and match[1] in self._options and not self.is_sensitive(match[1]):
            return self._all(match[1])
        return [self.text(template)]

    def _all(self, key: str) -> list[str]:
        option = self._options[key]
        found = self._values.get(key)
        if found is not None:
            return [found] if isinstance(found, str) else list(found)
        if option.default is not None:
            default = option.default if isinstance(option.default, list) else [option.default]
            return [_plain(one) for one in default]
        if option.required:
            about = f" ({option.title[:80]})" if option.title else ""
            raise errors.DeployFailed(f"The bundle needs a value for '{key}'{about}: give it with '--config {key}=…'.")
        return []


def _plain(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _runtime(found: Bundle) -> Literal["node", "python"]:
    kind = found.server.type
    if kind == "node" or kind == "python":
        return kind
    if kind == "binary":
        raise errors.DeployFailed(
            "The bundle brings a compiled program (server.type 'binary'). Only Node.js and Python servers are hosted."
        )
    if kind == "uv":
        raise errors.DeployFailed(
            "The bundle installs its packages when it starts (server.type 'uv'), which needs a network that it does not"
            " get. Deploy its folder with a lock instead: 'smcp deploy ./folder'."
        )
    raise errors.DeployFailed(f"The bundle's server.type is '{kind[:40]}'; 'node' and 'python' are understood.")


def _on_linux(config: _Overridden) -> _Config:
    raw = config.platform_overrides.get("linux", {})
    try:
        over = msgspec.convert(raw, _Config)
    except msgspec.ValidationError as error:
        raise errors.DeployFailed(f"The bundle's platform_overrides can't be read: {error}.") from error
    return _Config(over.command or config.command, over.args or config.args, {**config.env, **over.env})


def _data(tree: pathlib.Path) -> bytes:
    with (tree / MANIFEST).open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise errors.DeployFailed(f"The bundle's manifest.json is larger than {MAX_BYTES} bytes.")
    return data.removeprefix(b"\xef\xbb\xbf")


def _read(tree: pathlib.Path) -> tuple[Bundle, list[str]]:
    """The bundle's manifest, and the directories inside that hold its Python packages."""
    found = parse(_data(tree))
    if found.server.entry_point:
        folder.inside(tree, found.server.entry_point.removeprefix("./"))
    return found, [f"{cells.APP}/{one}" for one in _LIBRARIES if (tree / one).is_dir()]


class Bundles:
    """Builds unpacked bundles: nothing is fetched and nothing runs."""

    def __init__(self, python: interpreter.Interpreter, modules: npm_modules.Modules) -> None:
        self._python = python
        self._modules = modules

    async def build(
        self, name: str, digest: str, tree: pathlib.Path, asked: manifest.Manifest, tell: builds.Tell
    ) -> builds.Built:
        """Build the bundle in `tree`. `name` is its source, for the record; `digest` the upload's, in hex.

        Raises `errors.DeployFailed` and, for a Node.js bundle, `errors.SandboxMissing`.
        """
        found, libraries = await asyncio.to_thread(_read, tree)
        how = start(found, asked.config)
        platforms = found.compatibility.platforms
        if platforms and "linux" not in platforms:
            tell("resolve", f"the bundle is made for {', '.join(platforms)[:100]}; it is tried on Linux")
        runs = self._modules.node() if how.runtime == "node" else self._python
        tell("resolve", f"{found.name} {found.version}, a bundle for {how.runtime}")
        env = how.env
        if how.runtime == "python" and libraries:
            env = {"PYTHONPATH": ":".join(libraries), **env}
        return builds.Built(
            tree=tree,
            source=name,
            lock=(wheels.Locked(found.name, found.version, digest),),
            argv=(runs.executable, *how.args, *asked.args),
            interpreter=runs.label,
            runtime=how.runtime,
            asked=msgspec.structs.replace(
                asked,
                # What the tenant says wins over what the bundle says.
                env={**env, **asked.env},
                secrets={**dict.fromkeys(how.secrets, "env"), **asked.secrets},
            ),
        )
