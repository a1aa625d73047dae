"""`[worker]` of the manifest: a server that is a Cloudflare Worker. docs/reference/manifest.md describes each field.

What a Worker's code sees as `env` is said here and nowhere else, and a name of it stands for one thing. Limits of
sizes and numbers are Cloudflare's (Workers documentation, "Limits"), so that what is taken here is taken there.
"""

import collections
import datetime
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, cast

import msgspec
from msgspec import Meta

from smcp.kernel import errors, ids

BINDING: Final = r"\A(?!__)[A-Za-z_$][A-Za-z0-9_$]{0,63}\Z"
"""A name of JavaScript. Two underscores in front are the platform's and the language's own (`__proto__`)."""
NAME: Final = r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z"
"""Of a KV namespace (`stores.kvrules`)."""
BUCKET: Final = r"\A[a-z0-9][a-z0-9-]{1,61}[a-z0-9]\Z"
"""Of a bucket (R2 documentation, "Create new buckets")."""
CLASS: Final = r"\A[A-Za-z_$][A-Za-z0-9_$]{0,63}\Z"
SCRIPTS: Final = (".js", ".mjs", ".ts", ".mts", ".jsx", ".tsx")

_MAIN: Final = re.compile(
    r"(?:\./)?[A-Za-z0-9_@\[\]()+,=][^\x00-\x1f\x7f\\/]{0,127}(?:/[^\x00-\x1f\x7f\\/]{1,128}){0,16}"
)
_FLAG: Final = r"\A[a-z0-9][a-z0-9_]{0,99}\Z"
# A flag of workerd that is an experiment may change or open what the walls rely on.
_FORBIDDEN: Final = re.compile(r"experimental|unsafe|python_workers|python_no_global")
_PATH: Final = r"\A/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,63}(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,63}){0,7}/?)?\Z"
_LONGEST_VARIABLE: Final = 5_120
_MOST_VARIABLES: Final = 65_536
_DEEPEST: Final = 16
_EXACT: Final = 2**53 - 1
"""The largest whole number that is itself in JavaScript."""

Binding = Annotated[str, Meta(pattern=BINDING)]
_Most = Meta(max_length=64)


def _d(text: str) -> Meta:
    return Meta(description=text)


class Durable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A class of Durable Objects."""

    binding: Annotated[Binding, _d("As the code sees it.")]
    class_name: Annotated[str, Meta(pattern=CLASS), _d("The class that `main` exports.")]
    sqlite: Annotated[bool, _d("Whether its objects have SQL storage.")] = True


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry point of another server."""

    server: Annotated[str, _d("A server of the same tenant that is a Worker.")]
    entrypoint: Annotated[str, Meta(pattern=r"\A(?:[A-Za-z_$][A-Za-z0-9_$]{0,63})?\Z"), _d("A class it exports.")] = ""


