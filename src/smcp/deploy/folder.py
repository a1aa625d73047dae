"""Folders with a lock: a Python or Node.js project as its author has it, and exactly the packages that its lock names.

The project's files lie at /app/project as they were sent, and nothing of them runs while it is built: **no build
backend, no install script**. A Python project is put on the path (`src/` where it has one), and what starts it is
written here, from the names in its `[project.scripts]` or from the file that the manifest names. A Node.js project's
program is its `bin`, its `main` or the file that the manifest names; TypeScript has to be compiled before. Both get
their packages from the lock by the same fetch and build as packages of an index (decision 0017).
"""

import asyncio
import pathlib
import re
from typing import Any, Final, Literal, cast

import msgspec

from smcp.deploy import build as builds
from smcp.deploy import locks, manifest, npm_builder, npm_lock, npm_modules, pypi_builder, toml
from smcp.deploy.sources import pypi
from smcp.kernel import errors
from smcp.sandbox import cells, interpreter

PROJECT: Final = "project"
_HERE: Final = f"{cells.APP}/{PROJECT}"
_START: Final = "start.py"
_METADATA: Final = "metadata"
_SCRIPTS: Final = (".js", ".mjs", ".cjs")
_PYTHON_FILES: Final = ("pylock.toml", "requirements.txt", "uv.lock", "pyproject.toml")
_NODE_FILES: Final = ("package-lock.json", "package.json")
# Entry points specification: `module:object`; extras behind it have no meaning here.
_PLACE: Final = re.compile(
    r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\s*:\s*(?P<object>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\s*(?:\[.*\])?",
    re.ASCII,
)
_VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.!+_-]{0,100}", re.ASCII)

Kind = Literal["python", "node"]


class _Package(msgspec.Struct, frozen=True):
    """What is read of a package.json."""

    name: str = ""
    main: str = ""
    bin: str | dict[str, str] | None = None
    dependencies: dict[str, str] = {}
    optional_dependencies: dict[str, str] = msgspec.field(default_factory=dict[str, str], name="optionalDependencies")


class _Root(msgspec.Struct, frozen=True):
    packages: dict[str, msgspec.Raw] = {}


class Folders:
    """Builds unpacked folders."""

    def __init__(
        self, python: interpreter.Interpreter, pip: pypi_builder.PypiBuilder, modules: npm_modules.Modules
    ) -> None:
        self._python = python
        self._pip = pip
        self._modules = modules

    async def build(
        self, name: str, tree: pathlib.Path, asked: manifest.Manifest, directory: pathlib.Path, tell: builds.Tell
    ) -> builds.Built:
        """Build the project in `tree`, which is moved. `name` is its source, for the record.

        Raises `errors.DeployFailed`, which says what to do, and `errors.SandboxMissing` without Node.js for one of it.
        """
        kind = await asyncio.to_thread(which, tree, asked.command)
        app = directory / "app"
        app.mkdir()
        root = app / PROJECT
        await asyncio.to_thread(tree.rename, root)
        if kind == "node":
            return await self._node(name, root, asked, directory, tell)
        pins = await asyncio.to_thread(locks.find, root)
        started = await asyncio.to_thread(python_start, root, asked.command)
        tell("resolve", f"Python project, {len(pins)} packages in its lock, starts {started.label}")
        # Written before anything of the tenant's could have changed what these paths lead to.
        await asyncio.to_thread(started.write, app)
        locked = await self._pip.install_locked(tuple(one.requirement for one in pins), directory, tell)
        return builds.Built(
            tree=app,
            source=name,
            lock=locked,
            argv=(f"{cells.APP}/venv/bin/python", "-P", f"{cells.APP}/{_START}", *asked.args),
            interpreter=self._python.label,
        )

    async def _node(
        self, name: str, root: pathlib.Path, asked: manifest.Manifest, directory: pathlib.Path, tell: builds.Tell
    ) -> builds.Built:
        runs = self._modules.node()
        packages = await asyncio.to_thread(node_lock, root)
        file = await asyncio.to_thread(node_start, root, asked.command)
        tell("resolve", f"Node.js project, {len(packages)} packages in its lock, starts {file}")
        # Beside the project: Node.js looks for packages in every directory above a file.
        locked = await self._modules.install(packages, directory, directory / "app", tell)
        return builds.Built(
            tree=directory / "app",
            source=name,
            lock=locked,
            argv=(runs.executable, f"{_HERE}/{file}", *asked.args),
            interpreter=runs.label,
            runtime="node",
        )


