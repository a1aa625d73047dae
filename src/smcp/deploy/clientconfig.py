"""Configurations of MCP clients (`mcpServers` JSON) as deployments: read, translated, explained; nothing is run.

Understood is what Claude Desktop, Cursor, Windsurf (`mcpServers`) and VS Code (`servers`, also below `mcp`) write: an
object of entries with `command`, `args`, `env`, or with `url` and `headers` for a server that runs elsewhere. Every
text is taken literally. `${VAR}`, `${env:VAR}` and `${input:x}` are references into somebody's environment and are
**not** followed: not here, and not on the platform (CVE-2026-32625); an entry whose environment or header holds one
needs a value from a person.
"""

import json
import os
import pathlib
import re
import stat
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from smcp.deploy import clientremotes, commandlines
from smcp.deploy.sources import remote
from smcp.kernel import errors, ids, redact

MAX_BYTES: Final = 1_048_576
PROJECT_FILES: Final = ("pyproject.toml", "package.json", "requirements.txt", "pylock.toml")

_REFERENCE: Final = clientremotes.REFERENCE
_SECRET: Final = re.compile(
    r"key|token|secret|passw|passphrase|credential|(?:^|_)(?:auth|pat|pwd|dsn)(?:$|_)|cookie|private", re.IGNORECASE
)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_PATHLIKE: Final = re.compile(r"(?:/[^/\s]|~[/\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\)")
_PLACEHOLDER: Final = re.compile(
    r"<[^<>]*>|(?:your|my|insert|enter|changeme|replace)[-_ ].*|x{3,}|\.{3}", re.IGNORECASE
)
_UNNAMED: Final = re.compile(r"[^a-z0-9]+")
_KNOWN: Final = frozenset(
    {"command", "args", "env", "type", "transport", "name", "description", "url", "serverUrl", "headers"}
)
_LOCAL: Final = frozenset({"stdio", "local"})


class Translation(msgspec.Struct, frozen=True, kw_only=True):
    """One entry as what would be deployed, or why it can't be."""

    entry: str
    """Its name in the file."""
    server: str
    """Its name on the platform."""
    source: str = ""
    """`pypi:…`, `npm:…` or an address; empty for a folder and for what is refused."""
    folder: str = ""
    """The folder of this machine to deploy; empty for a package."""
    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    secrets: dict[str, str] = {}
    """Values are not shown."""
    needs: tuple[str, ...] = ()
    """Variables that need a value, because the file only refers to one."""
    notices: tuple[str, ...] = ()
    refused: str = ""
    headers: dict[str, str] = {}
    """Of a remote server: header and the name of its secret."""
    wire: remote.Wire = "auto"

    def __repr__(self) -> str:
        return f"Translation(entry={self.entry!r}, source={self.source!r}, folder={self.folder!r})"

    def shown(self) -> dict[str, Any]:
        """For people and `--json`: everything but the values of secrets."""
        made = msgspec.to_builtins(self)
        made["secrets"] = sorted(self.secrets)
        return made

    @property
    def remote(self) -> bool:
        """Does it run elsewhere?"""
        return self.source.startswith(tuple(f"{scheme}:" for scheme in remote.SCHEMES))

    def manifest(self, extra: Mapping[str, str] | None = None) -> str:
        """The `smcp.toml` that starts it; `extra` is environment that was missing. Secrets are not in it."""
        lines: list[str] = []
        if self.command:
            lines.append(f"command = {toml(self.command)}")
        if self.args:
            lines.append(f"args = [{', '.join(toml(one) for one in self.args)}]")
        env = {**self.env, **(extra or {})}
        if env:
            lines += ["", "[env]", *(f"{name} = {toml(value)}" for name, value in env.items())]
        if self.remote:
            lines += remote_table(self.headers, self.wire)
        return "\n".join(lines) + "\n" if lines else ""


def remote_table(headers: Mapping[str, str], wire: remote.Wire) -> list[str]:
    """The lines of a manifest's `[remote]`; the address stands elsewhere."""
    lines = ["[remote]", f"wire = {toml(wire)}"]
    if headers:
        lines += ["[remote.headers]", *(f"{toml(name)} = {toml(secret)}" for name, secret in headers.items())]
    return lines