class Worker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A server that is a Cloudflare Worker."""

    main: Annotated[
        str,
        Meta(max_length=512),
        _d("The file that exports the handler, `src/index.ts`: JavaScript or TypeScript."),
    ]
    compatibility_date: Annotated[
        str,
        Meta(pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}\Z"),
        _d("The day as whose Workers runtime it behaves, `2026-11-01`."),
    ]
    compatibility_flags: Annotated[
        tuple[Annotated[str, Meta(pattern=_FLAG)], ...],
        _Most,
        _d("Single changes of the runtime, `nodejs_compat`. Not those that are experiments."),
    ] = ()
    path: Annotated[
        str, Meta(max_length=512, pattern=_PATH), _d("Where its `fetch` handler answers MCP (Streamable HTTP).")
    ] = "/mcp"
    vars: Annotated[
        dict[Binding, Any],
        Meta(max_length=128),
        _d("Variables: text, or any JSON. Not for secrets: members can read them."),
    ] = {}
    kv: Annotated[
        dict[Binding, Annotated[str, Meta(pattern=NAME)]],
        _Most,
        _d('KV namespaces of the tenant: `NOTES = "notes"`. Servers that name the same one share it.'),
    ] = {}
    buckets: Annotated[
        dict[Binding, Annotated[str, Meta(pattern=BUCKET)]],
        _Most,
        _d('Buckets of objects of the tenant (R2): `FILES = "files"`.'),
    ] = {}
    durable_objects: Annotated[
        tuple[Durable, ...],
        _Most,
        _d("Classes of Durable Objects: `binding`, `class_name`, and `sqlite = false` for those without SQL."),
    ] = ()
    services: Annotated[
        dict[Binding, str | Service],
        _Most,
        _d('Other Workers of the tenant: `SEARCH = "search"`, or a table of `server` and `entrypoint`.'),
    ] = {}
    own_process: Annotated[
        bool,
        _d("Whether it gets a process of its own instead of one with the tenant's other Workers."),
    ] = False

    def __post_init__(self) -> None:
        if not is_main(self.main):
            raise ValueError(f"worker.main is a file of the folder, of one of the kinds {', '.join(SCRIPTS)}")
        _day(self.compatibility_date)
        for flag in self.compatibility_flags:
            if _FORBIDDEN.search(flag) is not None:
                raise ValueError(f"worker.compatibility_flags: {flag} is an experiment, and none runs here")
        _variables(self.vars)
        for name, one in self.services.items():
            _server(name, one if isinstance(one, str) else one.server)
        once(self.bindings())

    def bindings(self) -> Iterable[str]:
        """Every name that its code sees, but for secrets."""
        yield from (*self.vars, *self.kv, *self.buckets, *self.services)
        yield from (one.binding for one in self.durable_objects)


def is_main(text: str) -> bool:
    """Whether `text` names a file of the folder that may be a Worker."""
    parts = text.removeprefix("./").split("/")
    return _MAIN.fullmatch(text) is not None and text.endswith(SCRIPTS) and not {".", ".."} & set(parts)


def once(names: Iterable[str]) -> None:
    """Raises `ValueError` for a binding that stands for two things."""
    for name, count in collections.Counter(names).items():
        if count > 1:
            raise ValueError(f"worker: the binding {name} stands for two things")


def _day(text: str) -> None:
    try:
        datetime.date.fromisoformat(text)
    except ValueError as error:
        raise ValueError("worker.compatibility_date is a day such as 2026-11-01") from error


def _server(binding: str, name: str) -> None:
    try:
        ids.server(name)
    except errors.BadName as error:
        raise ValueError(f"worker.services.{binding}: {error.public}") from error


def _variables(found: Mapping[str, Any]) -> None:
    total = 0
    for name, value in found.items():
        _check(value, f"worker.vars.{name}", 0)
        size = len(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        total += size
        if size > _LONGEST_VARIABLE:
            raise ValueError(f"worker.vars.{name} is larger than {_LONGEST_VARIABLE} bytes")
    if total > _MOST_VARIABLES:
        raise ValueError(f"worker.vars are larger than {_MOST_VARIABLES} bytes together")


def _check(value: Any, place: str, depth: int) -> None:
    """Raises `ValueError` for what JSON does not know, or JavaScript would read as something else."""
    if depth > _DEEPEST:
        raise ValueError(f"{place} is nested too deeply")
    if isinstance(value, list):
        for one in cast("list[Any]", value):
            _check(one, place, depth + 1)
    elif isinstance(value, dict):
        for key, one in cast("dict[str, Any]", value).items():
            _check(key, place, depth + 1)
            _check(one, place, depth + 1)
    elif value is not None and not isinstance(value, bool):
        _check_scalar(value, place)


def _check_scalar(value: Any, place: str) -> None:
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ValueError(f"{place} holds a letter that is none")
    elif isinstance(value, int):
        if abs(value) > _EXACT:
            raise ValueError(f"{place} is a number that JavaScript does not know exactly: write it as text")
    elif not isinstance(value, float):
        raise ValueError(f"{place} is neither text nor JSON (a date is written as text)")  # noqa: TRY004 - as the others
    elif not math.isfinite(value):
        raise ValueError(f"{place} is no number of JSON")
