"""Which addresses are dialled: every known notation of an inside address is refused."""

import ipaddress
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.kernel import errors
from smcp.sandbox.egress import guard

_INSIDE = (
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254"),
    *("169.254.0.1", "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192"),
    *("192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
)
_PUBLIC = ("1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.0.1", "172.32.0.1", "100.63.255.255", "192.169.0.1")


def _forms(four: str) -> Iterator[str]:
    """The ways to write an IPv4 address as an IPv6 one."""
    number = int(ipaddress.IPv4Address(four))
    high, low = number >> 16, number & 0xFFFF
    tail = f"{high:x}:{low:x}"
    yield from (f"::{tail}", f"::ffff:{tail}", f"::ffff:0:{tail}", f"64:ff9b::{tail}", f"64:ff9b:1::{tail}")
    yield from (f"64:ff9b:1:{high:x}:{low >> 8:x}:{(low & 0xFF) << 8:x}::", f"2002:{tail}::1")
    # Teredo: as the server, and as the client with its bits turned round
    yield from (f"2001:0:{tail}::1", f"2001:0:808:808:0:0:{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}")
    yield from (f"2606:4700::5efe:{tail}", f"2606:4700::200:5efe:{tail}", f"fe80::5efe:{tail}")


@pytest.mark.requirement("sandbox:egress:networks")
@pytest.mark.parametrize("four", _INSIDE)
def test_an_inside_address_is_refused_in_every_notation(four: str) -> None:
    open_to_nothing = guard.Guard(())
    assert open_to_nothing.refusal(four) != ""
    taken = [form for form in _forms(four) if open_to_nothing.refusal(form) == ""]
    assert taken == []


@pytest.mark.requirement("sandbox:egress:networks")
@pytest.mark.parametrize(
    "six",
    [
        *("::", "::1", "::2", "fe80::1", "fe80::1%1", "febf::1", "fec0::1", "fc00::1", "fd00::1", "fd00:ec2::254"),
        *("fd20:ce::254", "ff02::1", "100::1", "2001:db8::1", "2001::1", "2001:20::1", "2001:10::1", "3fff::1"),
        *("2002::1", "5f00::1", "4000::1", "e000::1", "64:ff9b:1::808:808", "::ffff:8.8.8.8", "2606:4700::1%1"),
    ],
)
def test_only_global_unicast_ipv6_is_taken(six: str) -> None:
    assert guard.Guard(()).refusal(six) != ""


@pytest.mark.requirement("sandbox:egress:networks")
@pytest.mark.parametrize("address", [*_PUBLIC, "2606:4700::1111", "2a00:1450:4001::200e", "64:ff9b::808:808"])
def test_public_addresses_are_taken(address: str) -> None:
    assert guard.Guard(()).refusal(address) == ""


@pytest.mark.requirement("sandbox:egress:networks")
@pytest.mark.parametrize(
    "text", ["", "localhost", "127.1", "0x7f.0.0.1", "1.2.3.4:80", "[::1]", "1.2.3.4/32", "١.1.1.1"]
)
def test_what_a_resolver_may_not_say_is_refused(text: str) -> None:
    assert guard.Guard(()).refusal(text) == "not an address"


@pytest.mark.requirement("sandbox:egress:networks")
@given(st.ip_addresses())
def test_nothing_is_taken_that_the_standard_library_calls_private(address: guard.Address) -> None:
    if guard.Guard(()).refusal(str(address)) == "":
        nat64 = address in ipaddress.ip_network("64:ff9b::/96")
        assert nat64 or (address.is_global and not address.is_multicast and not address.is_reserved)


@pytest.mark.requirement("sandbox:egress:networks")
def test_this_machines_own_addresses_are_known_without_a_list() -> None:
    assert guard.is_own(ipaddress.ip_address("127.0.0.1"))
    assert not guard.is_own(ipaddress.ip_address("192.0.2.1"))
    assert not guard.is_own(ipaddress.ip_address("8.8.8.8"))


@pytest.mark.requirement("sandbox:egress:operator")
def test_an_opened_network_is_taken_and_no_other() -> None:
    opened = guard.Guard(("10.1.0.0/16", "fd12::/16"))
    assert opened.refusal("10.1.2.3") == opened.refusal("fd12::5") == ""
    assert opened.refusal("10.2.0.1") == opened.refusal("::ffff:10.1.2.3") == "not a public address"


@pytest.mark.requirement("sandbox:egress:operator")
@pytest.mark.parametrize(
    "wide", [("0.0.0.0/0", "::/0"), ("169.254.0.0/16", "100.64.0.0/10", "fd00::/8", "64:ff9b::/96")]
)
def test_metadata_is_opened_only_by_its_exact_address(wide: tuple[str, ...]) -> None:
    opened = guard.Guard(wide)
    for address in (
        "169.254.169.254",
        "100.100.100.200",
        "fd00:ec2::254",
        "64:ff9b::a9fe:a9fe",
        "::ffff:169.254.169.254",
    ):
        assert opened.refusal(address) == "cloud metadata"
    exactly = guard.Guard((*wide, "169.254.169.254/32"))
    assert exactly.refusal("169.254.169.254") == ""
    assert exactly.refusal("169.254.170.2") == exactly.refusal("64:ff9b::a9fe:a9fe") == "cloud metadata"


@pytest.mark.requirement("sandbox:egress:operator")
def test_what_is_no_hosts_address_is_opened_by_nothing() -> None:
    opened = guard.Guard(("0.0.0.0/0", "::/0", "0.0.0.0/32", "::/128"))
    for address in ("0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1", "::ffff:0.0.0.0"):
        assert opened.refusal(address) == opened.refusal(address, trusted=True) == "not a host's address"


@pytest.mark.requirement("sandbox:egress:trusted")
def test_an_operators_host_may_be_private_or_local_but_not_metadata() -> None:
    closed = guard.Guard(())
    assert [closed.refusal(one, trusted=True) for one in ("10.0.0.1", "127.0.0.1", "::1", "fd12::1")] == [""] * 4
    assert closed.refusal("169.254.169.254", trusted=True) == "cloud metadata"


@pytest.mark.requirement("sandbox:egress:operator")
@pytest.mark.parametrize("text", ["10.0.0.1/8", "intranet", "10.0.0.0/33", ""])
def test_a_wrong_network_stops_the_start(text: str) -> None:
    with pytest.raises(errors.BadSettings, match=r"egress\.allowed_networks"):
        guard.Guard((text,))
