"""The grammar of npm sources: nothing that can be written in one is an option, a path, an address or an alias."""

import re

import hypothesis
import pytest
from hypothesis import strategies as st

from smcp.deploy.sources import any as sources
from smcp.deploy.sources import npm, pypi
from smcp.kernel import errors

_EVIL = st.sampled_from(
    [
        "-",
        "--",
        "/",
        "..",
        "@",
        "@@",
        ":",
        " ",
        "\n",
        "\0",
        ";",
        "file:",
        "git+ssh://",
        "npm:",
        "^",
        "~",
        "*",
        "x",
        "%2f",
    ]
)
_REFUSED = [
    "",
    "npm",
    "npm:",
    "npm:@",
    "npm:@a",
    "npm:@a/",
    "npm:@/b",
    "npm:a/b",
    "npm:file:/etc",
    "npm:x@file:/etc",
    "npm:x@file:..",
    "npm:git+ssh://git@host.example/x",
    "npm:git+https://host.example/x.git",
    "npm:github:a/b",
    "npm:https://host.example/x.tgz",
    "npm:x@https://host.example/x.tgz",
    "npm:x@npm:y@1.0.0",
    "npm:npm:x",
    "npm:x@latest",
    "npm:x@^1.0.0",
    "npm:x@~1.0.0",
    "npm:x@1.x",
    "npm:x@1",
    "npm:x@1.2",
    "npm:x@v1.2.3",
    "npm:x@=1.2.3",
    "npm:x@1.2.3 || 2.0.0",
    "npm:x@>=1.2.3",
    "npm:x@*",
    "npm:x@",
    "npm:x@01.2.3",
    "npm:x@1.2.3+build",
    "npm:x y",
    "npm: x",
    "npm:x ",
    "npm:--registry=http://host.example",
    "npm:-g",
    "npm:@-a/b",
    "npm:@a/-b",
    "npm:x --ignore-scripts=false",
    "npm:x;touch y",
    "npm:x|y",
    "npm:$(touch y)",
    "npm:`touch y`",
    "npm:../x",
    "npm:./x",
    "npm:/x",
    "npm:.",
    "npm:..",
    "npm:.npmrc",
    "npm:_x",
    "npm:@a/..",
    "npm:@../b",
    "npm:node_modules",
    "npm:@a/node_modules",
    "npm:favicon.ico",
    "npm:x\n",
    "npm:x\x00",
    "npm:\uff58",
    "npm:sérver",
    "npm:x@1.2.3\n",
    "npm:x@１.2.3",
    "npm:x%2fy",
    "NPM:x",
    "npm:" + "x" * 215,
]
_SAFE = re.compile(r"(?:@[A-Za-z0-9][A-Za-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*")


@pytest.mark.requirement("deploy:npm:grammar")
@pytest.mark.parametrize(
    ("text", "name", "version"),
    [
        ("npm:server", "server", ""),
        ("npm:server@1.2.3", "server", "1.2.3"),
        ("npm:@modelcontextprotocol/server-everything", "@modelcontextprotocol/server-everything", ""),
        ("npm:@a/b@0.0.0-rc.1", "@a/b", "0.0.0-rc.1"),
        ("npm:JSONStream@1.3.5", "JSONStream", "1.3.5"),
        ("npm:a.b_c-d", "a.b_c-d", ""),
    ],
)
def test_a_name_and_an_exact_version_are_understood(text: str, name: str, version: str) -> None:
    found = npm.parse(text)
    assert (found.name, found.version) == (name, version)
    assert sources.parse(str(found)) == found
    assert str(found) == text


@pytest.mark.requirement("deploy:npm:grammar")
@pytest.mark.parametrize("text", _REFUSED)
def test_everything_else_is_refused_with_the_form_that_is_right(text: str) -> None:
    with pytest.raises(errors.InvalidParams, match=r"npm:NAME@VERSION"):
        sources.parse(text)


@pytest.mark.requirement("deploy:npm:grammar")
@hypothesis.given(st.lists(st.text(max_size=12) | _EVIL | st.sampled_from(["npm:", "@a/b", "1.0.0"]), max_size=6))
def test_no_text_becomes_an_option_or_a_path(parts: list[str]) -> None:
    for text in ("".join(parts), "npm:" + "".join(parts)):
        try:
            found = npm.parse(text)
        except errors.InvalidParams:
            continue
        assert _SAFE.fullmatch(found.name), found
        assert not found.version or npm.is_version(found.version)


@pytest.mark.requirement("deploy:source:any")
def test_each_scheme_has_its_own_grammar_and_no_other_exists() -> None:
    upload = "upload:sha256:" + "0" * 64
    assert sources.parse("pypi:x==1.0") == pypi.Pypi("x", "1.0")
    assert sources.parse("npm:x") == npm.Npm("x")
    assert sources.parse(upload) == sources.Upload("sha256:" + "0" * 64)
    assert str(sources.parse(upload)) == upload
    for text in ("upload:", "upload:sha256:" + "A" * 64, "upload:sha256:../../x", "docker:x", "file:/etc", "x", ":x"):
        with pytest.raises(errors.InvalidParams, match=r"upload:sha256:DIGEST"):
            sources.parse(text)


@pytest.mark.requirement("deploy:source:any")
def test_a_server_is_named_like_its_package() -> None:
    assert sources.server_name(sources.parse("npm:@modelcontextprotocol/server-memory")) == "server-memory"
    assert sources.server_name(sources.parse("npm:My.Server_2")) == "my-server-2"
    assert sources.server_name(sources.parse("pypi:mcp_server")) == "mcp-server"
    assert sources.server_name(sources.Upload("sha256:" + "0" * 64)) == ""
