"""Remote servers as they are asked for: one spelling of an address, names of headers that can do no harm."""

import pathlib
import re
import urllib.parse

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from smcp.deploy import clientconfig, manifest, remotes, versions
from smcp.deploy.sources import any as sources
from smcp.deploy.sources import remote
from smcp.kernel import errors, ids


@pytest.mark.requirement("remote:address:one-spelling")
@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("https://mcp.example.com/mcp", "https://mcp.example.com/mcp"),
        ("HTTPS://MCP.Example.COM./mcp", "https://mcp.example.com/mcp"),
        ("https://mcp.example.com", "https://mcp.example.com/"),
        ("https://mcp.example.com:443/mcp/", "https://mcp.example.com/mcp/"),
        ("https://mcp.example.com:8443/a%20b;c?x=1&y=/?", "https://mcp.example.com:8443/a%20b;c?x=1&y=/?"),
        ("http://127.0.0.1:80/mcp", "http://127.0.0.1/mcp"),
        ("http://localhost:8080/mcp", "http://localhost:8080/mcp"),
        ("https://xn--bcher-kva.example/mcp", "https://xn--bcher-kva.example/mcp"),
        ("https://[2001:0DB8:0::1]:443/mcp", "https://[2001:db8::1]/mcp"),
        ("https://[::1]:8443", "https://[::1]:8443/"),
        ("https://mcp.example.com?", "https://mcp.example.com/"),
    ],
)
def test_an_address_has_one_spelling(text: str, canonical: str) -> None:
    found = sources.parse(text)
    assert (found, str(found)) == (remote.Remote(canonical), canonical)
    assert sources.parse(canonical) == found


@pytest.mark.requirement("remote:address:refused")
@pytest.mark.parametrize(
    ("text", "why"),
    [
        # CVE-2026-101064 and CVE-2026-76093: what is registered is an address of a web server and nothing else.
        ("file:///etc/passwd", "https://"),
        ("ftp://example.com/mcp", "https://"),
        ("https:example.com/mcp", "begins with https://"),
        ("https://ann:hunter2secret@example.com/mcp", "user or a password"),
        ("https://example.com@127.0.0.1/mcp", "user or a password"),
        ("https://example.com/mcp#top", "fragment"),
        ("https://example.com/mcp\r\nHost: evil", "visible ASCII"),
        ("https://example.com/mcp\x00", "visible ASCII"),
        ("https://example.com/a b", "visible ASCII"),
        ("https://bücher.example/mcp", "xn--"),
        ("https://example。com/mcp", "xn--"),
        ("https://example.com\\@127.0.0.1/mcp", "names no host|%-escapes"),
        ("https://example.com/a\\b", "%-escapes"),
        ("https://example.com/%zz", "%-escapes"),
        ("https://example.com/a/../b", "as a part"),
        ("https://example.com/a/%2e%2E/b", "as a part"),
        ("https:///mcp", "names no host"),
        ("https://-x.example/mcp", "names no host"),
        ("https://a..b/mcp", "names no host"),
        ("https://ex%61mple.com/mcp", "names no host"),
        ("https://127.1/mcp", "four decimal numbers"),
        ("https://2130706433/mcp", "four decimal numbers"),
        ("https://0x7f.0.0.1/mcp", "four decimal numbers"),
        ("https://0177.0.0.1/mcp", "four decimal numbers"),
        ("https://[fe80::1%25eth0]/mcp", "no IPv6"),
        ("https://[::1/mcp", "no IPv6"),
        ("https://[1.2.3.4]/mcp", "no IPv6"),
        ("https://example.com:0/mcp", "port"),
        ("https://example.com:/mcp", "port"),
        ("https://example.com:65536/mcp", "port"),
        ("https://example.com:443:443/mcp", "port"),
        ("https://example.com/mcp?api_key=abcdefgh12345", "credential"),
        ("https://example.com/" + "a" * 300, "300 characters"),
    ],
)
def test_what_two_readers_could_read_differently_is_refused_and_says_why(text: str, why: str) -> None:
    with pytest.raises(errors.InvalidParams) as caught:
        sources.parse(text)
    assert re.search(why, caught.value.public), caught.value.public
    assert "hunter2secret" not in caught.value.public


@pytest.mark.requirement("remote:address:one-spelling")
@hypothesis.given(st.text(st.sampled_from("ahtps:/?#@[]%.\\-_0123.xX2eE&=;!~\r\n ü"), max_size=40))
def test_whatever_is_taken_reads_the_same_for_another_parser_and_again(rest: str) -> None:
    try:
        found = remote.parse("https://" + rest)
    except errors.InvalidParams:
        return
    assert remote.parse(found.url) == found
    parts = urllib.parse.urlsplit(found.url)
    assert (parts.scheme, parts.username, parts.password, parts.fragment) == ("https", None, None, "")
    assert parts.hostname == found.host
    assert parts.path.startswith("/")
    assert found.url.isascii()
    assert found.url.isprintable()


