"""Entries of an allow-list: each has one meaning, and what has none is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.deploy import manifest
from smcp.kernel import errors
from smcp.sandbox.egress import rules


@pytest.mark.requirement("sandbox:egress:rules")
@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("api.github.com", "api.github.com:443"),
        ("API.GitHub.com.", "api.github.com:443"),
        ("api.github.com:8443", "api.github.com:8443"),
        ("*.example.com:443", "*.example.com:443"),
        ("*.Example.com", "*.example.com:443"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example:443"),
        ("_dmarc.example.com", "_dmarc.example.com:443"),
        ("db:5432", "db:5432"),
        ("3com.example", "3com.example:443"),
        ("10.1.2.3:5432", "10.1.2.3:5432"),
    ],
)
def test_an_entry_has_one_spelling(text: str, means: str) -> None:
    rule = rules.parse(text)
    assert str(rule) == means
    assert rules.parse(str(rule)) == rule


@pytest.mark.requirement("sandbox:egress:rules")
@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "*", "*.", "*.com", "*:443", "**.example.com", "a.*.example.com", "*example.com", "*.*.example.com"),
        *("https://api.github.com", "api.github.com/", "user@api.github.com", "api.github.com?x", "api.github.com#x"),
        *("a b.example", "a\n.example", "a.example\n", "\ta.example", "a.example\0", "a..example", ".a.example"),
        *("-a.example", "a-.example", f"{'a' * 64}.example", ".".join(["a" * 60] * 5), "a.example:", "a.example:0"),
        *("a.example:65536", "a.example:0443", "a.example:+443", "a.example:443:443", "a.example:4 3", "a.example:٤٤٣"),
        *("bücher.example", "ⓖithub.com", "api。github.com", "api.github.com\u200b", "\u212a.example"),
        *("localhost", "x.localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1"),
        *("10.1.2", "10.01.2.3", "256.1.1.1", "1.2.3.4.", "0.0.0.0", "198.18.0.1", "224.0.0.1", "255.255.255.255"),
        *("[::1]:443", "::1", "[2001:db8::1]", "fe80::1%eth0", "example.1", "example.0xa"),
    ],
)
def test_what_is_no_entry_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(errors.InvalidParams) as raised:
        rules.parse(text)
    assert f"{text[:300]!a}" in raised.value.public
    assert "\n" not in raised.value.public


@pytest.mark.requirement("sandbox:egress:rules")
@pytest.mark.parametrize(
    ("entry", "name", "meant"),
    [
        ("example.com", "example.com", True),
        ("example.com", "www.example.com", False),
        ("example.com", "evilexample.com", False),
        ("example.com", "example.com.evil.net", False),
        ("*.example.com", "www.example.com", True),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", ".example.com", True),
        ("*.example.com", "evilexample.com", False),
        ("*.example.com", "www.example.com.evil.net", False),
        ("10.1.2.3", "10.1.2.3", False),
    ],
)
def test_a_wildcard_means_what_is_below_and_a_name_means_itself(entry: str, name: str, meant: bool) -> None:
    # A name without a first label is no canonical one and never gets as far.
    assert rules.parse(entry).names(name) is meant
    assert rules.canonical(name) is not name.startswith(".")


@pytest.mark.requirement("sandbox:egress:rules")
@given(st.text(max_size=40) | st.from_regex(r"[*a-z0-9._:\-\[\]/@%]{0,40}", fullmatch=True))
def test_parsing_is_total_and_what_it_takes_is_canonical(text: str) -> None:
    try:
        rule = rules.parse(text)
    except errors.InvalidParams:
        return
    assert rules.canonical(rule.host)
    assert rules.parse(str(rule)) == rule
    assert 0 < rule.port < 65536


@pytest.mark.requirement("sandbox:egress:rules", "sandbox:egress:bounded")
def test_the_ports_are_those_of_the_rules_and_two_that_are_watched() -> None:
    assert rules.ports(()) == ()
    assert rules.ports(rules.parsed(["a.example:8080", "b.example:8080", "10.0.0.1:22"])) == (22, 80, 443, 8080)
    assert len(rules.ports(rules.parsed([f"a.example:{port}" for port in range(1000, 1016)]))) == 18
    with pytest.raises(errors.InvalidParams, match="16 different ports"):
        rules.parsed([f"a.example:{port}" for port in range(1000, 1017)])
    with pytest.raises(errors.InvalidParams, match="64 entries"):
        rules.parsed([f"a{number}.example" for number in range(65)])


@pytest.mark.requirement("sandbox:egress:trusted")
def test_only_an_operators_entry_may_name_loopback() -> None:
    assert str(rules.parse("localhost:3141", trusted=True)) == "127.0.0.1:3141"
    assert str(rules.parse("127.0.0.1:3141", trusted=True)) == "127.0.0.1:3141"
    with pytest.raises(errors.InvalidParams):
        rules.parse("0.0.0.0:3141", trusted=True)


@pytest.mark.requirement("sandbox:egress:manifest")
def test_a_manifest_names_what_its_server_may_reach() -> None:
    assert manifest.parse("").egress == ()
    assert manifest.parse('egress = ["api.github.com", "*.example.com:443"]').egress == (
        "api.github.com",
        "*.example.com:443",
    )
    with pytest.raises(errors.InvalidParams, match=r"'http://a\.example'"):
        manifest.parse('egress = ["b.example", "http://a.example"]')
    with pytest.raises(errors.InvalidParams, match="egress"):
        manifest.parse('egress = "a.example"')
