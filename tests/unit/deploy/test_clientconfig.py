"""Clients' configurations: usual forms become what they mean, others say why not, nothing is expanded."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from smcp.deploy import clientconfig, manifest
from smcp.kernel import errors

_HERE = pathlib.Path("/nonexistent")


def _one(entry: Mapping[str, Any], base: pathlib.Path = _HERE) -> clientconfig.Translation:
    [found] = clientconfig.translate({"x": entry}, base)
    return found


def _line(line: str) -> clientconfig.Translation:
    command, *args = line.split(" ")
    return _one({"command": command, "args": args})


@pytest.mark.requirement("deploy:config:forms")
@pytest.mark.parametrize(
    ("line", "source", "command", "args"),
    [
        ("npx -y @scope/server", "npm:@scope/server", "", ()),
        ("npx --yes server@1.2.3 --port 5", "npm:server@1.2.3", "", ("--port", "5")),
        ("npx server@latest -y", "npm:server", "", ("-y",)),
        ("npx -y server@^1.2 x", "npm:server", "", ("x",)),
        ("npx -y -p @scope/pack start --stdio", "npm:@scope/pack", "start", ("--stdio",)),
        ("npx --package=pack@2.0.0-rc.1 start", "npm:pack@2.0.0-rc.1", "start", ()),
        ("npx -y -- server --help", "npm:server", "", ("--help",)),
        (r"C:\Tools\npx.cmd -y server", "npm:server", "", ()),
        ("cmd /c npx -y server", "npm:server", "", ()),
        ("/usr/local/bin/npx -y server", "npm:server", "", ()),
        ("uvx mcp-server-time", "pypi:mcp-server-time", "", ()),
        ("uvx MCP_Server.Time==1.0 --tz UTC", "pypi:mcp-server-time==1.0", "", ("--tz", "UTC")),
        ("uvx mcp-server-time@2025.1 -v", "pypi:mcp-server-time==2025.1", "", ("-v",)),
        ("uvx mcp-server-time@latest", "pypi:mcp-server-time", "", ()),
        ("uvx --from pack==2 start x", "pypi:pack==2", "start", ("x",)),
        ("uvx --from=pack pack", "pypi:pack", "", ()),
        ("uvx --python 3.12 -q pack", "pypi:pack", "", ()),
        ("uv tool run pack a", "pypi:pack", "", ("a",)),
        ("python -m mcp_server_time --tz UTC", "pypi:mcp-server-time", "", ("--tz", "UTC")),
        ("/x/.venv/bin/python3.12 -u -m pack.server", "pypi:pack", "", ()),
        ("py -m pack", "pypi:pack", "", ()),
    ],
)
def test_a_usual_command_line_is_understood(line: str, source: str, command: str, args: tuple[str, ...]) -> None:
    found = _line(line)
    assert found.refused == ""
    assert (found.source, found.command, found.args) == (source, command, args)


@pytest.mark.requirement("deploy:config:guess")
def test_the_package_that_a_module_is_guessed_to_be_in_is_said() -> None:
    [notice] = _line("python3 -m mcp_server_git.server").notices
    assert "'mcp-server-git' is guessed" in notice


@pytest.mark.requirement("deploy:config:refused")
@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("docker run -i --rm mcp/time", "container image"),
        ("podman run x", "container image"),
        ("uv run server.py", "uv export"),
        ("uv --directory /home/ann/project run server.py", "in /home/ann/project"),
        ("bash -c npx", "never runs one"),
        ("sh -lc uvx", "never runs one"),
        ("cmd /c dir", "not understood"),
        ("cmd /k npx", "never runs one"),
        ("powershell -Command npx", "never runs one"),
        ("npx -c echo", "never runs one"),
        ("npx --registry=http://evil server", "'--registry' is not understood"),
        ("npx -y --node-options=--inspect server", "not understood"),
        ("npx -y -p a -p b start", "several packages"),
        ("npx -y", "no package"),
        ("npx -y git+https://example.com/x.git", "not the name of an npm package"),
        ("npx -y github:someone/server", "not the name of an npm package"),
        ("npx -y someone/server", "not the name of an npm package"),
        ("npx -y file:/etc", "not the name of an npm package"),
        ("npx -y ./server.js", "not the name of an npm package"),
        ("npx -y https://example.com/x.tgz", "not the name of an npm package"),
        ("npx -y server@beta", "tag"),
        ("npx -y server@npm:other", "names no version"),
        ("uvx --from git+https://example.com/x x", "not NAME"),
        ("uvx --index-url http://evil x", "not understood"),
        ("uvx --with other x", "lock file"),
        ("uvx x[cli]", "extras"),
        ("uvx x>=1", "not NAME"),
        ("uvx x==1;touch", "one exact version"),
        ("uvx", "no package"),
        ("python -c print()", "'-c'"),
        ("python -m ../x", "no module"),
        ("python -X importtime x.py", "not understood"),
        ("node --inspect server.js", "not understood"),
        ("node server.js", "not a file on this machine"),
        ("python ${workspaceFolder}/server.py", "reference"),
        ("./server", "not understood"),
        ("deno run server.ts", "not understood"),
    ],
)
def test_what_can_not_be_hosted_is_refused_and_says_why(line: str, why: str) -> None:
    found = _line(line)
    assert why in found.refused
    assert (found.source, found.folder) == ("", "")


@pytest.mark.requirement("deploy:config:refused")
@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"url": "https://example.com/mcp", "command": "npx"}, "an address and a command"),
        ({"type": "ws", "url": "https://example.com"}, "http and sse are understood"),
        ({"type": ["http"], "url": "https://example.com"}, "http and sse are understood"),
        ({"url": "https://${env:HOST}/mcp"}, "not followed"),
        ({"url": "https://ann:hunter22@example.com/mcp"}, "user or a password"),
        ({"url": "file:///etc/passwd"}, "begins with https://"),
        ({"url": 5}, "no address"),
        ({"url": "https://example.com", "headers": ["a"]}, "not an object"),
        ({"url": "https://example.com", "headers": {"X-Key": 5}}, "no text"),
        ({"url": "https://example.com", "headers": {"X-Key": "a\r\nHost: b"}}, "can't be sent"),
        ({"command": "npx", "args": ["mcp-remote"]}, "no address"),
        (
            {"command": "npx", "args": ["mcp-remote", "https://a.com", "--static-oauth-client-info", "x"]},
            "not understood",
        ),
        ({"command": "npx", "args": ["mcp-remote", "https://a.com", "https://b.com"]}, "more than one"),
        ({"command": "npx", "args": ["mcp-remote", "https://a.com", "--header"]}, "followed by nothing"),
        ({"type": "http", "command": "npx", "args": ["x"]}, "only stdio"),
        ({}, "no command"),
        ({"command": ["npx", "x"]}, "no command"),
        ({"command": "npx -y server"}, "holds spaces"),
        ({"command": "npx", "args": "-y server"}, "not a list"),
        ({"command": "npx", "args": ["x"], "env": []}, "not an object"),
        ({"command": "npx", "args": ["x"], "env": {"A B": "1"}}, "no variable"),
        ({"command": "npx", "args": ["x"], "env": {"A": None}}, "no variable"),
        ({"command": "npx", "args": ["x", "--header=Bearer abcdefghijklmnop"]}, "looks like a credential"),
    ],
)
def test_an_entry_of_another_kind_is_refused_and_says_why(entry: dict[str, Any], why: str) -> None:
    assert why in _one(entry).refused


@pytest.mark.requirement("deploy:config:secrets")
def test_variables_that_look_secret_become_secrets_and_are_never_shown() -> None:
    names = ["API_KEY", "GITHUB_TOKEN", "DB_PASSWORD", "client_secret", "GOOGLE_CREDENTIALS", "GH_PAT", "BASIC_AUTH"]
    env = {name: f"hidden-{name}" for name in names}
    found = _one({"command": "npx", "args": ["x"], "env": {**env, "TZ": "UTC", "AT": "Bearer abcdefghijkl", "N": 5}})
    assert found.secrets == {**env, "AT": "Bearer abcdefghijkl"}
    assert found.env == {"TZ": "UTC", "N": "5"}
    for text in (json.dumps(found.shown()), repr(found), found.manifest()):
        assert "hidden-" not in text
        assert "abcdefghijkl" not in text


@pytest.mark.requirement("deploy:config:literal")
def test_references_to_an_environment_are_not_followed_but_named_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "leaked")
    env = {
        "A": "${CANARY}",
        "B_TOKEN": "${input:token}",
        "C": "${env:CANARY}",
        "D": "",
        "E": "$CANARY",
        "F": "%CANARY%",
    }
    found = _one({"command": "npx", "args": ["x", "${CANARY}", "$(id)", "`id`", "{{env}}"], "env": env})
    assert found.needs == ("A", "B_TOKEN", "C", "D")
    assert found.env == {"E": "$CANARY", "F": "%CANARY%"}
    assert found.args == ("${CANARY}", "$(id)", "`id`", "{{env}}")
    assert "leaked" not in json.dumps(found.shown())
    assert any("sent as it stands" in notice for notice in found.notices)


@pytest.mark.requirement("deploy:config:notices")
def test_what_will_not_work_as_it_did_is_noticed() -> None:
    found = _one(
        {
            "command": "npx",
            "args": ["-y", "x", "/data/notes", "--dir=~/notes", "--api-key", "abc", "https://example.com"],
            "env": {"API_KEY": "<your key>"},
            "cwd": "/x",
            "disabled": True,
            "autoApprove": [],
        }
    )
    said = "\n".join(found.notices)
    for part in ("'/data/notes' looks", "'--dir=~/notes' looks", "--api-key", "placeholder", "cwd", "disabled", "auto"):
        assert part in said
    assert "example.com" not in said
    assert found.args[0] == "/data/notes"


@pytest.mark.requirement("deploy:config:files")
def test_a_program_of_this_machine_becomes_the_project_around_it(tmp_path: pathlib.Path) -> None:
    (tmp_path / "project/src").mkdir(parents=True)
    (tmp_path / "project/package.json").write_text("{}")
    (tmp_path / "project/src/index.js").write_text("")
    (tmp_path / "alone.py").write_text("")
    found = _one({"command": "node", "args": ["project/src/index.js", "--x"]}, tmp_path)
    assert (found.folder, found.command, found.args) == (str(tmp_path / "project"), "src/index.js", ("--x",))
    below = _one({"command": "node", "args": ["index.js"], "cwd": str(tmp_path / "project/src")})
    assert (below.folder, below.command) == (str(tmp_path / "project"), "src/index.js")
    assert "no project" in _one({"command": "python", "args": ["alone.py"]}, tmp_path).refused


@pytest.mark.requirement("deploy:config:files")
def test_a_home_directory_is_nobodys_project(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "package.json").write_text("{}")
    (tmp_path / "server.js").write_text("")
    assert "no project" in _one({"command": "node", "args": ["~/server.js"]}).refused


@pytest.mark.requirement("deploy:config:files")
def test_what_everybody_may_write_to_is_nobodys_project(tmp_path: pathlib.Path) -> None:
    (tmp_path / "package.json").write_text("{}")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/server.js").write_text("")
    entry = {"command": "node", "args": ["mine/server.js"]}
    assert _one(entry, tmp_path).folder == str(tmp_path)
    tmp_path.chmod(0o1777)
    assert "no project" in _one(entry, tmp_path).refused


@pytest.mark.requirement("deploy:config:names")
def test_names_become_names_of_servers_and_do_not_collide() -> None:
    entry = {"command": "uvx", "args": ["x"]}
    found = clientconfig.translate({"My Server!": entry, "my-server": entry, "日本": entry, "a" * 60: entry}, _HERE)
    assert [one.server for one in found] == ["my-server", "my-server", "", "a" * 31]
    assert [bool(one.refused) for one in found] == [False, True, True, False]
    assert "Rename" in found[1].refused


@pytest.mark.requirement("deploy:config:read")
@pytest.mark.parametrize(
    "text",
    [
        '{"mcpServers": {"x": {"command": "npx", "args": ["https://a,]"]}}}',
        '\ufeff{"servers": {"x": {"command": "npx", "args": ["https://a,]"],}, /* c,} */ }, // end\n}',
        '{"mcp": {"servers": {"x": {"command": "npx", // "no": 1,\n "args": ["https://a,]" , /**/ ]}}}}',
    ],
)
def test_claudes_cursors_and_vs_codes_files_are_read(text: str) -> None:
    assert clientconfig.read(text) == {"x": {"command": "npx", "args": ["https://a,]"]}}


@pytest.mark.requirement("deploy:config:read")
@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"mcpServers": 5}', '{"mcpServers": {"x": {}, "x": {}}}', "[" * 100_000, "x" * 2_000_000],
)
def test_a_file_that_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidParams):
        clientconfig.read(text)


@pytest.mark.requirement("deploy:config:literal")
@hypothesis.given(
    args=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30), max_size=5),
    value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30),
)
def test_no_text_of_an_entry_can_become_another_key_of_the_manifest(args: list[str], value: str) -> None:
    made = clientconfig.Translation(entry="x", server="x", args=tuple(args), env={"A": value}).manifest()
    assert manifest.parse(made) == manifest.Manifest(args=tuple(args), env={"A": value})