@pytest.mark.requirement("remote:headers:names")
@pytest.mark.parametrize(
    "name",
    [
        *("Host", "host", "Content-Length", "CONNECTION", "Transfer-Encoding", "TE", "Upgrade", "Keep-Alive", "Cookie"),
        *("Mcp-Session-Id", "MCP-Protocol-Version", "Mcp-Method", "Mcp-Param-X", "Proxy-Authorization", "Trailer"),
        *("Accept", "Content-Type", "Last-Event-ID", "X-Forwarded-For", "Forwarded", "traceparent", "User-Agent"),
    ],
)
def test_a_header_that_is_not_the_tenants_to_say_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the platform's own"):
        remote.headers({name: "API_KEY"})
    with pytest.raises(errors.InvalidParams, match="the platform's own"):
        manifest.parse(f'[remote.headers]\n{name} = "API_KEY"\n')


@pytest.mark.requirement("remote:headers:names")
@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *((name, "KEY") for name in ("", "X Y", "X:Y", "X\r\nHost", "X\x00", "-x", "Ü", "x" * 65, "X-Key: abc")),
        *(("X-Key", secret) for secret in ("", "a b", "a-b", "A\r\nB", "Bearer abcdefghijkl", "1A", "A" * 129)),
        ("X-Key", "smcp_acme_abcdefghijkl1234"),
    ],
)
def test_neither_a_headers_name_nor_a_secrets_can_be_anything_else(name: str, secret: str) -> None:
    with pytest.raises(ValueError, match="header") as caught:
        remote.headers({name: secret})
    assert "abcdefghijkl" not in str(caught.value)


@pytest.mark.requirement("remote:headers:names")
def test_a_header_can_not_be_given_twice_in_two_spellings() -> None:
    with pytest.raises(ValueError, match="twice"):
        remote.headers({"X-Key": "A", "x-kEY": "B"})


@pytest.mark.requirement("remote:headers:forms")
def test_a_secret_alone_is_the_authorization_and_a_header_may_be_named() -> None:
    assert remote.header_secret("API_TOKEN") == ("Authorization", "API_TOKEN")
    assert remote.header_secret("X-Api-Key=API_KEY") == ("X-Api-Key", "API_KEY")
    for wrong in ("X-Api-Key=", "=A", "a-b", "Host=A", "X-Api-Key=A=B"):
        with pytest.raises(ValueError, match="header"):
            remote.header_secret(wrong)


@pytest.mark.requirement("remote:headers:values")
@pytest.mark.parametrize(
    ("header", "secret", "sent"),
    [
        ("Authorization", b"abc123", "Bearer abc123"),
        ("authorization", b" abc123\r\n", "Bearer abc123"),
        ("Authorization", b"Basic YWJj", "Basic YWJj"),
        ("Authorization", b"Bearer abc", "Bearer abc"),
        ("X-Api-Key", b"abc123\n", "abc123"),
        ("X-Api-Key", b"a b\tc", "a b\tc"),
    ],
)
def test_a_secret_becomes_a_headers_value(header: str, secret: bytes, sent: str) -> None:
    assert remote.value(header, secret) == sent


@pytest.mark.requirement("remote:headers:values")
@pytest.mark.parametrize(
    "secret",
    [b"", b" \n", *(b"abcdef" + end for end in (b"\r\nHost: evil", b"\nX: y", b"\0", b"\x7f")), "ü".encode(), b"\xff"],
)
def test_a_value_that_would_be_more_than_one_header_is_refused_without_being_repeated(secret: bytes) -> None:
    with pytest.raises(ValueError, match="it ") as caught:
        remote.value("X-Key", secret)
    assert "abcdef" not in str(caught.value)


@pytest.mark.requirement("remote:manifest:refused")
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('command = "x"', "command"),
        ('args = ["x"]', "args"),
        ('[env]\nA = "b"', "env"),
        ('[secrets]\nA = "env"', "secrets"),
        ('egress = ["example.com"]', "egress"),
        ('[volume]\npath = "/data"', "volume"),
        ('[config]\na = "b"', "config"),
        ("[scale]\nmin = 1", "scale"),
        ('runtime = "gvisor"', "gvisor"),
        ('[remote]\nurl = "https://other.example.com/mcp"', "url"),
    ],
)
def test_what_a_remote_server_does_not_have_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(errors.InvalidParams, match=named):
        remotes.settled(remote.parse("https://example.com/mcp"), manifest.parse(text))


@pytest.mark.requirement("remote:manifest:refused")
def test_a_manifest_says_where_it_is_with_which_headers_and_how_it_speaks() -> None:
    asked = manifest.parse(
        'era = "legacy"\n[remote]\nurl = "HTTPS://Example.com:443/mcp"\nwire = "sse"\n'
        '[remote.headers]\nX-Key = "B"\nAuthorization = "A"'
    )
    settled = remotes.settled(remote.parse("https://example.com/mcp"), asked)
    assert settled.era == "legacy"
    assert settled.remote == manifest.Remote(
        url="https://example.com/mcp", headers={"Authorization": "A", "X-Key": "B"}, wire="sse"
    )


