"""Which program of an npm package is started: a file of the package's own that is for node, and nothing else."""

import json
import pathlib
from typing import Any

import pytest

from smcp.deploy import npm_builder
from smcp.kernel import errors

_NODE = "#!/usr/bin/env node\n"


def _package(directory: pathlib.Path, bins: Any, **files: str) -> pathlib.Path:
    place = directory / "package"
    place.mkdir()
    (place / "package.json").write_text(json.dumps({"bin": bins}), "utf-8")
    for name, content in files.items():
        (place / name.replace("_", ".")).write_text(content, "utf-8")
    return place


@pytest.mark.requirement("deploy:npm:program")
@pytest.mark.parametrize(
    ("bins", "wanted", "command"),
    [
        ("a.js", "", "server"),
        ("./a.js", "server", "server"),
        ("x/../a.js", "", "server"),
        ({"only": "a.js"}, "", "only"),
        ({"server": "a.js", "other": "b.js"}, "", "server"),
        ({"one": "b.js", "two": "a.js"}, "two", "two"),
        ({"one": "a.js", "two": "a.js"}, "", "one"),
        ({"server": "a.js", "../evil": "b.js", "-x": "b.js"}, "", "server"),
    ],
)
def test_the_wanted_one_or_the_one_named_like_the_package_or_the_only_one(
    bins: Any, wanted: str, command: str, tmp_path: pathlib.Path
) -> None:
    place = _package(tmp_path, bins, a_js=_NODE, b_js=_NODE)
    assert npm_builder.program(place, "@scope/server", wanted) == (command, "a.js", "")


@pytest.mark.requirement("deploy:npm:program")
@pytest.mark.parametrize(
    ("bins", "wanted", "why"),
    [
        (None, "", "starts nothing"),
        ({}, "", "starts nothing"),
        ({"../x": "a.js"}, "", "starts nothing"),
        ({"one": "a.js", "two": "b.js"}, "", "one, two"),
        ("a.js", "absent", "no command 'absent'"),
        ("a.js", "../a", "no command"),
        ("absent.js", "", "does not have"),
        (".", "", "outside"),
        ("dir", "", "does not have"),
        ("package.json/x", "", "does not have"),
        (7, "", "can't be read"),
    ],
)
def test_nothing_to_start_or_to_choose_by_is_told(bins: Any, wanted: str, why: str, tmp_path: pathlib.Path) -> None:
    place = _package(tmp_path, bins, a_js=_NODE, b_js=_NODE)
    (place / "dir").mkdir()
    with pytest.raises(errors.DeployFailed, match=why):
        npm_builder.program(place, "server", wanted)


@pytest.mark.requirement("deploy:npm:program")
@pytest.mark.parametrize(
    "file", ["../outside.js", "/etc/passwd", "../../../../etc/passwd", "a/../../outside.js", "..\\outside.js", "a.js\0"]
)
def test_a_file_outside_of_the_package_is_refused(file: str, tmp_path: pathlib.Path) -> None:
    place = _package(tmp_path, file, a_js=_NODE)
    (tmp_path / "outside.js").write_text(_NODE, "utf-8")
    with pytest.raises(errors.DeployFailed, match="outside of the package"):
        npm_builder.program(place, "server", "")


@pytest.mark.requirement("deploy:npm:program")
def test_a_link_is_not_followed(tmp_path: pathlib.Path) -> None:
    place = _package(tmp_path, "link.js")
    (tmp_path / "outside.js").write_text(_NODE, "utf-8")
    (place / "link.js").symlink_to("../outside.js")
    with pytest.raises(errors.DeployFailed, match="does not have"):
        npm_builder.program(place, "server", "")


@pytest.mark.requirement("deploy:npm:program")
@pytest.mark.parametrize(
    ("first", "flags"),
    [
        ("#!/usr/bin/env node", ""),
        ("#!/usr/bin/env node\r", ""),
        ("#! /usr/local/bin/node", ""),
        ("#!/usr/bin/nodejs", ""),
        ("#!/usr/bin/env -S node --no-warnings", "--no-warnings"),
        ("#!/usr/bin/env -S node --require /tmp/x.js", "--require /tmp/x.js"),
        ("'use strict'", ""),
        ("", ""),
    ],
)
def test_the_first_line_says_that_it_is_for_node_and_nothing_more(
    first: str, flags: str, tmp_path: pathlib.Path
) -> None:
    assert npm_builder.program(_package(tmp_path, "a.js", a_js=f"{first}\n1\n"), "server", "")[2] == flags


@pytest.mark.requirement("deploy:npm:program")
@pytest.mark.parametrize(
    "first",
    [
        "#!/bin/sh",
        "#!/usr/bin/env python3",
        "#!/usr/bin/env bun",
        "#!/usr/bin/env -S deno run",
        "#!/usr/bin/env -S PATH=/tmp node",
        "#!/usr/bin/env node-evil",
        "#!/tmp/node;sh",
    ],
)
def test_a_program_for_something_else_is_refused(first: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.DeployFailed, match=r"not for Node\.js"):
        npm_builder.program(_package(tmp_path, "a.js", a_js=f"{first}\n"), "server", "")


@pytest.mark.requirement("deploy:npm:program")
def test_a_file_without_a_first_line_that_is_no_script_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.DeployFailed, match=r"not for Node\.js"):
        npm_builder.program(_package(tmp_path, "a.node", a_node="\x7fELF"), "server", "")
