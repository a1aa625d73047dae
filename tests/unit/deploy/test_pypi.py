"""The grammar of sources: nothing that can be written in one is a flag, a path, a URL or a second requirement."""

import re

import hypothesis
import pytest
from hypothesis import strategies as st

from smcp.deploy.sources import pypi
from smcp.kernel import errors

_EVIL = st.sampled_from(
    [
        "-",
        "--",
        "/",
        "..",
        "\\",
        " ",
        "\n",
        "\0",
        "@",
        ";",
        "[x]",
        "git+https://",
        "file:",
        "==",
        "=",
        "%2e",
        "${HOME}",
        "é",
        "𝟙",
    ]
)
_SAFE = re.compile(r"[a-z0-9](?:[a-z0-9.!+=-]*[a-z0-9])?")


@pytest.mark.requirement("deploy:source:grammar")
@pytest.mark.parametrize(
    ("text", "requirement"),
    [
        ("pypi:mcp-server-time", "mcp-server-time"),
        ("pypi:MCP_Server.Time", "mcp-server-time"),
        ("pypi:a", "a"),
        ("pypi:x==1.0", "x==1.0"),
        ("pypi:x==1!2.0.1rc1.post2.dev3+local.1", "x==1!2.0.1rc1.post2.dev3+local.1"),
    ],
)
def test_a_name_and_an_exact_version_are_understood(text: str, requirement: str) -> None:
    found = pypi.parse(text)
    assert found.requirement == requirement
    assert pypi.parse(str(found)) == found


@pytest.mark.requirement("deploy:source:grammar")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "pypi:",
        "pypi",
        "mcp-server-time",
        "npm:x",
        "PYPI:x",
        "pypi:-x",
        "pypi:--index-url=http://x",
        "pypi:x==",
        "pypi:x>=1",
        "pypi:x==1.*",
        "pypi:x===1",
        "pypi:x== 1",
        "pypi:x ==1",
        "pypi:x==1 -r /etc/passwd",
        "pypi:x[extra]",
        "pypi:x;y",
        "pypi:./x",
        "pypi:../x",
        "pypi:/x",
        "pypi:x/y",
        "pypi:x@http://y",
        "pypi:git+https://x",
        "pypi:x\n--pre",
        "pypi:x==1\n",
        "pypi:x\x00",
        "pypi:\uff58",
        "pypi:x.",
        "pypi:x==--pre",
        "pypi:x==-1",
        "pypi:" + "x" * 200,
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidParams):
        pypi.parse(text)


@pytest.mark.requirement("deploy:source:grammar")
@hypothesis.given(st.lists(st.text(max_size=12) | _EVIL | st.sampled_from(["pypi:", "x", "1.0"]), max_size=6))
def test_no_text_becomes_a_flag_or_a_path(parts: list[str]) -> None:
    for text in ("".join(parts), "pypi:" + "".join(parts)):
        try:
            found = pypi.parse(text)
        except errors.InvalidParams:
            continue
        assert _SAFE.fullmatch(found.requirement), found
        assert found.requirement.count("==") <= 1