def toml(text: str) -> str:
    """`text` as a TOML basic string (TOML 1.0, "String"): JSON's escapes are a part of TOML's."""
    # DEL must be escaped in TOML and need not be in JSON.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def read(text: str) -> dict[str, dict[str, Any]]:
    """The entries of a client's configuration, by name. Raises `errors.InvalidParams`."""
    if len(text) > MAX_BYTES:
        raise errors.InvalidParams("The configuration file is too large to be one.")
    try:
        tree: Any = json.loads(_plain_json(text.removeprefix("\ufeff")), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise errors.InvalidParams(f"The configuration file is not valid JSON: {error}.") from error
    nested = _object(_object(tree).get("mcp"))
    for holder in (_object(tree), nested):
        for key in ("mcpServers", "servers"):
            found = holder.get(key)
            if isinstance(found, dict):
                entries = cast("dict[str, Any]", found)
                return {name: _object(entry) for name, entry in entries.items()}
    raise errors.InvalidParams(
        "The file has no 'mcpServers' (Claude, Cursor, Windsurf) and no 'servers' (VS Code): it is no configuration of"
        " MCP servers."
    )


def translate(entries: Mapping[str, Mapping[str, Any]], base: pathlib.Path) -> list[Translation]:
    """Every entry, in the file's order. `base` is where relative paths begin. Reads no file but to see whether it is
    there."""
    made: list[Translation] = []
    taken: dict[str, str] = {}
    for name, entry in entries.items():
        server = server_name(name)
        try:
            if not server:
                raise commandlines.Untranslatable("Its name holds no letter and no digit; give it another one.")
            if server in taken:
                raise commandlines.Untranslatable(
                    f"Its name becomes '{server}', as that of '{taken[server][:60]}' does. Rename one of them."
                )
            taken[server] = name
            made.append(_entry(name, server, entry, base))
        except commandlines.Untranslatable as problem:
            made.append(Translation(entry=name, server=server, refused=str(problem)))
    return made


def server_name(text: str) -> str:
    """`text` as a server's name: small letters, digits and single hyphens; may be empty."""
    return _UNNAMED.sub("-", text.lower()).strip("-")[: ids.MAX_SERVER].strip("-")


def is_secret(name: str, value: str) -> bool:
    """Is this variable to be kept as a secret? By its name, or because its value looks like a credential."""
    return _SECRET.search(name) is not None or redact.is_secret_name(name) or redact.text(value) != value


# --- one entry ---


def _entry(name: str, server: str, entry: Mapping[str, Any], base: pathlib.Path) -> Translation:
    if clientremotes.address(entry) is not None:
        return _remote(name, server, clientremotes.read(entry), _about_rest(entry))
    kind = entry.get("type") or entry.get("transport") or "stdio"
    if kind not in _LOCAL:
        raise commandlines.Untranslatable(f"Its transport is '{str(kind)[:40]}'; only stdio servers have a command.")
    command, args = entry.get("command"), entry.get("args", [])
    if not isinstance(command, str) or not command.strip():
        raise commandlines.Untranslatable("It has no command.")
    if not isinstance(args, list) or not all(isinstance(one, str) for one in cast("list[Any]", args)):
        raise commandlines.Untranslatable("Its args are not a list of texts.")
    parsed = commandlines.read(command, tuple(cast("list[str]", args)))
    env, secrets, needs, told = _environment(entry.get("env", {}))
    if parsed.kind == "npm" and parsed.package == clientremotes.RELAY:
        return _remote(name, server, clientremotes.relayed(parsed.args, {**env, **secrets}), _about_rest(entry))
    notices = (*parsed.notices, *_about_args(parsed.args), *told, *_about_rest(entry))
    source, folder, start = _source(parsed, entry, base)
    return Translation(
        entry=name,
        server=server,
        source=source,
        folder=folder,
        command=start,
        args=parsed.args,
        env=env,
        secrets=secrets,
        needs=needs,
        notices=notices,
    )


def _remote(name: str, server: str, found: clientremotes.Found, told: Sequence[str]) -> Translation:
    return Translation(
        entry=name,
        server=server,
        source=found.url,
        headers=found.headers,
        wire=found.wire,
        secrets=found.secrets,
        needs=found.needs,
        notices=(*found.notices, *told),
    )


def _source(parsed: commandlines.Command, entry: Mapping[str, Any], base: pathlib.Path) -> tuple[str, str, str]:
    if parsed.kind == "file":
        where = entry.get("cwd")
        start = base / where if isinstance(where, str) and not _REFERENCE.search(where) else base
        folder, command = _project(parsed.package, start)
        return "", folder, command
    between = "@" if parsed.kind == "npm" else "=="
    version = f"{between}{parsed.version}" if parsed.version else ""
    return f"{parsed.kind}:{parsed.package}{version}", "", parsed.command


def _project(written: str, base: pathlib.Path) -> tuple[str, str]:
    """The folder of the program `written` and its place in it."""
    if _REFERENCE.search(written):
        raise commandlines.Untranslatable(
            f"Its program '{written[:100]}' holds a reference that only the client can follow. Deploy the folder by"
            " itself: 'smcp deploy ./folder'."
        )
    file = pathlib.Path(os.path.normpath(base / pathlib.Path(written).expanduser()))
    if not file.is_file():
        raise commandlines.Untranslatable(
            f"Its program '{written[:100]}' is not a file on this machine. Deploy the folder where it is with"
            " 'smcp deploy ./folder'."
        )
    for folder in file.parents:
        if folder in (pathlib.Path(folder.anchor), pathlib.Path.home()) or folder.stat().st_mode & stat.S_IWOTH:
            # A whole home or disk is nobody's project, and what lies in /tmp may be anybody's.
            break
        if any((folder / one).is_file() for one in PROJECT_FILES):
            return str(folder), file.relative_to(folder).as_posix()
    raise commandlines.Untranslatable(
        f"Around '{written[:100]}' is no project: no folder above it has a package.json, a pyproject.toml or a lock."
    )


def _environment(env: Any) -> tuple[dict[str, str], dict[str, str], tuple[str, ...], list[str]]:
    if not isinstance(env, dict):
        raise commandlines.Untranslatable("Its env is not an object.")
    plain: dict[str, str] = {}
    secrets: dict[str, str] = {}
    needs: list[str] = []
    notices: list[str] = []
    for name, value in cast("dict[str, Any]", env).items():
        if isinstance(value, bool | int | float):  # clients write numbers bare
            value = json.dumps(value)
        if _VARIABLE.fullmatch(name) is None or not isinstance(value, str) or "\0" in value:
            raise commandlines.Untranslatable(f"Its env holds '{name[:60]}', which is no variable with a text.")
        if _REFERENCE.search(value) or not value:
            needs.append(name)
            continue
        if _PLACEHOLDER.fullmatch(value):
            notices.append(f"{name} looks like a placeholder, not like a value.")
        (secrets if is_secret(name, value) else plain)[name] = value
    return plain, secrets, tuple(needs), notices


def _about_args(args: Sequence[str]) -> list[str]:
    notices: list[str] = []
    for place, one in enumerate(args):
        if redact.text(one) != one:
            raise commandlines.Untranslatable(
                "An argument looks like a credential, and arguments are no place for one: everybody who may see the"
                " server sees them. Give it as a variable (env), if the server can read it from there."
            )
        if one.startswith("-") and "=" not in one and is_secret(one.lstrip("-"), "") and place + 1 < len(args):
            notices.append(f"The argument behind {one} may be a secret; everybody who may see the server sees it.")
        if _REFERENCE.search(one):
            notices.append(f"'{one[:100]}' is sent as it stands: nothing in it is replaced.")
        elif _PATHLIKE.match(one.partition("=")[2] if one.startswith("--") else one):
            notices.append(f"'{one[:100]}' looks like a path of your machine; it is sent as it stands and not there.")
    return notices


def _about_rest(entry: Mapping[str, Any]) -> list[str]:
    notices: list[str] = []
    for key in entry:
        if key == "envFile":
            notices.append("envFile is not read; put the variables that are needed into env.")
        elif key == "disabled" and entry[key]:
            notices.append("It is disabled in the file.")
        elif key == "cwd":
            notices.append("cwd is not taken over: a hosted server begins in its own folder.")
        elif key not in _KNOWN and key != "disabled":
            notices.append(f"'{key[:40]}' is not taken over.")
    return notices


# --- JSON as clients write it ---


def _plain_json(text: str) -> str:
    """`text` without comments and trailing commas (VS Code's JSON with comments), so that a strict parser takes it."""
    bare = _COMMENTED.sub(lambda match: match[1] or " ", text)
    return _TRAILING.sub(lambda match: match[1] or match[2], bare)


_STRING: Final = r'"(?:[^"\\]|\\.)*"'
_COMMENTED: Final = re.compile(rf"({_STRING})|//[^\n]*|/\*.*?\*/", re.DOTALL)
_TRAILING: Final = re.compile(rf"({_STRING})|,(\s*[}}\]])", re.DOTALL)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
