"""MCP bundles: what their manifest may say, and the two things in it that are replaced."""

import json
from typing import Any, Final

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from smcp.deploy import bundle
from smcp.kernel import errors

_ARGS: Final = ["${__dirname}/index.js"]


def _manifest(server: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    fields = {"type": "node", "entry_point": "index.js", "mcp_config": {"command": "node", "args": _ARGS}}
    return {"manifest_version": "0.3", "name": "x", "version": "1.0.0", "server": {**fields, **(server or {})}, **more}


def _parsed(server: dict[str, Any] | None = None, **more: Any) -> bundle.Bundle:
    return bundle.parse(json.dumps(_manifest(server, **more)).encode())


def _config(**config: Any) -> dict[str, Any]:
    return {"mcp_config": {"command": "node", "args": _ARGS, **config}}


@pytest.mark.requirement("deploy:bundle:read")
@pytest.mark.parametrize(
    ("server", "args", "runtime"),
    [
        ({}, ("/app/index.js",), "node"),
        (_config(args=["index.js", "--x"]), ("/app/index.js", "--x"), "node"),
        ({"mcp_config": {}}, ("/app/index.js",), "node"),
        ({"type": "python", "mcp_config": {"command": "python3", "args": ["-m", "x"]}}, ("-m", "x"), "python"),
        (_config(platform_overrides={"linux": {"args": ["a"]}, "win32": {"command": "x.exe"}}), ("a",), "node"),
    ],
)
def test_node_and_python_bundles_start_as_they_say(server: dict[str, Any], args: tuple[str, ...], runtime: str) -> None:
    how = bundle.start(_parsed(server), {})
    assert (how.args, how.runtime) == (args, runtime)


@pytest.mark.requirement("deploy:bundle:refused")
@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"name": "../../x"}, "name"),
        ({"name": "/x"}, "name"),
        ({"name": "a\\..\\x"}, "name"),
        ({"name": "a..b"}, "name"),
        ({"name": "x\n"}, "name"),
        ({"name": ""}, "name"),
        ({"name": 5}, "can't be read"),
        ({"version": "../1"}, "version"),
        ({"manifest_version": "9"}, "manifest_version"),
        ({"manifest_version": ""}, "manifest_version"),
        ({"user_config": {"a}b": {}}}, "option"),
        ({"server": {}}, "can't be read"),
        ({"server": {"type": "binary"}}, "compiled program"),
        ({"server": {"type": "uv"}}, "smcp deploy ./folder"),
        ({"server": {"type": "ruby"}}, "'ruby'"),
        ({"server": {"type": "node", "mcp_config": {"command": "npx"}}}, "npm:NAME"),
        ({"server": {"type": "node", "mcp_config": {"command": "/bin/sh"}}}, "starts '/bin/sh'"),
        ({"server": {"type": "node", "mcp_config": {"command": "${__dirname}/x"}}}, "started with node only"),
        ({"server": {"type": "node", "mcp_config": {"env": {"A=B": "x"}}}}, "variable"),
    ],
)
def test_attack_ghsa_p3h2_2j4p_p83g_and_others_a_manifest_is_no_path_and_no_command(
    more: dict[str, Any], told: str
) -> None:
    data = json.dumps({**_manifest(), **more}).encode()
    with pytest.raises(errors.DeployFailed, match=told):
        bundle.start(bundle.parse(data), {})


@pytest.mark.requirement("deploy:bundle:refused")
@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 100_000, b"\xff"])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(errors.DeployFailed, match="can't be read"):
        bundle.parse(data)


@pytest.mark.requirement("deploy:bundle:literal")
def test_attack_cve_2026_32625_everything_but_two_references_stays_literal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "leaked")
    odd = ["${HOME}", "$CANARY", "${CANARY}", "${env:CANARY}", "${user_config}", "${user_config.none}", "${/}", "$(id)"]
    odd += ["${ user_config.a }", "{{env}}", "`id`", "%CANARY%", "${__dirname", "${__DIRNAME}"]
    env = {f"V{place}": one for place, one in enumerate(odd)}
    how = bundle.start(_parsed(_config(args=odd, env=env), user_config={"a": {"default": "x"}}), {})
    assert list(how.args) == odd
    assert how.env == env


@pytest.mark.requirement("deploy:bundle:literal")
@hypothesis.given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_put_in_is_not_looked_at_again(value: str) -> None:
    found = _parsed(
        _config(args=["<${user_config.a}>", "${user_config.a}"]), user_config={"a": {}, "b": {"default": "!"}}
    )
    value += "${user_config.b}${__dirname}"
    assert bundle.start(found, {"a": value}).args == (f"<{value}>", value)


@pytest.mark.requirement("deploy:bundle:options")
def test_options_have_defaults_several_values_or_are_missed() -> None:
    options = {
        "on": {"type": "boolean", "default": True},
        "size": {"type": "number", "default": 10},
        "dirs": {"type": "directory", "multiple": True, "default": ["/a", "${HOME}"]},
        "none": {"type": "string"},
        "must": {"type": "string", "required": True, "title": "What"},
    }
    args = ["--on=${user_config.on}", "${user_config.size}", "${user_config.dirs}", "${user_config.none}"]
    found = _parsed(_config(args=[*args, "${user_config.must}"]), user_config=options)
    assert bundle.start(found, {"must": "y"}).args == ("--on=true", "10", "/a", "${HOME}", "y")
    assert bundle.start(found, {"must": "y", "dirs": ["/b", "/c"]}).args == ("--on=true", "10", "/b", "/c", "y")
    with pytest.raises(errors.DeployFailed, match=r"'must' \(What\).*--config must="):
        bundle.start(found, {})
    with pytest.raises(errors.DeployFailed, match="no option 'other'"):
        bundle.start(found, {"must": "y", "other": "z"})


@pytest.mark.requirement("deploy:bundle:secrets")
def test_sensitive_options_are_secrets_and_never_arguments() -> None:
    options = {"key": {"sensitive": True, "required": True}, "maybe": {"sensitive": True}}
    env = {"A": "Bearer ${user_config.key}", "B": "${user_config.maybe}", "C": "plain"}
    found = _parsed(_config(env=env), user_config=options)
    how = bundle.start(found, {})
    assert (how.env, how.secrets) == ({"C": "plain"}, ("A",))
    assert bundle.secret_values(found, {}) == {}
    assert bundle.secret_values(found, {"key": "k", "maybe": "m"}) == {"A": "Bearer k", "B": "m"}
    for args in (["${user_config.key}"], ["--key=${user_config.key}"]):
        with pytest.raises(errors.DeployFailed, match="everybody may see it"):
            bundle.start(_parsed(_config(args=args), user_config=options), {"key": "CANARY"})
    assert "CANARY" not in repr(msgspec.structs.asdict(bundle.start(found, {"key": "CANARY"})))
