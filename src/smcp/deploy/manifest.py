"""The manifest (`smcp.toml`): how a server is to be run. Each field is described in docs/reference/manifest.md.

It is data from a tenant: nothing in it is ever expanded, evaluated or given to a shell, and nothing in it can become a
flag of a tool of the platform. An unknown key is refused with its path: a misspelt `share` is no silent default.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from smcp.deploy import toml
from smcp.deploy.sources import remote as addresses
from smcp.deploy.workers import section
from smcp.kernel import errors
from smcp.sandbox.egress import rules, substituted

MAX_BYTES: Final = 65_536

_VARIABLE: Final = r"\A[A-Za-z_][A-Za-z0-9_]{0,127}\Z"
# A command's name, or a file of the deployed folder: no part begins with a dot or a hyphen.
_SCRIPT: Final = r"\A(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(?:/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}){0,16})?\Z"
_OPTION: Final = r"\A[A-Za-z_][A-Za-z0-9_-]{0,127}\Z"
# "substituted" may name hosts behind a colon.
_GIVEN: Final = r"\A(?:env|file|substituted(?::[ -~]{1,2000})?)\Z"
_Text = Annotated[str, Meta(max_length=4096, pattern=r"\A[^\x00]*\Z")]


_DIRECTORY: Final = re.compile(r"(?:/[A-Za-z0-9_][A-Za-z0-9._-]{0,63}){1,8}")
# What the sandbox itself needs, and where nobody would look for a server's files.
_TAKEN: Final = re.compile(
    r"/(?:app|bin|boot|dev|etc|lib|lib32|lib64|libx32|opt|proc|root|run|sbin|sys|tmp|usr)(?:/.*)?"
)
_SIZE: Final = re.compile(r"([1-9][0-9]{0,11})(KiB|MiB|GiB)")
_UNITS: Final = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_SMALLEST: Final = 65_536


def _d(text: str) -> Meta:
    return Meta(description=text)


class Volume(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the server keeps: a directory of its own that survives its copies."""

    path: Annotated[str, Meta(max_length=200), _d("Where the server sees it.")] = "/data"
    size: Annotated[int | str, _d("Room for its files: bytes, or text such as `64MiB` and `1GiB`.")] = "64MiB"

    def __post_init__(self) -> None:
        if _DIRECTORY.fullmatch(self.path) is None or _TAKEN.fullmatch(self.path) is not None:
            raise ValueError("a volume's path is plain and absolute, such as /data, and not a place of the system")
        if self.size_bytes < _SMALLEST:
            raise ValueError(f"a volume has at least {_SMALLEST} bytes")

    @property
    def size_bytes(self) -> int:
        """`size` as a number."""
        if isinstance(self.size, int):
            return self.size
        found = _SIZE.fullmatch(self.size)
        if found is None:
            raise ValueError("a size is a number of bytes, or text such as 64MiB and 1GiB")
        return int(found[1]) * _UNITS[found[2]]


_Copies = Annotated[int, Meta(ge=0, le=256)]


class Scale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many copies of the server there are."""

    min: Annotated[
        _Copies,
        _d("Copies that stay from the first request on, also when idle. Of a legacy server: copies started ahead."),
    ] = 0
    max: Annotated[
        _Copies, _d("Shared copies at most, for everybody who shares them. 0: as many as the plan allows.")
    ] = 0

    def __post_init__(self) -> None:
        if self.max and self.min > self.max:
            raise ValueError("scale.min is larger than scale.max")


class Remote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A server that runs elsewhere: where it is, and what the platform says to it."""

    url: Annotated[
        str,
        Meta(max_length=addresses.LONGEST),
        _d("Its address, `https://HOST/PATH`; may be left out where `source` is the address."),
    ] = ""
    headers: Annotated[
        dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=128)]],
        Meta(max_length=addresses.MOST_HEADERS),
        _d(
            "Headers of every request to it, each with the name of the secret that is its value: `X-Api-Key ="
            ' "API_KEY"`. In `Authorization` a value without a space is sent behind `Bearer `. Names only; `smcp secret'
            " set` takes the values."
        ),
    ] = {}
    wire: Annotated[
        addresses.Wire,
        _d(
            "How it speaks: `streamable` (Streamable HTTP), `sse` (the HTTP+SSE of MCP 2024-11-05), or `auto`:"
            " whichever of the two answers when it is deployed."
        ),
    ] = "auto"

    def __post_init__(self) -> None:
        addresses.headers(self.headers)


