"""Forwarding headers: who may write them, and who is the client then."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.kernel import errors, hosts, proxies

PROXIES = ("10.0.0.0/8", "192.0.2.7/32", "2001:db8:1::/48")
PROXY = "10.0.0.1"
CLIENT = "203.0.113.9"

_TRUST = proxies.Proxies(PROXIES)


def _fields(*pairs: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs]


def _seen(peer: str, *pairs: tuple[str, str]) -> proxies.Seen:
    return _TRUST.seen(peer, "http", _fields(*pairs))


@pytest.mark.requirement("kernel:proxies:untrusted")
@pytest.mark.parametrize("peer", [CLIENT, "192.0.2.8", "2001:db8:2::1", "", "unix:", "::ffff:203.0.113.9"])
def test_what_a_stranger_writes_changes_nothing(peer: str) -> None:
    told = (
        ("X-Forwarded-For", "1.1.1.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.example"),
        ("Forwarded", "for=1.1.1.1;proto=https;host=evil.example"),
    )
    assert _seen(peer, *told) == proxies.Seen(peer, "http", "")
    nobody = proxies.Proxies(())
    assert nobody.seen(PROXY, "http", _fields(*told)) == proxies.Seen(PROXY, "http", "")
    assert not nobody
    assert _TRUST


@pytest.mark.requirement("kernel:proxies:client")
@pytest.mark.parametrize(
    ("told", "client"),
    [
        ("203.0.113.9", CLIENT),
        ("  203.0.113.9\t", CLIENT),
        ("203.0.113.9:4711", CLIENT),
        ("::ffff:203.0.113.9", CLIENT),
        ("1.1.1.1, 203.0.113.9", CLIENT),
        ("garbage, \"', 203.0.113.9", CLIENT),
        ("1.1.1.1, 203.0.113.9, 10.9.9.9, 192.0.2.7", CLIENT),
        ("2001:DB8:2:0::1", "2001:db8:2::1"),
        ("[2001:db8:2::1]:443", "2001:db8:2::1"),
        ("1.1.1.1, 2001:db8:2::1, 2001:db8:1::5", "2001:db8:2::1"),
        ("10.1.1.1", "10.1.1.1"),
        ("garbage, 10.1.1.1", "10.1.1.1"),
        (", ".join(["1.1.1.1"] * 3 + ["10.1.1.1"] * 40), "10.1.1.1"),
    ],
)
def test_the_first_address_from_the_right_that_is_not_ours_is_the_client(told: str, client: str) -> None:
    assert _seen(PROXY, ("X-Forwarded-For", told)).address == client
    lines = [("X-Forwarded-For", part) for part in told.split(",")]
    assert _seen(PROXY, *lines).address == client, "several lines are one list (RFC 9110, 5.3)"


@pytest.mark.requirement("kernel:proxies:malformed")
@pytest.mark.parametrize(
    "told",
    [
        "",
        ",",
        "unknown",
        "_hidden",
        "203.0.113",
        "203.0.113.256",
        "1.1.1.1, ",
        "fe80::1%eth0",
        "[::1",
        "٣.1.1.1",
        "a" * 30_000,
    ],
)
def test_what_cannot_be_read_leaves_the_peers_address(told: str) -> None:
    fields = [(b"x-forwarded-for", told.encode("utf-8"))]
    assert _TRUST.seen(PROXY, "http", fields).address == PROXY
    assert _TRUST.seen(PROXY, "http", [(b"forwarded", b"for=" + told.encode("utf-8"))]).address == PROXY


@pytest.mark.requirement("kernel:proxies:malformed")
@given(st.lists(st.tuples(st.sampled_from(["x-forwarded-for", "forwarded", "x-forwarded-proto"]), st.binary())))
def test_no_bytes_raise_anything(pairs: list[tuple[str, bytes]]) -> None:
    seen = _TRUST.seen(PROXY, "http", [(name.encode(), value) for name, value in pairs])
    assert seen.address
    assert seen.scheme in ("http", "https")


@pytest.mark.requirement("kernel:proxies:standard")
@pytest.mark.parametrize(
    ("told", "seen"),
    [
        ("for=203.0.113.9", (CLIENT, "http", "")),
        ("For=203.0.113.9;Proto=HTTPS;Host=mcp.example", (CLIENT, "https", "mcp.example")),
        ('for="[2001:db8:2::1]:4711";proto=https', ("2001:db8:2::1", "https", "")),
        ('for="203.0.113.9:80" ; host="mcp.example:8443"', (CLIENT, "http", "mcp.example:8443")),
        ("for=1.1.1.1;proto=https, for=203.0.113.9;proto=http", (CLIENT, "http", "")),
        ('for="1.1.1.1, for=203.0.113.9;proto=https', (CLIENT, "https", "")),
        ("for=203.0.113.9;proto=https, for=10.1.1.1;proto=http", (CLIENT, "https", "")),
        ("for=203.0.113.9;proto=gopher", (CLIENT, "http", "")),
        ("for=203.0.113.9;for=1.1.1.1", (PROXY, "http", "")),
        ("for=unknown;proto=https", (PROXY, "http", "")),
        ("proto=https", (PROXY, "http", "")),
        ('for="203.0.113.9', (PROXY, "http", "")),
        ("for=[2001:db8:2::1]", (PROXY, "http", "")),
    ],
)
def test_forwarded_is_read_as_rfc_7239_says(told: str, seen: tuple[str, str, str]) -> None:
    assert _seen(PROXY, ("Forwarded", told)) == seen


@pytest.mark.requirement("kernel:proxies:both")
def test_of_two_families_that_disagree_neither_is_believed() -> None:
    plain = ("X-Forwarded-For", f"1.1.1.1, {CLIENT}"), ("X-Forwarded-Proto", "https")
    peer = proxies.Seen(PROXY, "http", "")
    assert _seen(PROXY, *plain) == (CLIENT, "https", "")
    assert _seen(PROXY, *plain, ("Forwarded", f"for={CLIENT};proto=https")) == (CLIENT, "https", "")
    assert _seen(PROXY, *plain, ("Forwarded", "for=8.8.8.8;proto=https")) == peer
    assert _seen(PROXY, *plain, ("Forwarded", f"for={CLIENT};proto=http")) == peer
    assert _seen(PROXY, *plain, ("Forwarded", f"for={CLIENT};proto=https;host=evil.example")) == peer
    assert _seen(PROXY, *plain, ("Forwarded", "nonsense")) == peer


@pytest.mark.requirement("kernel:proxies:client")
def test_scheme_and_host_are_those_of_the_hop_next_to_us() -> None:
    told = ("X-Forwarded-Proto", "http, https"), ("X-Forwarded-Host", "evil.example, mcp.example")
    assert _seen(PROXY, *told) == (PROXY, "https", "mcp.example")


@pytest.mark.requirement("gateway:proxies:host")
def test_a_forwarded_host_can_only_refuse() -> None:
    """Behind DNS rebinding a page's script sets X-Forwarded-Host, and its browser the page's own name as Host."""
    names = hosts.Hosts(host="127.0.0.1", port=8080, public_url="https://mcp.example", trusted=PROXIES)
    ours, theirs = (_fields(("X-Forwarded-Host", name)) for name in ("MCP.example", "evil.example"))
    assert names.seen(PROXY, "http", ours).host == "MCP.example"
    with pytest.raises(errors.HostRefused):
        names.seen(PROXY, "http", theirs)
    assert names.seen(CLIENT, "http", theirs).host == ""
    with pytest.raises(errors.HostRefused):
        names.check("evil.example", None)


@pytest.mark.requirement("kernel:proxies:settings")
@pytest.mark.parametrize(
    "network", ["everybody", "0.0.0.0/0", "::/0", "8.0.0.0/7", "10.0.0.1/8", "2000::/3", "10.0.0.0/33"]
)
def test_no_network_may_be_trusted_that_is_none_or_as_good_as_everybody(network: str) -> None:
    with pytest.raises(errors.BadSettings, match=r"gateway\.trusted_proxies"):
        proxies.Proxies((network,))
