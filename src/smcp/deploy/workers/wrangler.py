"""wrangler's configuration (wrangler.json, wrangler.jsonc, wrangler.toml), read as a `[worker]` of the manifest.

A project that was written for Cloudflare is deployed as it is, or refused with every line of it that has no meaning
here: nothing is left out in silence, as code without a binding that it counts on fails later and elsewhere. What only
concerns Cloudflare's accounts, addresses and dashboards is left out and said. Nothing of the file is carried out.

Format: Cloudflare Workers documentation, "Wrangler configuration".
"""

import datetime
import pathlib
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

import msgspec

from smcp.deploy import toml
from smcp.deploy.workers import jsonc, section, tomllines
from smcp.kernel import errors, ids

FILES: Final = ("wrangler.json", "wrangler.jsonc", "wrangler.toml")
"""In the order in which wrangler looks for them."""
MAX_BYTES: Final = 262_144

_MOST_PROBLEMS: Final = 20
_IGNORED: Final = frozenset(
    (
        "$schema", "account_id", "compliance_region", "dev", "keep_names", "keep_vars", "legacy_env", "limits",
        "logpush", "minify", "observability", "placement", "preview_urls", "route", "routes", "send_metrics",
        "upload_source_maps", "workers_dev", "zone_id",
    )
)  # fmt: skip
"""What says how Cloudflare runs, routes, watches and shows a Worker."""
_UNSUPPORTED: Final[Mapping[str, str]] = {
    "ai": "Workers AI",
    "alias": "replacing modules",
    "analytics_engine_datasets": "Analytics Engine",
    "assets": "static assets",
    "base_dir": "modules beside the bundle",
    "browser": "Browser Rendering",
    "build": "a build command (what it makes can be sent instead)",
    "containers": "containers",
    "d1_databases": "D1",
    "data_blobs": "blobs of the older format (import the file instead)",
    "define": "replacing names",
    "dispatch_namespaces": "Workers for Platforms",
    "find_additional_modules": "modules beside the bundle",
    "hyperdrive": "Hyperdrive",
    "images": "Images",
    "mtls_certificates": "client certificates",
    "no_bundle": "modules beside the bundle",
    "pages_build_output_dir": "Pages",
    "pipelines": "Pipelines",
    "queues": "Queues",
    "ratelimits": "rate limiting bindings",
    "rules": "rules for modules (.wasm, .bin, .txt, .html and .sql are imported as they are)",
    "secrets_store_secrets": "the Secrets Store",
    "send_email": "sending mail",
    "site": "Workers Sites",
    "tail_consumers": "Tail Workers",
    "text_blobs": "blobs of the older format (import the file instead)",
    "triggers": "Cron Triggers",
    "tsconfig": "another tsconfig.json than the one beside the code",
    "unsafe": "what is unsafe",
    "vectorize": "Vectorize",
    "version_metadata": "version metadata",
    "wasm_modules": "modules of the older format (import the file instead)",
    "worker_loaders": "loading Workers",
    "workflows": "Workflows",
}
TAKEN: Final = frozenset(
    (
        "name", "main", "compatibility_date", "compatibility_flags", "vars", "kv_namespaces", "r2_buckets",
        "durable_objects", "migrations", "services", "env",
    )
)  # fmt: skip
# How the section's refusals name the field: as msgspec does, or as its own checks do.
_PLACE: Final = re.compile(r"(?P<what>.*) - at `\$\.(?P<key>[a-z_]+)[^`]*`", re.DOTALL)
_OWN: Final = re.compile(r"worker\.(?P<key>[a-z_]+)(?P<rest>.*)", re.DOTALL)
_SOURCES: Final[Mapping[str, jsonc.Place]] = {
    "kv": ("kv_namespaces",),
    "buckets": ("r2_buckets",),
    "durable_objects": ("durable_objects",),
}
"""Where in wrangler's file a field of the section comes from, if not from one of its name."""
_UNNAMED: Final = re.compile(r"[^a-z0-9]+")


class Translation(NamedTuple):
    """What a file says."""

    name: str
    """Of the Worker; may be empty."""
    worker: section.Worker
    notes: tuple[str, ...]
    """What was left out, for people."""


def find(root: pathlib.Path) -> str | None:
    """wrangler's file at the top of `root`: the one that wrangler would take. Blocking."""
    return next((one for one in FILES if (root / one).is_file()), None)


