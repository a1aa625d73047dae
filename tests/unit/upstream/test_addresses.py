"""Addresses of remote servers and header fields for them: one spelling, and nothing that has two readings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.kernel import errors
from smcp.upstream import fields, places


@pytest.mark.requirement("upstream:place:one-spelling")
@pytest.mark.parametrize(
    ("written", "is_"),
    [
        ("https://Example.COM", "https://example.com/"),
        ("https://example.com:443/mcp?x=1#part", "https://example.com/mcp?x=1"),
        ("http://example.com:80/", "http://example.com/"),
        ("https://example.com:8443/a%20b", "https://example.com:8443/a%20b"),
        ("https://example.com./", "https://example.com/"),
        ("https://[::1]:8443/mcp", "https://[::1]:8443/mcp"),
        ("https://[2001:DB8:0:0:0:0:0:1]/", "https://[2001:db8::1]/"),
        ("https://127.0.0.1/", "https://127.0.0.1/"),
    ],
)
def test_an_address_has_one_spelling(written: str, is_: str) -> None:
    found = places.parse(written)
    assert str(found) == is_
    assert places.parse(str(found)) == found


@pytest.mark.requirement("upstream:place:refused", "attack:remote:address")
@pytest.mark.parametrize(
    "written",
    [
        "", "example.com/mcp", "//example.com/mcp", "file:///etc/passwd", "ftp://example.com/", "gopher://example.com/",
        "https:///mcp", "https://user@example.com/", "https://user:pass@example.com/", "https://example.com:0/",
        "https://example.com:65536/", "https://example.com:٤٤٣/", "https://example.com:+443/", "https://127.1/",
        "https://0x7f.1/", "https://2130706433/", "https://0177.0.0.1/", "https://1.2.3/", "https://[::1/",
        "https://[fe80::1%25eth0]/", "https://exa mple.com/", "https://example.com/\r\nHost: other",
        "https://example.com\\@x/",
        "https://exämple.com/", "https://example.com/\x00", "https://-a.com/", "https://a..b/",
        "https://example.com/" + "x" * 2048,
    ],
)  # fmt: skip
def test_what_two_readers_could_take_for_two_places_is_refused(written: str) -> None:
    with pytest.raises(errors.InvalidParams):
        places.parse(written)


@pytest.mark.requirement("upstream:place:one-spelling")
@given(st.text(st.sampled_from("https:/.@[]%#?\\ ab1:0x"), max_size=40))
def test_whatever_is_taken_reads_the_same_again(text: str) -> None:
    for written in (text, f"https://{text}"):
        try:
            found = places.parse(written)
        except errors.InvalidParams:
            continue
        assert places.parse(str(found)) == found
        assert "@" not in found.authority
        assert str(found).isascii()


@pytest.mark.requirement("upstream:place:follow")
@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("/other", "https://a.example/other"),
        ("other", "https://a.example/dir/other"),
        ("//b.example/x", "https://b.example/x"),
        ("http://a.example/mcp", "http://a.example/mcp"),
        ("https://169.254.169.254/latest", "https://169.254.169.254/latest"),
        ("?q", "https://a.example/dir/mcp?q"),
    ],
)
def test_a_reference_leads_where_the_url_standard_says(location: str, leads_to: str) -> None:
    assert str(places.follow(places.parse("https://a.example/dir/mcp"), location)) == leads_to


@pytest.mark.requirement("attack:remote:fields")
@pytest.mark.parametrize(
    "name",
    [
        "Host", "content-length", "Transfer-Encoding", "Connection", "Mcp-Session-Id", "MCP-Protocol-Version",
        "Mcp-Method", "Proxy-Authorization", "Upgrade", "TE", "", "X Y", "X:Y", "X\r\nY", "X-\x00", "Ключ", "x" * 129,
    ],
)  # fmt: skip
def test_a_field_that_frames_routes_or_speaks_for_the_platform_is_refused(name: str) -> None:
    assert fields.refusal(name)


@pytest.mark.requirement("attack:remote:fields")
@given(st.text(max_size=60))
def test_no_value_can_end_its_line(secret: str) -> None:
    said = fields.value("X-Key", secret)
    if said is not None:
        assert said.isascii()
        assert not set(said) & set("\r\n\x00")
        assert said == said.strip()
    assert fields.refusal("X-Key") == ""


@pytest.mark.requirement("upstream:fields:authorization")
def test_a_token_in_authorization_gets_its_scheme() -> None:
    assert fields.value("Authorization", " tok \n") == "Bearer tok"
    assert fields.value("authorization", "Basic abc") == "Basic abc"
    assert fields.value("X-Api-Key", "tok") == "tok"
    assert fields.value("X-Api-Key", "a\r\nHost: b") is None
    assert fields.value("X-Api-Key", "") is None
