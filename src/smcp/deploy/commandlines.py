"""The command lines of clients' configurations, taken apart without a shell: which package or program do they start?

Each form is a small grammar of its own: the options that are known are named, and whatever is not is refused, because
an option that is left out silently changes what runs. Nothing here runs anything, reads a file, or expands a variable.
Forms: npx (npm documentation, "npx"), uvx and `uv tool run` (uv documentation, "Using tools"), `python -m`
(Python documentation, "Command line and environment"), and a program's file behind `node` or `python`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, Literal

import msgspec

from smcp.deploy.sources import pypi
from smcp.kernel import errors

Kind = Literal["npm", "pypi", "file"]


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What a command line starts."""

    kind: Kind
    package: str
    """The package's name, or the program's file as it was written."""
    version: str = ""
    command: str = ""
    """The package's command, where the line names one."""
    args: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


class Untranslatable(Exception):
    """The line can't become a deployment; the text says why and what to do instead."""


_NPM: Final = re.compile(
    r"(?P<name>(?:@[a-z0-9~-][a-z0-9._~-]{0,100}/)?[a-zA-Z0-9~-][a-zA-Z0-9._~-]{0,210})(?:@(?P<version>[^@]*))?",
    re.ASCII,
)
_SEMVER: Final = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?", re.ASCII)
_TAG: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,60}", re.ASCII)
_PYPI: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?P<extras>\[[^\]]*\])?(?:(?:==|@)(?P<version>.*))?", re.ASCII
)
_MODULE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*", re.ASCII)
_PYTHON: Final = re.compile(r"(?:python|py|pypy)[0-9.]*w?", re.ASCII)
_SUFFIX: Final = re.compile(r"\.(?:exe|cmd|bat|ps1)\Z", re.IGNORECASE)
_PYTHON_FLAGS: Final = re.compile(r"-[uBIEsSOPq]+", re.ASCII)
_NPX_QUIET: Final = frozenset({"-y", "--yes", "-q", "--quiet", "--silent", "--prefer-online", "--prefer-offline"})
_UVX_QUIET: Final = frozenset(
    {"-q", "--quiet", "--isolated", "--no-progress", "--native-tls", "--no-cache", "-n", "--refresh", "-U", "--upgrade"}
)
_SHELLS: Final = frozenset({"sh", "bash", "zsh", "dash", "fish", "powershell", "pwsh"})
_FORMS: Final = "npx PACKAGE, uvx PACKAGE, python -m MODULE, node FILE.js and python FILE.py are understood"


def read(command: str, args: tuple[str, ...]) -> Command:
    """What `command` with `args` starts. Raises `Untranslatable`."""
    name = program(command)
    if name == "cmd" and args and args[0].lower() == "/c" and len(args) > 1:
        # How Windows starts npx.cmd. Only the one program behind it is looked at; `cmd` itself is never run.
        return read(args[1], args[2:])
    if _PYTHON.fullmatch(name):
        return _python(args)
    form = _READERS.get(name)
    if form is not None:
        return form(args)
    if name in _SHELLS or name == "cmd":
        raise Untranslatable(
            f"It starts a shell ('{name}'), and SMCP never runs one. Write the program itself as the command: {_FORMS}."
        )
    if " " in name:
        raise Untranslatable(
            f"The command '{command[:80]}' holds spaces. Write only the program as the command, and each argument as an"
            " entry of args."
        )
    raise Untranslatable(f"The command '{name[:80]}' is not understood: {_FORMS}.")


def program(command: str) -> str:
    """The name of the program in `command`: without directories and Windows's suffixes, in small letters."""
    return _SUFFIX.sub("", re.split(r"[/\\]", command.strip())[-1]).lower()


# --- npm ---


def _npx(args: tuple[str, ...]) -> Command:
    packages: list[str] = []
    rest = list(args)
    while rest and rest[0].startswith("-"):
        option, equals, value = rest.pop(0).partition("=")
        if option == "--":
            break
        if option in ("-p", "--package"):
            packages.append(value if equals else _value(option, rest))
        elif option in ("-c", "--call"):
            raise Untranslatable("'npx -c' runs a line in a shell, and SMCP never runs one. Name the package instead.")
        elif option not in _NPX_QUIET or equals:
            raise Untranslatable(f"npx's option '{option[:60]}' is not understood; leave it out, or say what it means.")
    if len(packages) > 1:
        raise Untranslatable("It installs several packages for one command. Deploy a folder with a lock file instead.")
    if not rest and not packages:
        raise Untranslatable("It names no package behind npx.")
    if packages:
        name, version, notices = _npm_package(packages[0])
        return Command(
            kind="npm",
            package=name,
            version=version,
            command=rest[0] if rest else "",
            args=tuple(rest[1:]),
            notices=notices,
        )
    name, version, notices = _npm_package(rest[0])
    return Command(kind="npm", package=name, version=version, args=tuple(rest[1:]), notices=notices)


