"""Undocumented means failing, and what is documented exists."""

import json
import pathlib
import re
import shlex
import tomllib
import urllib.parse
from collections.abc import Iterator

import click
import pytest

from checks import reference, tree
from smcp.cli import main
from smcp.kernel import observe

PAGES = {tree.name(file): file.read_text("utf-8") for file in tree.files(".md")}
_LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|(?:href|src)=\"([^\"]+)\"")


@pytest.mark.requirement("checks:docs:reference")
@pytest.mark.parametrize("name", reference.PAGES)
def test_the_reference_says_what_the_code_says(name: str) -> None:
    path, render = reference.PAGES[name]
    _, part, _ = reference.split(name, (tree.ROOT / path).read_text("utf-8"))
    assert part == render(), f"{path} is out of date: run `make docs`"


@pytest.mark.requirement("checks:settings:few")
def test_settings_are_few_and_each_has_a_sentence() -> None:
    rows = list(reference.setting_rows())
    assert 0 < len(rows) <= 60
    assert [name for name, *_, sentence in rows if not sentence.endswith(".")] == []


@pytest.mark.requirement("checks:metrics:fed")
def test_every_metric_is_fed_by_the_platform() -> None:
    code = "".join(file.read_text("utf-8") for file in tree.files(".py") if tree.name(file).startswith("src/"))
    # Once in the list, once in the definitions; a third time where it is fed (the operation's and the build's own
    # methods stand in the same file).
    unfed = [one.name for one in observe.Metric if len(re.findall(rf"Metric\.{one.name}\b", code)) < 2]
    assert unfed == []


def _links(page: str) -> Iterator[str]:
    for match in _LINK.finditer(tree.prose(PAGES[page])):
        target = match.group(1) or match.group(2)
        if not re.match(r"[a-z][a-z0-9+.-]*:", target):
            yield target


@pytest.mark.requirement("checks:docs:links")
@pytest.mark.parametrize("page", PAGES)
def test_every_internal_link_leads_somewhere(page: str) -> None:
    broken: list[str] = []
    for link in _links(page):
        path, _, fragment = urllib.parse.unquote(link).partition("#")
        file = ((tree.ROOT / page).parent / path).resolve() if path else tree.ROOT / page
        outside = not file.is_relative_to(tree.ROOT)
        dead_end = fragment and file.suffix == ".md" and file.is_file() and fragment not in _anchors(file)
        if outside or not file.exists() or dead_end:
            broken.append(link)
    assert broken == []


def _anchors(file: pathlib.Path) -> set[str]:
    return tree.anchors(file.read_text("utf-8"))


@pytest.mark.requirement("checks:docs:links")
def test_every_page_of_the_documentation_can_be_reached() -> None:
    reached = {"README.md"}
    waiting = ["README.md"]
    while waiting:
        page = waiting.pop()
        for link in _links(page):
            file = ((tree.ROOT / page).parent / link.partition("#")[0]).resolve()
            name = str(file.relative_to(tree.ROOT)) if file.is_relative_to(tree.ROOT) else ""
            if name in PAGES and name not in reached:
                reached.add(name)
                waiting.append(name)
    assert {page for page in PAGES if page.startswith("docs/")} - reached == set()


def _commands(text: str) -> Iterator[str]:
    """The commands in a page's shell blocks: lines after a prompt, or all lines of a block without prompts."""
    for block in tree.blocks(text, "console", "sh", "shell", "bash"):
        lines = re.sub(r"\\\n\s*", " ", block).splitlines()
        prompted = [line[2:] for line in lines if line.startswith(("$ ", "# "))]
        yield from prompted or lines


def _examples(first: str) -> list[tuple[str, str]]:
    return [
        (page, line.strip())
        for page, text in PAGES.items()
        for line in _commands(text)
        if line.strip().split(" ", 1)[0] == first
    ]


@pytest.mark.requirement("checks:docs:examples")
@pytest.mark.parametrize(("page", "line"), _examples("smcp"))
def test_every_smcp_command_in_the_documentation_is_accepted_by_the_command_line(page: str, line: str) -> None:
    words = shlex.split(line.split(" | ")[0], comments=True)[1:]
    command: click.Command = main.smcp
    context: click.Context | None = None
    while True:
        if words[:1] in (["--help"], ["-h"]):
            return
        context = command.make_context(command.name, list(words), parent=context, resilient_parsing=False)
        if not isinstance(command, click.Group):
            return
        rest = [*context._protected_args, *context.args]  # pyright: ignore[reportPrivateUsage]  # click offers no other way
        assert rest, f"{page}: '{line}' names no command"
        _, found, words = command.resolve_command(context, rest)
        assert found is not None, f"{page}: '{line}'"
        command = found


@pytest.mark.requirement("checks:docs:examples")
@pytest.mark.parametrize(("page", "line"), _examples("make"))
def test_every_make_target_in_the_documentation_exists(page: str, line: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (tree.ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    words = [word for word in shlex.split(line, comments=True)[1:] if "=" not in word and not word.startswith("-")]
    assert set(words) <= targets, page


@pytest.mark.requirement("checks:docs:examples")
@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if tree.blocks(text, "json", "toml")])
def test_json_and_toml_examples_are_well_formed(page: str) -> None:
    for block in tree.blocks(PAGES[page], "json"):
        json.loads(block)
    for block in tree.blocks(PAGES[page], "toml"):
        tomllib.loads(block)


@pytest.mark.requirement("checks:docs:decisions")
def test_decisions_are_numbered_without_gap_and_have_their_parts() -> None:
    records = sorted((tree.ROOT / "docs/decisions").glob("[0-9]*.md"))
    numbers = [int(file.name[:4]) for file in records]
    assert numbers == list(range(1, len(records) + 1))
    for number, file in zip(numbers, records, strict=True):
        text = file.read_text("utf-8")
        assert re.fullmatch(r"\d{4}(-[a-z0-9]+)+\.md", file.name)
        assert text.startswith(f"# {number}. "), f"{file.name} has another number in its title"
        assert re.search(r"^Status: (accepted|superseded by \d{4})", text, re.MULTILINE), file.name
        for part in ("## Context", "## Decision", "## Consequences"):
            assert part in text, f"{file.name} has no '{part}'"


@pytest.mark.requirement("checks:docs:changelog")
def test_the_change_log_has_an_entry_for_this_version() -> None:
    version = tomllib.loads((tree.ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert re.search(
        rf"^## \[{re.escape(version)}\] - (unreleased|\d{{4}}-\d\d-\d\d)$", PAGES["CHANGELOG.md"], re.MULTILINE
    )