def which(root: pathlib.Path, command: str) -> Kind:
    """Whether `root` is a Python or a Node.js project. Raises `errors.DeployFailed`. Blocking."""
    if command.endswith(".py"):
        return "python"
    if command.endswith(_SCRIPTS):
        return "node"
    python = [one for one in _PYTHON_FILES if (root / one).is_file()]
    node = [one for one in _NODE_FILES if (root / one).is_file()]
    if python and node:
        locked = python != ["pyproject.toml"], _NODE_FILES[0] in node
        if locked[0] == locked[1]:
            raise errors.DeployFailed(
                "The folder is a Python and a Node.js project. Say which file starts it with 'command = …' in"
                " smcp.toml."
            )
        return "python" if locked[0] else "node"
    if not python and not node:
        raise errors.DeployFailed(
            "The folder is no project: at its top is no pyproject.toml, requirements.txt, pylock.toml or package.json."
        )
    return "python" if python else "node"


# --- Python ---


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """How a Python project is started."""

    label: str
    code: str
    """The last lines of the starting program."""
    paths: tuple[str, ...]
    """Where its modules are, inside."""
    name: str = ""
    version: str = ""

    def write(self, app: pathlib.Path) -> None:
        """Write the starting program, and what says the project's version to itself. Blocking."""
        paths = list(self.paths)
        if self.name:
            # importlib.metadata.version("…") is how many servers know their version; this is what an installation
            # of the project would have left for it (PyPA, "Recording installed projects").
            info = app / _METADATA / f"{self.name.replace('-', '_')}-{self.version}.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n", "utf-8"
            )
            paths.append(f"{cells.APP}/{_METADATA}")
        (app / _START).write_text(f"import sys\n\nsys.path[:0] = {paths!r}\n{self.code}", "utf-8")


def python_start(root: pathlib.Path, command: str) -> Start:
    """How the project in `root` is started. Raises `errors.DeployFailed`. Blocking."""
    project = _pyproject(root)
    name, version = _named(project)
    scripts = _scripts(project)
    paths = (f"{_HERE}/src", _HERE) if (root / "src").is_dir() else (_HERE,)
    if command.endswith(".py"):
        inside(root, command)
        folder = f"{_HERE}/{command}".rpartition("/")[0]
        code = f"import runpy\n\nsys.argv[0] = {f'{_HERE}/{command}'!r}\n"
        code += f"runpy.run_path({f'{_HERE}/{command}'!r}, run_name='__main__')\n"
        # As `python FILE` does: the file's own folder first.
        paths = tuple(dict.fromkeys((folder, *paths)))
        return Start(label=command, code=code, paths=paths, name=name, version=version)
    chosen = _choose(scripts, name, command)
    if chosen:
        place = _PLACE.fullmatch(scripts[chosen])
        if place is None:
            raise errors.DeployFailed(f"The script '{chosen}' of pyproject.toml is not MODULE:FUNCTION.")
        code = "import importlib\nimport operator\n\n"
        code += f"sys.argv[0] = {chosen!r}\n"
        code += f"start = operator.attrgetter({place['object']!r})(importlib.import_module({place['module']!r}))\n"
        code += "sys.exit(start())\n"
        return Start(label=chosen, code=code, paths=paths, name=name, version=version)
    module = name.replace("-", "_")
    if module and any((root / base / module / "__main__.py").is_file() for base in ("src", "")):
        code = f"import runpy\n\nrunpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
        return Start(label=f"python -m {module}", code=code, paths=paths, name=name, version=version)
    raise errors.DeployFailed(
        "Nothing says how the project is started: pyproject.toml has no [project.scripts], and no package of it has a"
        " __main__.py. Name its file with 'command = \"server.py\"' in smcp.toml."
    )


def _choose(scripts: dict[str, str], name: str, command: str) -> str:
    listed = ", ".join(sorted(scripts)) or "none"
    if command:
        if command not in scripts:
            raise errors.DeployFailed(f"pyproject.toml has no script '{command}'. It has: {listed}.")
        return command
    named = [one for one in scripts if pypi.normalise(one) == name]
    if named or len(scripts) < 2:
        return (named or [*scripts, ""])[0]
    raise errors.DeployFailed(
        f"pyproject.toml has several scripts: {listed}. Choose with 'command = …' in the manifest."
    )