def translate(file: str, text: str) -> Translation:
    """The configuration in `text`, which `file` (one of `FILES`) holds.

    Raises `errors.DeployFailed` with each line that can't be taken, and why.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise errors.DeployFailed(f"{file} is larger than {MAX_BYTES} bytes.")
    try:
        tree, lines = _parsed(file, text)
    except ValueError as error:
        raise errors.DeployFailed(f"{file} can't be read: {str(error)[:300]}.") from error
    reader = _Reader(tree, lines)
    found = reader.translation()
    if found is None:
        raise errors.DeployFailed(f"{file} says what is not supported here. {reader.problems()}")
    return found


def _parsed(file: str, text: str) -> tuple[dict[str, Any], dict[jsonc.Place, int]]:
    if file.endswith(".toml"):
        return toml.loads(text), tomllines.find(text)
    return jsonc.loads(text)


class _Reader:
    """Reads one file, and notes what is wrong with it line by line."""

    def __init__(self, tree: Mapping[str, Any], lines: Mapping[jsonc.Place, int]) -> None:
        self._tree = tree
        self._lines = lines
        self._wrong: list[tuple[int, str]] = []
        self._notes: list[str] = []
        name = tree.get("name")
        self._name = name if isinstance(name, str) else ""

    def problems(self) -> str:
        told = [f"Line {line}: {what}." for line, what in sorted(set(self._wrong))]
        more = f" And {len(told) - _MOST_PROBLEMS} more." if len(told) > _MOST_PROBLEMS else ""
        return " ".join(told[:_MOST_PROBLEMS]) + more

    def translation(self) -> Translation | None:
        """What the file says, or None where something is wrong."""
        self._unknown()
        found: dict[str, Any] = {
            key: self._tree[key] for key in ("main", "compatibility_flags", "vars") if key in self._tree
        }
        found["compatibility_date"] = self._date()
        found["kv"] = self._named("kv_namespaces", "id", ("preview_id",), section.NAME)
        found["buckets"] = self._named("r2_buckets", "bucket_name", ("preview_bucket_name",), section.BUCKET)
        found["durable_objects"] = self._durables()
        found["services"] = self._services()
        main = self._tree.get("main")
        if main is None:
            self._no((), "'main' is missing: the file with the code")
        elif not isinstance(main, str) or not section.is_main(main):
            self._no(("main",), f"main is no file of the folder of one of the kinds {', '.join(section.SCRIPTS)}")
        if self._wrong:
            return None
        try:
            return Translation(self._name, msgspec.convert(found, section.Worker), tuple(self._notes))
        except msgspec.ValidationError as error:
            key, what = _told(str(error))
            self._no(_SOURCES.get(key, (key,)), what[:300])
            return None

    def _no(self, place: jsonc.Place, what: str) -> None:
        line = next((self._lines[place[:end]] for end in range(len(place), -1, -1) if place[:end] in self._lines), 1)
        self._wrong.append((line, what))

    def _unknown(self) -> None:
        left: list[str] = []
        for key, value in self._tree.items():
            if key in _IGNORED:
                left.append(key)
            elif key in TAKEN or not _says(value):
                continue
            elif key in _UNSUPPORTED:
                self._no((key,), f"{key}: {_UNSUPPORTED[key]}")
            else:
                self._no((key,), f"{_shown(key)} is not known here")
        if left:
            self._notes.append(f"Left out, as it concerns Cloudflare's own service: {', '.join(sorted(left))}.")
        if _says(self._tree.get("env")):
            self._notes.append("The environments below 'env' are not deployed, what stands at the top is.")

    def _date(self) -> str:
        found = self._tree.get("compatibility_date")
        if isinstance(found, datetime.date) and not isinstance(found, datetime.datetime):
            return found.isoformat()  # TOML has dates of its own
        if isinstance(found, str):
            return found
        self._no(("compatibility_date",), "compatibility_date is missing, or no day such as 2026-11-01")
        return ""

    def _rows(self, *keys: str) -> list[tuple[jsonc.Place, Mapping[str, Any]]]:
        """The tables of a list, which may be missing."""
        found: Any = self._tree
        for key in keys:
            if not isinstance(found, Mapping):
                self._no(keys, f"{'.'.join(keys)} is no list of tables")
                return []
            found = cast("Mapping[str, Any]", found).get(key, {} if key != keys[-1] else [])
        rows = cast("list[Any]", found) if isinstance(found, list) else None
        if rows is None or not all(isinstance(one, dict) for one in rows):
            self._no(keys, f"{'.'.join(keys)} is no list of tables")
            return []
        return [((*keys, number), cast("dict[str, Any]", one)) for number, one in enumerate(rows)]

    def _only(self, place: jsonc.Place, row: Mapping[str, Any], known: frozenset[str]) -> None:
        for key, value in row.items():
            if key not in known and _says(value):
                self._no((*place, key), f"{place[0]}: '{_shown(key)}' is not supported")

    def _text(self, place: jsonc.Place, row: Mapping[str, Any], key: str) -> str:
        found = row.get(key)
        if isinstance(found, str) and found:
            return found
        self._no((*place, key), f"{place[0]}: '{key}' is missing, or no text")
        return ""

    def _binding(self, place: jsonc.Place, row: Mapping[str, Any], key: str, known: Mapping[str, Any]) -> str:
        found = self._text(place, row, key)
        if found and re.fullmatch(section.BINDING, found) is None:
            self._no((*place, key), f"{place[0]}: '{_shown(found)}' is no name that the code could use")
        if found in known:
            self._no((*place, key), f"{place[0]}: the binding {_shown(found)} comes twice")
        return found

    def _named(self, table: str, key: str, local: tuple[str, ...], pattern: str) -> dict[str, str]:
        """Bindings to what is kept, by the name of it; one without gets the name that wrangler would give."""
        made: dict[str, str] = {}
        for place, row in self._rows(table):
            # What stands for it while somebody develops says nothing of the deployed one.
            self._only(place, row, frozenset({"binding", key, "remote", "experimental_remote", *local}))
            binding = self._binding(place, row, "binding", made)
            given = row.get(key, "")
            name = given or _UNNAMED.sub("-", f"{self._name}-{binding}".lower()).strip("-")[:63].strip("-")
            if not isinstance(name, str) or re.fullmatch(pattern, name) is None:
                self._no(
                    (*place, key),
                    f"{table}: {key} '{_shown(name)}' is no name (letters, digits, hyphens); without {key} it is"
                    " made from the binding's",
                )
            elif not given:
                self._notes.append(f"{binding} is named {name}, as {table} has no {key} for it.")
            made[binding] = str(name)
        return made

    def _durables(self) -> list[dict[str, Any]]:
        sql = self._migrations()
        whole = self._tree.get("durable_objects")
        if isinstance(whole, Mapping):
            self._only(("durable_objects",), cast("Mapping[str, Any]", whole), frozenset({"bindings"}))
        made: dict[str, dict[str, Any]] = {}
        for place, row in self._rows("durable_objects", "bindings"):
            self._only(place, row, frozenset({"name", "class_name"}))
            binding = self._binding(place, row, "name", made)
            kind = self._text(place, row, "class_name")
            if kind and kind not in sql:
                self._no((*place, "class_name"), f"durable_objects: no migration makes the class {_shown(kind)}")
            made[binding] = {"binding": binding, "class_name": kind, "sqlite": sql.get(kind, True)}
        return list(made.values())

    def _migrations(self) -> dict[str, bool]:
        """The classes of Durable Objects, and whether they have SQL."""
        made: dict[str, bool] = {}
        for place, row in self._rows("migrations"):
            self._only(place, row, frozenset({"tag", "new_classes", "new_sqlite_classes"}))
            for key, sql in (("new_classes", False), ("new_sqlite_classes", True)):
                named = row.get(key, [])
                if not isinstance(named, list) or not all(isinstance(one, str) for one in named):  # pyright: ignore[reportUnknownVariableType] - TOML
                    self._no((*place, key), f"migrations: {key} is no list of names")
                    continue
                made |= dict.fromkeys(cast("list[str]", named), sql)
        return made

    def _services(self) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for place, row in self._rows("services"):
            self._only(place, row, frozenset({"binding", "service", "entrypoint", "remote", "experimental_remote"}))
            binding = self._binding(place, row, "binding", made)
            service = self._text(place, row, "service")
            if service and not _is_server(service):
                self._no((*place, "service"), f"services: '{_shown(service)}' is no name of a server")
            entry = self._text(place, row, "entrypoint") if "entrypoint" in row else ""
            made[binding] = {"server": service, "entrypoint": entry}
        return made


def _told(refusal: str) -> tuple[str, str]:
    """The field that the section refused, and what to say about it."""
    if (place := _PLACE.fullmatch(refusal)) is not None:
        return place["key"], f"{place['key']}: {place['what']}"
    if (own := _OWN.match(refusal)) is not None:
        return own["key"], f"{own['key']}{own['rest']}".partition(" - at `")[0]
    return "", refusal


def _is_server(name: str) -> bool:
    try:
        ids.server(name)
    except errors.BadName:
        return False
    return True


def _says(value: Any) -> bool:
    """Whether a member says anything: an empty list of what is not supported asks for nothing."""
    if isinstance(value, Mapping):
        return any(_says(one) for one in cast("Mapping[str, Any]", value).values())
    return value not in (None, False, "", [])


def _shown(text: Any) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:80])
