"""npm's lock file read as a plan: which package goes where, and what is refused because it is no registry's package.

It was made by npm in the fetch, or came with a tenant's folder; either way it is only data here. What is fetched is
always a name and an exact version from the configured registry, whatever address the file names; `integrity` says
which bytes. Format: npm documentation, "package-lock.json", lockfileVersion 2 and 3.
"""

import base64
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from smcp.deploy.sources import npm
from smcp.kernel import errors

MAX_BYTES: Final = 16_777_216
_MOST: Final = 10_000
_DEEPEST: Final = 64
_MODULES: Final = "node_modules/"
_SHA512: Final = re.compile(r"(?:^|\s)(sha512-[A-Za-z0-9+/]{86}==)(?:$|[\s?])", re.ASCII)
# A range or a tag (npm documentation, "package.json", dependencies). Everything else that npm takes (URLs,
# repositories, paths, workspaces) holds a colon or a slash.
_ALIAS: Final = re.compile(r"npm:(?P<name>(?:@[^@/]+/)?[^@/:]+)(?:@[^:/]*)?")
_PROCESSORS: Final[Mapping[str, str]] = {"x86_64": "x64", "aarch64": "arm64"}


class _Entry(msgspec.Struct, frozen=True):
    version: str = ""
    name: str = ""
    integrity: str = ""
    link: bool = False
    dev: bool = False
    optional: bool = False
    in_bundle: bool = msgspec.field(default=False, name="inBundle")
    extraneous: bool = False
    os: list[str] | str = []
    cpu: list[str] | str = []
    libc: list[str] | str = []
    dependencies: dict[str, str] = {}
    optional_dependencies: dict[str, str] = msgspec.field(default_factory=dict[str, str], name="optionalDependencies")
    peer_dependencies: dict[str, str] = msgspec.field(default_factory=dict[str, str], name="peerDependencies")


class _File(msgspec.Struct, frozen=True):
    version: Literal[2, 3] = msgspec.field(name="lockfileVersion")
    packages: dict[str, _Entry]


class Package(msgspec.Struct, frozen=True):
    """One package, and where it goes."""

    path: str
    """Below the root: `node_modules/a/node_modules/@b/c`."""
    name: str
    version: str
    integrity: str
    """Subresource Integrity, `sha512-…`."""

    @property
    def operand(self) -> str:
        """As npm takes it: `name@version`. It never begins with a hyphen."""
        return f"{self.name}@{self.version}"


def parse(data: bytes) -> tuple[Package, ...]:
    """What `data` (a package-lock.json) wants installed on this machine without development, sorted by path.

    Raises `errors.DeployFailed` for anything that is not a registry's package with a SHA-512, by its name.
    """
    if len(data) > MAX_BYTES:
        raise errors.DeployFailed(f"The package-lock.json is larger than {MAX_BYTES} bytes.")
    try:
        file = msgspec.json.decode(data, type=_File)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise errors.DeployFailed(
            f"The package-lock.json can't be read ({str(error)[:200]}). It has to be of version 2 or 3 (npm 7 and on)."
        ) from error
    if len(file.packages) > _MOST:
        raise errors.DeployFailed(f"The package-lock.json names more than {_MOST} packages.")
    found: list[Package] = []
    for path, entry in sorted(file.packages.items()):
        if not entry.in_bundle and not entry.dev:
            _check_wishes(path, entry)
        # What is bundled is inside its parent's file, and covered by that one's digest.
        if path and not (entry.in_bundle or entry.dev or entry.extraneous):
            package = _package(path, entry)
            if _fits(entry):
                found.append(package)
            elif not entry.optional:
                raise errors.DeployFailed(f"{package.operand} does not run on this machine ({_here()}).")
    return tuple(found)


def _check_wishes(path: str, entry: _Entry) -> None:
    wishes = {**entry.peer_dependencies, **entry.dependencies, **entry.optional_dependencies}
    for name, wish in wishes.items():
        if ":" not in wish and "/" not in wish:
            continue
        alias = _ALIAS.fullmatch(wish)
        if alias is None or not npm.is_name(alias["name"]):
            whose = path.rpartition(_MODULES)[2] or "The package"
            raise errors.DeployFailed(
                f"{whose[:220]} depends on {name[:220]} from '{_brief(wish)}', which is no package of the registry."
                " Only packages of the registry are fetched: no repositories, addresses, files or folders."
            )


def _package(path: str, entry: _Entry) -> Package:
    names = path.split(_MODULES)
    inner = [one.removesuffix("/") for one in names[1:]]
    # `node_modules/a/node_modules/@b/c` and nothing else: no way up, no folder beside it.
    if names[0] or not 1 <= len(inner) <= _DEEPEST or not all(npm.is_name(one) for one in inner):
        raise errors.DeployFailed(
            f"The lock puts a package at '{path[:200]}', which is no place for one of the registry."
        )
    if path != "/".join(f"{_MODULES}{one}" for one in inner):
        raise errors.DeployFailed(f"The lock puts a package at '{path[:200]}', which is no normal path.")
    name = entry.name or inner[-1]
    if entry.link or not npm.is_name(name) or not npm.is_version(entry.version.partition("+")[0]):
        raise errors.DeployFailed(f"'{path[:200]}' is no package of the registry with an exact version.")
    integrity = _SHA512.search(entry.integrity)
    if integrity is None:
        raise errors.DeployFailed(
            f"The registry or lock gives no SHA-512 for {name}@{entry.version}: what it is can't be checked."
        )
    return Package(path, name, entry.version.partition("+")[0], integrity[1])


def _brief(wish: str) -> str:
    # An address may carry a credential.
    return re.sub(r"//[^/@\s]*@", "//…@", wish)[:120]


def _fits(entry: _Entry) -> bool:
    """npm's check of `os`, `cpu` and `libc` (npm documentation, "package.json")."""
    system, processor, library = _machine()
    return _allowed(entry.os, system) and _allowed(entry.cpu, processor) and _allowed(entry.libc, library)


def _allowed(words: Sequence[str] | str, mine: str) -> bool:
    listed = [words] if isinstance(words, str) else list(words)
    if not listed or listed == ["any"]:
        return True
    if f"!{mine}" in listed:
        return False
    return mine in listed or all(one.startswith("!") for one in listed)


def _machine() -> tuple[str, str, str]:
    machine = platform.machine()
    library = "glibc" if platform.libc_ver()[0] == "glibc" else "musl"
    return sys.platform, _PROCESSORS.get(machine, machine), library


def _here() -> str:
    return ", ".join(_machine())


def hexadecimal(integrity: str) -> str:
    """The digest of a `sha512-…`."""
    return base64.b64decode(integrity.removeprefix("sha512-")).hex()