def _pyproject(root: pathlib.Path) -> dict[str, Any]:
    """The `[project]` table; empty when there is none."""
    if not (root / "pyproject.toml").is_file():
        return {}
    try:
        found: Any = toml.loads(locks.text(root / "pyproject.toml")).get("project", {})
    except ValueError as error:
        raise errors.DeployFailed(f"pyproject.toml is not valid TOML: {str(error)[:200]}.") from error
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _named(project: dict[str, Any]) -> tuple[str, str]:
    """Name and version; both empty when there is no name, the version `0` when only a backend knows it."""
    name, version = project.get("name"), project.get("version", "0")
    try:
        normal = pypi.parse(f"{pypi.SCHEME}:{name}").name if isinstance(name, str) else ""
    except errors.InvalidParams as error:
        raise errors.DeployFailed("The project's name in pyproject.toml is no name of a package.") from error
    known = isinstance(version, str) and _VERSION.fullmatch(version) is not None
    return (normal, str(version) if known else "0") if normal else ("", "")


def _scripts(project: dict[str, Any]) -> dict[str, str]:
    found = project.get("scripts", {})
    if not isinstance(found, dict):
        raise errors.DeployFailed("[project.scripts] of pyproject.toml is no table.")
    return {name: place for name, place in cast("dict[str, Any]", found).items() if isinstance(place, str)}


# --- Node.js ---


def node_lock(root: pathlib.Path) -> tuple[npm_lock.Package, ...]:
    """What the project's lock wants. Raises `errors.DeployFailed`. Blocking."""
    path = root / "package-lock.json"
    if not path.is_file():
        others = [one for one in ("yarn.lock", "pnpm-lock.yaml", "bun.lock") if (root / one).is_file()]
        read = f"{others[0]} is not read. " if others else "The folder has no lock. "
        raise errors.DeployFailed(f"{read}Make one with 'npm install --package-lock-only' and deploy again.")
    with path.open("rb") as file:
        data = file.read(npm_lock.MAX_BYTES + 1)
    packages = npm_lock.parse(data)
    wanted = _package(root)
    try:
        raw = msgspec.json.decode(data, type=_Root).packages.get("")
        locked = msgspec.json.decode(raw, type=_Package) if raw is not None else _Package()
    except (msgspec.MsgspecError, RecursionError) as error:
        raise errors.DeployFailed("The package-lock.json says nothing of the project itself.") from error
    if (locked.dependencies, locked.optional_dependencies) != (wanted.dependencies, wanted.optional_dependencies):
        raise errors.DeployFailed(
            "The package-lock.json is not of this package.json: their dependencies differ. Run 'npm install' and deploy"
            " again."
        )
    return packages


def node_start(root: pathlib.Path, command: str) -> str:
    """The file of the project in `root` that is started. Raises `errors.DeployFailed`. Blocking."""
    package = _package(root)
    if command.endswith(_SCRIPTS):
        return inside(root, command)
    if command or package.bin:
        return npm_builder.program(root, package.name or "project", command)[1]
    if not package.main:
        raise errors.DeployFailed(
            "Nothing says how the project is started: package.json has no 'bin' and no 'main'. Name its file with"
            " 'command = \"index.js\"' in smcp.toml."
        )
    return inside(root, package.main.removeprefix("./"))


def _package(root: pathlib.Path) -> _Package:
    if not (root / "package.json").is_file():
        raise errors.DeployFailed("The folder has no package.json at its top.")
    try:
        return msgspec.json.decode(locks.text(root / "package.json"), type=_Package)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise errors.DeployFailed(f"The package.json can't be read: {str(error)[:200]}.") from error


# --- both ---


def inside(root: pathlib.Path, file: str) -> str:
    """`file`, when it is a file of `root`, which holds no links. Raises `errors.DeployFailed`. Blocking."""
    parts = file.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in file or not file.isprintable():
        raise errors.DeployFailed(f"'{file[:100]}' is no place inside of what was sent.")
    if not root.joinpath(*parts).is_file():
        raise errors.DeployFailed(
            f"The file '{file[:200]}' is not in what was sent. If it is made by a compiler or ignored by git, make it"
            " and send it along ('smcp deploy --include')."
        )
    return file
