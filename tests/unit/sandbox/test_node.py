"""Which Node.js is found, how it comes into a sandbox, and which deployments fit it."""

import os
import pathlib
import stat

import pytest

from smcp.kernel import errors, settings
from smcp.sandbox import cells, node, walls


def _label(label: str) -> node.Node:
    return node.Node(label=label, executable="/usr/bin/node")


@pytest.mark.requirement("sandbox:node:recorded")
@pytest.mark.parametrize(
    ("recorded", "fits"),
    [
        ("node-20.20.2 /usr", True),
        ("node-20.1.0 /usr", True),
        ("node-22.1.0 /usr", False),
        ("node-2.0.0 /usr", False),
        ("node-20.20.2 /opt/node", False),
        ("cpython-3.11.7 /usr", False),
        ("", False),
    ],
)
def test_a_deployment_fits_the_same_major_version_at_the_same_place(recorded: str, fits: bool) -> None:
    assert node.serves(_label("node-20.20.2 /usr"), recorded) is fits


@pytest.mark.requirement("sandbox:node:found")
def test_a_script_or_something_else_is_no_node(tmp_path: pathlib.Path) -> None:
    program = tmp_path / "node"
    for content in ("#!/bin/sh\necho v20.1.2\n", ""):
        program.write_text(content, "utf-8")
        program.chmod(stat.S_IRWXU)
        with pytest.raises(errors.SandboxMissing):
            node.at(str(program), {})
    with pytest.raises(errors.SandboxMissing):
        node.at("/usr/bin/env", {})  # a program, and no Node.js
    with pytest.raises(errors.SandboxMissing):
        node.at(str(tmp_path / "absent"), {})
    assert node.current({"PATH": f"{tmp_path}:relative:/nonexistent"}) is None


@pytest.mark.requirement("sandbox:node:found")
def test_where_there_is_none_it_is_said_what_to_install() -> None:
    assert "apt install nodejs npm" in node.missing().public


@pytest.mark.requirement("sandbox:node:found")
def test_a_hosted_node_server_gets_its_place_its_heap_and_no_npm() -> None:
    runs = node.Node(
        label="node-20.20.2 /opt/node",
        executable="/opt/node/bin/node",
        binds=(walls.Bind("/x/node", "/opt/node/bin/node"),),
        npm="/opt/npm/bin/npm-cli.js",
        npm_binds=(walls.Bind("/x/npm", "/opt/npm"),),
    )
    limits = settings.Sandbox(memory_bytes=512 * 1_048_576)
    cell = cells.hosted(limits, runs, "acme", "/artefact", ("/opt/node/bin/node", "/app/x.js"), (("MINE", "${HOME}"),))
    env = dict(cell.env)
    assert env["PATH"].split(os.pathsep)[0] == "/opt/node/bin"
    assert env["NODE_ENV"] == "production"
    assert env["NODE_OPTIONS"] == "--max-old-space-size=384"
    assert env["MINE"] == "${HOME}"
    assert not [name for name in env if name.startswith("PYTHON")]
    assert [bind.target for bind in cell.binds] == ["/opt/node/bin/node", "/app"]
    assert cell.egress == ()