_NOT_A_WORKERS: Final[Mapping[str, str]] = {
    "runtime": "it runs in an isolate",
    "command": "worker.main says what runs",
    "args": "worker.vars are what it is told",
    "env": "worker.vars are what it is told",
    "config": "that is for a bundle's options",
    "remote": "it is a server of this platform or one elsewhere, not both",
}
"""Fields that mean nothing for a Worker, and what stands in for them."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a tenant says about a server."""

    name: Annotated[str, Meta(max_length=31), _d("The server's name. Empty: made from the package's name.")] = ""
    source: Annotated[str, Meta(max_length=500), _d("What to deploy, e.g. `pypi:mcp-server-time==2026.1.1`.")] = ""
    description: Annotated[_Text, _d("A sentence for people.")] = ""
    runtime: Annotated[
        Literal["python", "gvisor"],
        _d(
            "`gvisor`: behind the stronger walls of gVisor, where the platform has it. Otherwise left out: the source"
            " says whether Python or Node.js runs it, in either case."
        ),
    ] = "python"
    era: Annotated[
        Literal["auto", "legacy", "modern"],
        _d("Which protocol era to ask the server for: `auto` asks for both, the others save the second question."),
    ] = "auto"
    command: Annotated[
        str,
        Meta(pattern=_SCRIPT),
        _d(
            "Which of the package's commands to start, or which file of a folder (`server.py`, `dist/index.js`). Empty:"
            " the one named like the package, or the only one."
        ),
    ] = ""
    args: Annotated[tuple[_Text, ...], Meta(max_length=64), _d("Arguments of the command, literally.")] = ()
    env: Annotated[
        dict[Annotated[str, Meta(pattern=_VARIABLE)], _Text],
        Meta(max_length=64),
        _d("Environment of the server, literal text: `${HOME}` stays `${HOME}`. Not for secrets: members can read it."),
    ] = {}
    secrets: Annotated[
        dict[Annotated[str, Meta(pattern=_VARIABLE)], Annotated[str, Meta(pattern=_GIVEN)]],
        Meta(max_length=32),
        _d(
            "Secrets without which it does not start, and how it gets each: `env`, a variable of that name; `file`, the"
            " file `/run/secrets/NAME`; `substituted`, a stand-in that the platform replaces in header fields of a"
            " Worker's requests to its egress, or to the hosts named as in `substituted:api.example.com`. Names only;"
            " `smcp secret set` takes the values."
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
    config: Annotated[
        dict[Annotated[str, Meta(pattern=_OPTION)], _Text | Annotated[list[_Text], Meta(max_length=64)]],
        Meta(max_length=64),
        _d("Values of a bundle's options (`user_config` of its manifest.json) that are no secrets."),
    ] = {}
    volume: Annotated[
        Volume | None,
        _d("A directory that the server keeps: `[volume]` with `path` and `size`. Left out: nothing survives a copy."),
    ] = None
    share: Annotated[
        Literal["tenant", "principal", "session"],
        _d(
            "Who may share one running copy of a modern server: everybody of the tenant (of one that offers tasks: one"
            " principal, always), or one principal only (`session`: one request). A legacy session always has a copy of"
            " its own."
        ),
    ] = "tenant"
    scale: Annotated[
        Scale,
        _d("How many copies run: `[scale]` with `min` and `max`. Left out: none when idle, more under load."),
    ] = Scale()
    poll_s: Annotated[
        float,
        Meta(ge=0, le=86_400),
        _d(
            "Seconds after which the connection of a legacy client's event stream is closed, for the client to come"
            " back for the rest: for networks that end long connections. 0: never."
        ),
    ] = 0
    resume: Annotated[
        Literal["auto", "replay", "end", "none"],
        _d(
            "What becomes of a legacy session whose copy is gone: `replay`, it goes on in a new copy, which is told the"
            " handshake again; `end`, it ends. `auto`: `end` for a server with a volume, else `replay`. (`none` is an"
            " older word for `end`.)"
        ),
    ] = "auto"

    drain_s: Annotated[
        int,
        Meta(ge=0, le=604_800),
        _d(
            "How long legacy sessions of earlier deployments may finish on those once this one is live, in seconds. 0:"
            " they end at once."
        ),
    ] = 3600

    sse: Annotated[
        bool,
        _d("Whether clients of MCP 2024-11-05 may use its HTTP+SSE transport, at `…/sse` instead of `…/mcp`."),
    ] = False

    remote: Annotated[
        Remote | None,
        _d("A server that runs elsewhere: `[remote]` with `url`, `headers` and `wire`. Nothing is built or started."),
    ] = None

    worker: Annotated[
        section.Worker | None,
        _d(
            "A server that is a Cloudflare Worker: `[worker]`. A folder with a wrangler.toml or wrangler.jsonc needs"
            " none."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.volume is not None and max(self.scale.min, self.scale.max) > 1:
            # Each would act on what it has read before the other wrote.
            raise ValueError("a server with a volume has one shared copy: scale.min and scale.max are at most 1")
        if self.worker is not None:
            self._check_worker(self.worker)

    def _check_worker(self, worker: section.Worker) -> None:
        """Raises `ValueError` for what a Worker does not have."""
        for field, instead in _NOT_A_WORKERS.items():
            if getattr(self, field) != getattr(_PLAIN, field):
                raise ValueError(f"a Worker has no {field}: {instead}")
        for name, kind in self.secrets.items():
            if kind == "file":
                raise ValueError(f'a Worker has no files: secrets.{name} can\'t be "file"')
        section.once((*worker.bindings(), *self.secrets))
        if self.volume is not None and (not worker.durable_objects or self.volume.path != Volume().path):
            raise ValueError(
                "a Worker has a volume for its Durable Objects alone, and sees no path of it: it keeps other things in"
                " KV and buckets"
            )

    @property
    def resumes(self) -> bool:
        """Whether a legacy session may go on in another copy."""
        return self.resume == "replay" or (self.resume == "auto" and self.volume is None)

    def __repr__(self) -> str:
        return f"Manifest(name={self.name!r}, source={self.source!r})"


_PLAIN: Final = Manifest()
"""One that says nothing."""


def parse(text: str) -> Manifest:
    """The manifest in `text` (TOML). Raises `errors.InvalidParams`, which names the key, for what isn't one."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise errors.InvalidParams(f"The manifest is larger than {MAX_BYTES} bytes.")
    try:
        tree = toml.loads(text)
    except ValueError as error:
        raise errors.InvalidParams(f"The manifest is not valid TOML: {error}.") from error
    try:
        manifest = msgspec.convert(tree, Manifest)
    except msgspec.ValidationError as error:
        raise errors.InvalidParams(f"The manifest is wrong: {error}. See docs/reference/manifest.md.") from error
    allowed = rules.parsed(manifest.egress)
    for name, kind in manifest.secrets.items():
        _check_hosts(name, kind, allowed)
    return manifest


def _check_hosts(name: str, kind: str, allowed: Sequence[rules.Rule]) -> None:
    """Raises `errors.InvalidParams` for a secret that is substituted where the server has nothing to say."""
    hosts = substituted.hosts(kind)
    if hosts is None:
        return
    if not allowed:
        raise errors.InvalidParams(f"secrets.{name} is substituted in requests, and there is no egress to send one to.")
    for one in hosts:
        if one not in allowed and (one.wildcard or not any(rule.means(one.host, one.port) for rule in allowed)):
            raise errors.InvalidParams(f"secrets.{name} is for {one}, which is not in egress.")
