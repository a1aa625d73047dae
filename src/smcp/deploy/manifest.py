"""The manifest (`smcp.toml`): how a server is to be run. Each field is described in docs/reference/manifest.md.

It is data from a tenant: nothing in it is ever expanded, evaluated or given to a shell, and nothing in it can become a
flag of a tool of the platform. An unknown key is refused with its path: a misspelt `share` is no silent default.
"""

import tomllib
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from smcp.kernel import errors
from smcp.sandbox.egress import rules

MAX_BYTES: Final = 65_536

_VARIABLE: Final = r"\A[A-Za-z_][A-Za-z0-9_]{0,127}\Z"
_SCRIPT: Final = r"\A(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?\Z"
_Text = Annotated[str, Meta(max_length=4096, pattern=r"\A[^\x00]*\Z")]


def _d(text: str) -> Meta:
    return Meta(description=text)


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a tenant says about a server."""

    name: Annotated[str, Meta(max_length=31), _d("The server's name. Empty: made from the package's name.")] = ""
    source: Annotated[str, Meta(max_length=500), _d("What to deploy, e.g. `pypi:mcp-server-time==2026.1.1`.")] = ""
    description: Annotated[_Text, _d("A sentence for people.")] = ""
    runtime: Annotated[Literal["python"], _d("What runs it. Only `python` (a PyPI package) so far.")] = "python"
    era: Annotated[
        Literal["auto", "legacy", "modern"],
        _d("Which protocol era to ask the server for: `auto` asks for both, the others save the second question."),
    ] = "auto"
    command: Annotated[
        str,
        Meta(pattern=_SCRIPT),
        _d("Which of the package's console scripts to start. Empty: the one named like the package, or the only one."),
    ] = ""
    args: Annotated[tuple[_Text, ...], Meta(max_length=64), _d("Arguments of the command, literally.")] = ()
    env: Annotated[
        dict[Annotated[str, Meta(pattern=_VARIABLE)], _Text],
        Meta(max_length=64),
        _d("Environment of the server, literal text: `${HOME}` stays `${HOME}`. Not for secrets: members can read it."),
    ] = {}
    secrets: Annotated[
        dict[Annotated[str, Meta(pattern=_VARIABLE)], Literal["env", "file"]],
        Meta(max_length=32),
        _d(
            "Secrets without which it does not start, and how it gets each: `env`, a variable of that name, or `file`,"
            " the file `/run/secrets/NAME`. Names only; `smcp secret set` takes the values."
        ),
    ] = {}
    egress: Annotated[
        tuple[Annotated[str, Meta(max_length=300)], ...],
        Meta(max_length=rules.MOST_RULES),
        _d(
            "What the server may reach: `api.github.com` (port 443), `db.example.com:5432`, `*.example.com` (names"
            " below it, not itself), `192.0.2.7:8443`. Empty: no network at all."
        ),
    ] = ()
    share: Annotated[
        Literal["tenant", "principal", "session"],
        _d(
            "Who may share one running copy of a modern server: everybody of the tenant, or one principal only"
            " (`session` too, as modern requests have none). A legacy session always has a copy of its own."
        ),
    ] = "tenant"
    resume: Annotated[
        Literal["replay", "none"],
        _d("Whether a lost legacy session may go on in a new copy by replaying `initialize` (only without state)."),
    ] = "none"

    def __repr__(self) -> str:
        return f"Manifest(name={self.name!r}, source={self.source!r})"


def parse(text: str) -> Manifest:
    """The manifest in `text` (TOML). Raises `errors.InvalidParams`, which names the key, for what isn't one."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise errors.InvalidParams(f"The manifest is larger than {MAX_BYTES} bytes.")
    try:
        tree: dict[str, Any] = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeError) as error:
        raise errors.InvalidParams(f"The manifest is not valid TOML: {error}.") from error
    except RecursionError:
        raise errors.InvalidParams("The manifest is nested too deeply.") from None
    try:
        manifest = msgspec.convert(tree, Manifest)
    except msgspec.ValidationError as error:
        raise errors.InvalidParams(f"The manifest is wrong: {error}. See docs/reference/manifest.md.") from error
    rules.parsed(manifest.egress)
    return manifest
