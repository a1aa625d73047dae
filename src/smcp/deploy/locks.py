"""Python lock files, read by a small strict grammar: names, exact versions, SHA-256, markers; nothing else.

Understood are `requirements.txt` with hashes (what `uv export` and `pip-compile --generate-hashes` write) and
`pylock.toml` (PEP 751). What is read is written anew, in one form, for pip: no option, address, path or second meaning
of a tenant's text reaches it. Where the packages come from is the platform's own package index; addresses in a
pylock.toml are not used, its digests are.
"""

import pathlib
import re
from collections.abc import Iterator
from typing import Any, Final, cast

import msgspec

from smcp.deploy import toml
from smcp.deploy.sources import pypi
from smcp.kernel import errors

MAX_BYTES: Final = 4_194_304
_MOST: Final = 2000
_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?"
_LINE: Final = re.compile(
    rf"(?P<name>{_NAME})\s*(?:\[[A-Za-z0-9._, -]*\])?\s*==\s*(?P<version>[^\s;]+)\s*(?:;(?P<marker>.*))?",
    re.ASCII,
)
_HASHES: Final = re.compile(r"\s+--hash=")
_HASH: Final = re.compile(r"(?P<kind>[a-z0-9]+):(?P<digest>[0-9a-f]+)", re.ASCII)
_LONGEST_LINE: Final = 65_536
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
# PEP 508, "Environment Markers": variables, operators and quoted texts without anything that could end the text.
_VARIABLES: Final = (
    "python_version|python_full_version|os_name|sys_platform|platform_release|platform_system|platform_version"
    "|platform_machine|platform_python_implementation|implementation_name|implementation_version"
)
_MARKER: Final = re.compile(
    rf"(?:\s|\(|\)|\b(?:{_VARIABLES}|and|or|not|in)\b|===|[<>=!~]=|<|>"
    r"|'[A-Za-z0-9 ._*+!-]*'|\"[A-Za-z0-9 ._*+!-]*\"){1,400}",
    re.ASCII,
)
_EXPORT: Final = "uv export --no-dev --no-emit-project -o requirements.txt"
_HOW: Final = (
    f"With uv: '{_EXPORT}'. With pip-tools: 'pip-compile --generate-hashes -o requirements.txt'. With pip 25.1 or"
    " newer: 'pip lock .'"
)


class Pin(msgspec.Struct, frozen=True):
    """One package: exactly these files, where `marker` holds."""

    name: str
    version: str
    sha256: tuple[str, ...]
    marker: str = ""

    @property
    def requirement(self) -> str:
        """As a line of pip's requirements file."""
        marker = f" ; {self.marker}" if self.marker else ""
        return f"{self.name}=={self.version}{marker}" + "".join(f" --hash=sha256:{one}" for one in self.sha256)


def find(root: pathlib.Path) -> tuple[Pin, ...]:
    """The pins of the project in `root`, sorted. Blocking.

    Raises `errors.DeployFailed`, which says what is wrong and where, or how to make a lock.
    """
    for name, read in (("pylock.toml", pylock), ("requirements.txt", requirements)):
        if (root / name).is_file():
            return _sorted(read(text(root / name)))
    if (root / "uv.lock").is_file():
        raise errors.DeployFailed(f"uv.lock is not read. Write its exact packages out: '{_EXPORT}', and deploy again.")
    raise errors.DeployFailed(f"The folder has no lock: what would be installed is not said exactly. {_HOW}.")


