"""Entries of clients' configurations that name an address: what is reached there, and with which headers.

Understood are `url` (Claude, Cursor, VS Code) and `serverUrl` (Windsurf) with `headers`, and `npx mcp-remote URL`, the
relay that clients without HTTP start. A header's value always becomes a secret. What a value refers to is looked for
in one place only: for `mcp-remote`, which does so itself, among the literal variables of the entry.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from smcp.deploy import commandlines
from smcp.deploy.sources import remote
from smcp.kernel import errors

RELAY: Final = "mcp-remote"

REFERENCE: Final = re.compile(r"\$\{[^}]*\}")
_WIRES: Final[Mapping[str, remote.Wire]] = {
    # VS Code and Claude Code write http for both transports.
    **dict.fromkeys(("", "http", "remote"), "auto"),
    **dict.fromkeys(("streamable-http", "streamablehttp", "streamable_http", "streamable"), "streamable"),
    "sse": "sse",
}
_TRANSPORTS: Final[Mapping[str, remote.Wire]] = {
    "http-only": "streamable",
    "sse-only": "sse",
    "http-first": "auto",
    "sse-first": "auto",
}
_UNNAMED: Final = re.compile(r"[^A-Za-z0-9]+")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Where an entry leads."""

    url: str
    wire: remote.Wire
    headers: dict[str, str]
    """Header and the name of its secret."""
    secrets: dict[str, str]
    needs: tuple[str, ...]
    """Secrets of which the file has no value, only a reference."""
    notices: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Found({self.url!r})"


def address(entry: Mapping[str, Any]) -> object:
    """What an entry says its address is, None when it has none."""
    return entry.get("url", entry.get("serverUrl"))


def read(entry: Mapping[str, Any]) -> Found:
    """An entry with an address. Raises `commandlines.Untranslatable`."""
    if "command" in entry:
        raise commandlines.Untranslatable("It has an address and a command. Leave out the one that is not meant.")
    kind = entry.get("type") or entry.get("transport") or ""
    wire = _WIRES.get(kind.lower()) if isinstance(kind, str) else None
    if wire is None:
        raise commandlines.Untranslatable(f"Its transport is '{str(kind)[:40]}'; http and sse are understood here.")
    headers = entry.get("headers", {})
    if not isinstance(headers, dict):
        raise commandlines.Untranslatable("Its headers are not an object.")
    return _found(address(entry), wire, cast("dict[str, Any]", headers), {})


def relayed(args: Sequence[str], env: Mapping[str, str]) -> Found:
    """`mcp-remote` with `args`; `env` are the entry's literal variables. Raises `commandlines.Untranslatable`."""
    url = ""
    wire: remote.Wire = "auto"
    headers: dict[str, Any] = {}
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word in ("--header", "--transport"):
            if not rest:
                raise commandlines.Untranslatable(f"'{word}' is followed by nothing.")
            given = rest.pop(0)
            if word == "--transport":
                wire = _transport(given)
                continue
            name, _, value = given.partition(":")
            headers[name.strip()] = value.strip()
        elif word in ("--allow-http", "--debug", "--silent", "--enable-proxy") or word.isdecimal():
            continue  # what it does on the client's machine, and the port of its own callback
        elif word.startswith("-"):
            raise commandlines.Untranslatable(f"{RELAY}'s option '{word[:60]}' is not understood; leave it out.")
        elif url:
            raise commandlines.Untranslatable(f"{RELAY} is given more than one address.")
        else:
            url = word
    return _found(url, wire, headers, env)


def _transport(text: str) -> remote.Wire:
    found = _TRANSPORTS.get(text)
    if found is None:
        raise commandlines.Untranslatable(f"{RELAY}'s transport '{text[:40]}' is not understood.")
    return found


def _found(url: object, wire: remote.Wire, headers: Mapping[str, Any], env: Mapping[str, str]) -> Found:
    if not isinstance(url, str) or not url:
        raise commandlines.Untranslatable("It has no address (url).")
    if REFERENCE.search(url):
        raise commandlines.Untranslatable("Its address holds a reference, which is not followed. Write the address.")
    try:
        place = remote.parse(url)
    except errors.InvalidParams as error:
        raise commandlines.Untranslatable(error.public) from error
    kept: dict[str, str] = {}
    secrets: dict[str, str] = {}
    needs: list[str] = []
    notices: list[str] = []
    for header, said in headers.items():
        name = _secret(header)
        try:
            remote.headers({**kept, header: name})
        except ValueError as error:
            notices.append(f"A header is not taken over: {error}.")
            continue
        if not isinstance(said, str):
            raise commandlines.Untranslatable(f"The value of its header {header} is no text.")
        value = _filled(said, env)
        kept[header] = name
        if REFERENCE.search(value) or not value.strip():
            needs.append(name)
            notices.append(f"{name} is to be the whole value of the header {header}.")
            continue
        try:
            remote.value(header, value.encode())
        except ValueError as error:
            raise commandlines.Untranslatable(f"The value of its header {header} can't be sent: {error}.") from None
        secrets[name] = value
    return Found(url=place.url, wire=wire, headers=kept, secrets=secrets, needs=tuple(needs), notices=tuple(notices))


def _secret(header: str) -> str:
    """What the secret of a header is called."""
    name = _UNNAMED.sub("_", header).strip("_").upper()
    return f"HEADER_{name}" if name[:1].isdigit() or not name else name


def _filled(text: str, env: Mapping[str, str]) -> str:
    return REFERENCE.sub(lambda match: env.get(match[0][2:-1], match[0]), text)
