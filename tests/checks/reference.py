"""The reference pages' tables, made from the code. `python -m checks.reference` writes them, a test compares them.

A page holds `<!-- begin: NAME -->` and `<!-- end: NAME -->`; what stands between belongs to this file, all around it is
written by hand.
"""

import http
import re
import typing
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from checks import commands, tree
from smcp.access import policy
from smcp.audit import events
from smcp.control import endpoint, routes
from smcp.kernel import errors, observe, settings
from support import suite


def setting_rows() -> Iterator[tuple[str, str, str, str, str]]:
    """Name, variable, type, default and sentence of each setting."""
    for group, kind in settings.groups().items():
        hints = typing.get_type_hints(kind, include_extras=True)
        for field in msgspec.structs.fields(kind):
            metas = [meta for meta in hints[field.name].__metadata__ if isinstance(meta, msgspec.Meta)]
            sentence = " ".join(meta.description for meta in metas if meta.description)
            yield (
                f"{group}.{field.name}",
                f"SMCP_{group}_{field.name}".upper(),
                _type(typing.get_type_hints(kind)[field.name], metas),
                _default(field.default),
                sentence,
            )


def _type(hint: Any, metas: list[msgspec.Meta]) -> str:
    if typing.get_origin(hint) is tuple:
        return "list of text"
    pattern = next((meta.pattern for meta in metas if meta.pattern), None)
    if pattern:
        return "one of " + ", ".join(re.findall(r"\w+", pattern))
    text = {int: "integer", float: "number", str: "text"}[hint]
    bounds = [
        *(f"≥ {meta.ge}" for meta in metas if meta.ge is not None),
        *(f"> {meta.gt}" for meta in metas if meta.gt is not None),
        *(f"≤ {meta.le}" for meta in metas if meta.le is not None),
    ]
    return " ".join([text, *bounds])


def _default(value: str | float | tuple[str, ...]) -> str:
    if value in ("", ()):
        return "empty"
    return f"`{', '.join(value) if isinstance(value, tuple) else value}`"


def _settings() -> str:
    lines: list[str] = []
    rows = list(setting_rows())
    for group, kind in settings.groups().items():
        lines += [f"### `[{group}]`", "", (kind.__doc__ or "").strip(), ""]
        lines += ["| setting | variable | type | default | meaning |", "|---|---|---|---|---|"]
        lines += [
            f"| `{name}` | `{variable}` | {kind_} | {default} | {sentence.replace('|', chr(92) + '|')} |"
            for name, variable, kind_, default, sentence in rows
            if name.startswith(f"{group}.")
        ]
        lines.append("")
    return "\n".join(lines).rstrip()


def error_tree(root: type[errors.SmcpError] = errors.SmcpError) -> Iterator[type[errors.SmcpError]]:
    """Every error class of the kernel, in the order of the file."""
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from error_tree(child)


def _errors() -> str:
    kinds = sorted(set(error_tree()), key=lambda kind: (kind.http_status, kind.code))
    lines = ["| code | HTTP | JSON-RPC | public text | when |", "|---|---|---|---|---|"]
    for kind in kinds:
        when = " ".join((kind.__doc__ or "").split())
        status = f"{kind.http_status} {http.HTTPStatus(kind.http_status).phrase}"
        lines.append(f"| `{kind.code}` | {status} | {kind.rpc_code} | {kind.text} | {when} |")
    return "\n".join(lines)


def _metrics() -> str:
    lines = ["| metric | type | unit | labels | meaning |", "|---|---|---|---|---|"]
    for metric, definition in observe.DEFINITIONS.items():
        labels = "<br>".join(f"`{name}`: {_values(values)}" for name, values in definition.labels) or "none"
        lines.append(
            f"| `{metric.value}` | {definition.kind.value} | {definition.unit} | {labels} | {definition.help} |"
        )
    lines += ["", "| span | kind |", "|---|---|"]
    lines += [
        f"| `{span.value}` | {observe.KINDS[span].name.lower() if span in observe.KINDS else 'internal'} |"
        for span in observe.Span
    ]
    return "\n".join(lines)


def _values(values: tuple[str, ...]) -> str:
    return ", ".join(f"`{value}`" if value else "empty" for value in values) or "any"


def _actions() -> str:
    roles = list(policy.Role)
    lines = [
        "| action | " + " | ".join(f"`{role.value}`" for role in roles) + " |",
        "|---|" + "---|" * len(roles),
    ]
    for action in policy.Action:
        marks = ["yes" if action in policy.GRANTS[role] else "" for role in roles]
        lines.append(f"| `{action.value}` | " + " | ".join(marks) + " |")
    return "\n".join(lines)