def text(path: pathlib.Path) -> str:
    """The file as text. Raises `errors.DeployFailed`. Blocking."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise errors.DeployFailed(f"{path.name} is larger than {MAX_BYTES} bytes.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise errors.DeployFailed(f"{path.name} is not UTF-8 text.") from error


# --- requirements.txt ---


def requirements(content: str) -> Iterator[Pin]:
    """The pins of a requirements file. Raises `errors.DeployFailed` with the line."""
    for number, line in _logical(content):
        where = f"requirements.txt, line {number}"
        head, *hashes = _HASHES.split(line)
        found = _LINE.fullmatch(head)
        if found is None:
            raise errors.DeployFailed(f"{where}: {_why_not(line)}")
        digests: list[str] = []
        for word in hashes:
            match = _HASH.fullmatch(word.strip())
            if match is None:
                raise errors.DeployFailed(f"{where}: '{word[:80]}' is no digest.")
            if match["kind"] == "sha256":
                digests.append(match["digest"])
        yield _pin(where, found["name"], found["version"], digests, found["marker"] or "")


def _logical(content: str) -> Iterator[tuple[int, str]]:
    """Lines without comments, continued ones joined, with their first number (pip, "Requirements File Format")."""
    waiting, first = "", 0
    for number, line in enumerate(content.splitlines(), 1):
        first = first or number
        if len(waiting) + len(line) > _LONGEST_LINE:
            raise errors.DeployFailed(f"requirements.txt, line {number} is endless.")
        if line.endswith("\\"):
            waiting += line[:-1] + " "
            continue
        whole = re.sub(r"(?:^|\s)#.*", "", waiting + line).strip()
        waiting, start, first = "", first, 0
        if whole:
            yield start, whole
    if waiting.strip():
        raise errors.DeployFailed("requirements.txt ends in the middle of a line.")


def _why_not(line: str) -> str:
    word = line.split()[0][:80]
    if line.startswith(("-e", "--editable", ".", "/")):
        return f"'{word}' is a folder. Only packages of the index are fetched; leave the project out: '{_EXPORT}'."
    if line.startswith("-"):
        return f"the option '{word}' is not taken; only NAME==VERSION with --hash is."
    if "@" in line or "://" in line:
        return (
            f"'{word}' comes from an address. Only packages of the index are fetched: no URLs, repositories or files."
        )
    return f"'{word}' is not NAME==VERSION with --hash=sha256:…. {_HOW}."


# --- pylock.toml (PEP 751) ---


def pylock(content: str) -> Iterator[Pin]:
    """The pins of a pylock.toml. Raises `errors.DeployFailed` with the package."""
    try:
        tree = toml.loads(content)
    except ValueError as error:
        raise errors.DeployFailed(f"pylock.toml is not valid TOML: {str(error)[:200]}.") from error
    if not str(tree.get("lock-version", "")).startswith("1."):
        raise errors.DeployFailed("pylock.toml is not of lock-version 1.")
    packages = tree.get("packages", [])
    if not isinstance(packages, list):
        raise errors.DeployFailed("pylock.toml has no list of packages.")
    for number, package in enumerate(cast("list[Any]", packages), 1):
        table = _table(package)
        name, version = table.get("name"), table.get("version")
        where = f"pylock.toml, package {number}" + (f" ({name[:80]})" if isinstance(name, str) else "")
        if _table(table.get("directory")).get("path") in (".", "./"):
            continue  # the project itself, as `pip lock .` names it: it is what was uploaded
        for key in ("vcs", "directory", "archive"):
            if key in table:
                raise errors.DeployFailed(f"{where} comes from a {key}. Only packages of the index are fetched.")
        if not isinstance(name, str) or re.fullmatch(_NAME, name, re.ASCII) is None or not isinstance(version, str):
            raise errors.DeployFailed(f"{where} has no name and exact version.")
        wheels = table.get("wheels", [])
        if not isinstance(wheels, list) or not wheels:
            raise errors.DeployFailed(f"{where} has no wheel, only a source distribution, which is not built here.")
        digests = [_table(_table(wheel).get("hashes")).get("sha256") for wheel in cast("list[Any]", wheels)]
        if not all(isinstance(one, str) for one in digests):
            raise errors.DeployFailed(f"{where} has a wheel without a SHA-256.")
        marker = table.get("marker", "")
        yield _pin(where, name, version, cast("list[str]", digests), marker if isinstance(marker, str) else "?")


def _table(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


# --- both ---


def _pin(where: str, name: str, version: str, digests: list[str], marker: str) -> Pin:
    marker = " ".join(marker.split())
    try:
        source = pypi.parse(f"{pypi.SCHEME}:{name}=={version}")
    except errors.InvalidParams as error:
        raise errors.DeployFailed(f"{where}: '{version[:60]}' is no exact version in its normal form.") from error
    if not digests:
        raise errors.DeployFailed(f"{where}: {source.name} has no --hash=sha256:…. {_HOW}.")
    if any(_SHA256.fullmatch(one) is None for one in digests):
        raise errors.DeployFailed(f"{where}: a digest of {source.name} is no SHA-256.")
    if marker and _MARKER.fullmatch(marker) is None:
        raise errors.DeployFailed(f"{where}: the marker of {source.name} is not one that is understood.")
    return Pin(source.name, source.version, tuple(sorted(set(digests))), marker)


def _sorted(pins: Iterator[Pin]) -> tuple[Pin, ...]:
    found: list[Pin] = []
    for pin in pins:
        found.append(pin)
        if len(found) > _MOST:
            raise errors.DeployFailed(f"The lock names more than {_MOST} packages.")
    return tuple(sorted(found, key=lambda one: (one.name, one.version, one.marker)))