@pytest.mark.requirement("remote:digest:description")
def test_the_digest_is_of_the_address_the_headers_and_the_wire() -> None:
    place = remote.parse("https://example.com/mcp")

    def digest(text: str) -> str:
        settled = remotes.settled(place, manifest.parse(text)).remote
        assert settled is not None
        return remotes.digest(settled)

    first = digest('[remote.headers]\nX-Key = "A"\nAuthorization = "B"')
    assert re.fullmatch("sha256:[0-9a-f]{64}", first)
    assert digest('description = "x"\n[remote.headers]\nAuthorization = "B"\nx-key = "A"') == first
    others = {
        digest('[remote.headers]\nX-Key = "B"\nAuthorization = "B"'),
        digest('[remote.headers]\nX-Key = "A"'),
        digest('[remote]\nwire = "sse"\n[remote.headers]\nX-Key = "A"\nAuthorization = "B"'),
        digest(""),
    }
    assert len(others) == 4
    assert first not in others


@pytest.mark.requirement("remote:record:older")
def test_a_record_of_before_there_were_remote_servers_is_still_read() -> None:
    made = versions.Deployment(
        id="dep-1", server="time", number=1, created=0.0, by="key-1", source="pypi:time==1", digest="sha256:0",
        manifest=manifest.Manifest(), lock=(), argv=("time",), interpreter="3.11",
    )  # fmt: skip
    tree = msgspec.msgpack.decode(msgspec.msgpack.encode(made))
    del tree["wire"], tree["manifest"]["remote"]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(tree), type=versions.Deployment) == made


@pytest.mark.requirement("remote:name:host")
@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://mcp.example.com/mcp", "example-com"),
        ("https://example.com/mcp", "example-com"),
        ("https://a.b.example.com", "a-b-example-com"),
        ("https://a-very-long-name-of-a-host.example.com/", "a-very-long-name-of-a-host-exam"),
        ("http://127.0.0.1/mcp", ""),
        ("http://[::1]/mcp", ""),
        ("http://localhost/mcp", ""),
    ],
)
def test_the_name_comes_from_the_host(url: str, name: str) -> None:
    found = sources.server_name(sources.parse(url))
    assert found == name
    if found:
        ids.server(found)


def _entry(entry: dict[str, object]) -> clientconfig.Translation:
    [found] = clientconfig.translate({"x": entry}, pathlib.Path("/nonexistent"))
    assert found.refused == ""
    return found


@pytest.mark.requirement("remote:client-config:entries")
@pytest.mark.parametrize(
    ("kind", "wire"),
    [
        (None, "auto"),
        ("http", "auto"),
        ("streamable-http", "streamable"),
        ("streamableHttp", "streamable"),
        ("sse", "sse"),
    ],
)
def test_an_entry_with_an_address_becomes_a_remote_server(kind: str | None, wire: str) -> None:
    entry: dict[str, object] = {"url": "https://Example.com/mcp", "headers": {"Authorization": "Bearer abcdefgh1234"}}
    found = _entry({**entry, **({"type": kind} if kind else {})})
    assert (found.source, found.wire, found.headers) == (
        "https://example.com/mcp",
        wire,
        {"Authorization": "AUTHORIZATION"},
    )
    assert found.secrets == {"AUTHORIZATION": "Bearer abcdefgh1234"}
    assert "abcdefgh1234" not in repr(found) + repr(found.shown()) + found.manifest()
    asked = manifest.parse(found.manifest())
    assert remotes.settled(remote.parse(found.source), asked).remote == manifest.Remote(
        url="https://example.com/mcp", headers={"Authorization": "AUTHORIZATION"}, wire=found.wire
    )


@pytest.mark.requirement("remote:client-config:entries")
def test_a_reference_in_a_header_needs_a_value_and_a_header_of_the_platforms_is_left_out() -> None:
    found = _entry(
        {
            "serverUrl": "https://example.com/mcp",
            "headers": {"X-Api-Key": "${input:key}", "Content-Type": "application/json", "Authorization": ""},
        }
    )
    assert found.headers == {"X-Api-Key": "X_API_KEY", "Authorization": "AUTHORIZATION"}
    assert (found.secrets, found.needs) == ({}, ("X_API_KEY", "AUTHORIZATION"))
    assert any("Content-Type" in notice for notice in found.notices)


@pytest.mark.requirement("remote:client-config:entries")
def test_the_relay_that_clients_start_is_left_out() -> None:
    found = _entry(
        {
            "command": "npx",
            "args": [
                *("-y", "mcp-remote@latest", "https://example.com/sse", "3334", "--header", "Authorization:${AUTH}"),
                *("--header", "X-Team: ${TEAM}", "--transport", "sse-only"),
            ],
            "env": {"AUTH": "Bearer abcdefgh1234"},
        }
    )
    assert (found.source, found.wire) == ("https://example.com/sse", "sse")
    assert found.headers == {"Authorization": "AUTHORIZATION", "X-Team": "X_TEAM"}
    assert (found.secrets, found.needs) == ({"AUTHORIZATION": "Bearer abcdefgh1234"}, ("X_TEAM",))