def _events() -> str:
    lines = ["| event | fields of its own | meaning |", "|---|---|---|"]
    kinds = typing.get_args(events.Event)
    fields: list[set[str]] = [{field.name for field in msgspec.structs.fields(kind)} for kind in kinds]
    shared = fields[0].intersection(*fields[1:])
    for kind in sorted(kinds, key=lambda one: str(one.__struct_config__.tag)):
        own = [f"`{field.name}`" for field in msgspec.structs.fields(kind) if field.name not in shared]
        sentence = " ".join((kind.__doc__ or "").split("\n\n", 1)[0].split())
        lines.append(f"| `{kind.__struct_config__.tag}` | {', '.join(own) or 'none'} | {sentence} |")
    lines += ["", "Every event also has: " + ", ".join(f"`{name}`" for name in sorted(shared)) + "."]
    return "\n".join(lines)


def _endpoints() -> str:
    without = {endpoint.Open: "none: open", endpoint.AnyCredential: "any credential"}
    lines = ["| call | action | answers | what it does |", "|---|---|---|---|"]
    for one in routes.ENDPOINTS:
        action = f"`{one.access.value}`" if isinstance(one.access, policy.Action) else without[type(one.access)]
        lines.append(f"| `{one.method} {one.path}` | {action} | {one.status} | {one.summary} |")
    return "\n".join(lines)


_HOW: dict[suite.Hosting, str] = {"stdio": "runs it", "remote": "remote", "worker": "Worker"}


def _runs() -> str:
    lines = [
        "| client | build of the fixture | how SMCP has it | scored, all pass | not scored | of these pass |",
        "|---|---|---|---|---|---|",
    ]
    every: tuple[tuple[suite.Hosting, tuple[suite.Run, ...]], ...] = (
        ("stdio", suite.RUNS),
        ("remote", suite.REMOTE),
        ("worker", suite.WORKER),
    )
    for hosting, runs in every:
        for run in runs:
            build = f"**{run.build}**" if run.translated else run.build
            numbers = f"{run.required} | {run.more} | {run.more - len(suite.remarks(run, hosting))}"
            lines.append(f"| {run.revision} | {build} | {_HOW[hosting]} | {numbers} |")
    return "\n".join(lines)


def _remarks() -> str:
    lines = [
        "| client | build | how SMCP has it | scenario | the fixture alone | through SMCP | why |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in suite.REMARKS:
        builds = "any" if len(one.builds) == len(suite.BUILDS) else ", ".join(one.builds)
        alone = one.alone or "does not speak it"
        how = "any" if len(one.hosting) == len(_HOW) else ", ".join(_HOW[each] for each in one.hosting)
        lines.append(f"| {one.revision} | {builds} | {how} | `{one.scenario}` | {alone} | {one.hosted} | {one.why} |")
    return "\n".join(lines)


def _windows() -> str:
    lines = ["| scenario | what it gives a server how long for |", "|---|---|"]
    lines += [f"| `{one.scenario}` | {one.what} |" for one in suite.WINDOWS]
    return "\n".join(lines)


PAGES: dict[str, tuple[str, Callable[[], str]]] = {
    "settings": ("docs/reference/settings.md", _settings),
    "errors": ("docs/reference/errors.md", _errors),
    "metrics": ("docs/reference/metrics.md", _metrics),
    "actions": ("docs/reference/api-keys.md", _actions),
    "commands": ("docs/reference/cli.md", commands.render),
    "endpoints": ("docs/reference/api.md", _endpoints),
    "events": ("docs/reference/audit-events.md", _events),
    "suite-runs": ("docs/reference/conformance.md", _runs),
    "suite-remarks": ("docs/reference/conformance.md", _remarks),
    "suite-windows": ("docs/reference/conformance.md", _windows),
}


def split(name: str, page: str) -> tuple[str, str, str]:
    """What stands before, in and after the part `name` of `page`."""
    before, begin, rest = page.partition(f"<!-- begin: {name} -->\n")
    part, end, after = rest.partition(f"\n<!-- end: {name} -->")
    if not begin or not end:
        raise ValueError(f"the page has no part '{name}'")
    return before + begin, part, end + after


def write() -> None:
    """Bring every reference page up to date."""
    for name, (path, render) in PAGES.items():
        file = tree.ROOT / path
        before, _, after = split(name, file.read_text("utf-8"))
        file.write_text(before + render() + after, "utf-8")


if __name__ == "__main__":
    write()