def _npm_package(text: str) -> tuple[str, str, tuple[str, ...]]:
    found = _NPM.fullmatch(text)
    if found is None or text.startswith("-") or text.endswith((".js", ".mjs", ".cjs")):
        raise Untranslatable(
            f"'{text[:100]}' is not the name of an npm package. Git, archives, URLs and local paths are not fetched:"
            " deploy the folder with 'smcp deploy ./folder' instead."
        )
    version = found["version"]
    if version is None or _SEMVER.fullmatch(version) is not None:
        return found["name"], version or "", ()
    if version and _TAG.fullmatch(version) is None:
        told = f"'{version[:40]}' is a range: the newest version is taken and locked. Write an exact version to pin it."
        if not re.fullmatch(r"[\^~<>=]{0,2}[0-9xX*][0-9A-Za-z.*-]*", version, re.ASCII):
            raise Untranslatable(f"'{text[:100]}' names no version of a package; write NAME or NAME@1.2.3.")
        return found["name"], "", (told,)
    if version in ("", "latest"):
        return found["name"], "", ("The newest version is taken, and locked: deploy again to update.",)
    raise Untranslatable(f"'{version}' is a tag of npm, which can point anywhere. Write an exact version instead.")


# --- PyPI ---


def _uvx(args: tuple[str, ...]) -> Command:
    source, notices = "", list[str]()
    rest = list(args)
    while rest and rest[0].startswith("-"):
        option, equals, value = rest.pop(0).partition("=")
        if option == "--":
            break
        if option == "--from":
            source = value if equals else _value(option, rest)
        elif option in ("-p", "--python"):
            wanted = value if equals else _value(option, rest)
            notices.append(f"It asks for Python {wanted[:40]}; the platform's own Python is used.")
        elif option in ("--with", "--with-requirements", "--with-editable"):
            raise Untranslatable(
                f"uvx's '{option}' adds packages beside the server. Deploy a folder whose lock file names them instead."
            )
        elif option not in _UVX_QUIET or equals:
            raise Untranslatable(f"uvx's option '{option[:60]}' is not understood; leave it out, or deploy a folder.")
    if not rest:
        raise Untranslatable("It names no package behind uvx.")
    name, version, told = _pypi_package(source or rest[0])
    command = _pypi_package(rest[0])[0] if source else ""
    return Command(
        kind="pypi",
        package=name,
        version=version,
        command=rest[0] if source and command != name else "",
        args=tuple(rest[1:]),
        notices=(*notices, *told),
    )


def _pypi_package(text: str) -> tuple[str, str, tuple[str, ...]]:
    found = _PYPI.fullmatch(text)
    if found is None:
        raise Untranslatable(
            f"'{text[:100]}' is not NAME or NAME==VERSION of a Python package. Git, archives, URLs, ranges and paths"
            " are not fetched: deploy a folder with a lock file instead."
        )
    if found["extras"]:
        raise Untranslatable(
            f"'{text[:100]}' asks for extras. Deploy a folder whose lock file names the packages that they bring."
        )
    version = found["version"]
    if version == "latest" or not version:
        told = ("The newest version is taken, and locked: deploy again to update.",) if version else ()
        return pypi.normalise(found["name"]), "", told
    try:
        source = pypi.parse(f"{pypi.SCHEME}:{found['name']}=={version}")
    except errors.InvalidParams as error:
        raise Untranslatable(error.public) from error
    return source.name, source.version, ()


def _uv(args: tuple[str, ...]) -> Command:
    if args[:2] == ("tool", "run"):
        return _uvx(args[2:])
    where = next(
        (args[place + 1] for place, one in enumerate(args[:-1]) if one in ("--directory", "--project")), "the folder"
    )
    raise Untranslatable(
        "'uv run' makes an environment of a project on your machine. Deploy the project itself:"
        f" 'uv export --no-dev --no-emit-project -o requirements.txt' in {where[:120]}, then 'smcp deploy' with it."
    )


def _python(args: tuple[str, ...]) -> Command:
    rest = list(args)
    while rest and _PYTHON_FLAGS.fullmatch(rest[0]):
        rest.pop(0)
    if not rest:
        raise Untranslatable("It starts Python without a module or a file.")
    if rest[0] == "-c":
        raise Untranslatable("It runs a line of Python ('-c'). Put it into a file and deploy its folder.")
    if rest[0] == "-m":
        if len(rest) < 2 or _MODULE.fullmatch(rest[1]) is None:
            raise Untranslatable("'-m' is followed by no module.")
        module = rest[1]
        guess = pypi.normalise(module.partition(".")[0])
        told = (
            f"The file names the module {module}, not its package: '{guess}' is guessed, and its own command is"
            " started. Check that this is the package you mean."
        )
        return Command(kind="pypi", package=guess, args=tuple(rest[2:]), notices=(told,))
    if rest[0].startswith("-"):
        raise Untranslatable(f"Python's option '{rest[0][:60]}' is not understood; leave it out.")
    return Command(kind="file", package=rest[0], args=tuple(rest[1:]))


def _node(args: tuple[str, ...]) -> Command:
    if not args:
        raise Untranslatable("It starts Node without a file.")
    if args[0].startswith("-"):
        raise Untranslatable(f"Node's option '{args[0][:60]}' is not understood; leave it out.")
    return Command(kind="file", package=args[0], args=tuple(args[1:]))


def _container(_: tuple[str, ...]) -> Command:
    raise Untranslatable(
        "It runs a container image, and SMCP runs packages in its own sandbox, not images. Look for the same server on"
        " PyPI or npm, or deploy its folder."
    )


def _value(option: str, rest: list[str]) -> str:
    if not rest:
        raise Untranslatable(f"'{option}' is followed by nothing.")
    return rest.pop(0)


_READERS: Final[Mapping[str, Callable[[tuple[str, ...]], Command]]] = {
    "npx": _npx,
    "uvx": _uvx,
    "uv": _uv,
    "node": _node,
    "nodejs": _node,
    "docker": _container,
    "podman": _container,
    "nerdctl": _container,
}
