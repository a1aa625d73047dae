"""A cell's name system: total on any bytes, exact in what it answers, bounded in what it keeps."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.sandbox.egress import names

_A, _NS, _AAAA, _HTTPS, _ANY = 1, 2, 28, 65, 255


def _ask(name: str, kind: int = _A, *, flags: int = 0x0100, group: int = 1, count: int = 1, number: int = 7) -> bytes:
    labels = b"".join(bytes([len(one)]) + one.encode("latin-1") for one in name.split(".") if one)
    return struct.pack(">6H", number, flags, count, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, group)


def _allowed(name: str, _: bool) -> str | None:
    return "198.18.0.1" if name == "api.example" else None


def _code(reply: bytes | None) -> int:
    assert reply is not None
    return struct.unpack_from(">H", reply, 2)[0] & 0xF


@pytest.mark.requirement("sandbox:egress:dns-closed")
def test_an_allowed_name_has_an_address_and_repeats_the_question_as_it_came() -> None:
    asked = _ask("API.eXample")
    reply = names.answer(asked, _allowed)
    assert reply is not None
    number, flags, questions, answers, *_ = struct.unpack_from(">6H", reply)
    assert (number, questions, answers) == (7, 1, 1)
    # an authoritative answer without error, recursion as it was desired
    assert flags == 0x8580
    assert reply[12 : len(asked)] == asked[12:]
    assert reply[len(asked) :] == b"\xc0\x0c" + struct.pack(">HHIH", _A, 1, 60, 4) + bytes([198, 18, 0, 1])


@pytest.mark.requirement("sandbox:egress:dns-closed")
@pytest.mark.parametrize("kind", [_AAAA, _NS, _HTTPS, _ANY, 16])
def test_an_allowed_name_has_nothing_but_an_ipv4_address(kind: int) -> None:
    reply = names.answer(_ask("api.example", kind), _allowed)
    assert _code(reply) == 0
    assert reply is not None
    assert struct.unpack_from(">H", reply, 6)[0] == 0


@pytest.mark.requirement("sandbox:egress:dns-closed")
@pytest.mark.parametrize("name", ["evil.example", "x.api.example", "example", "", "1.0.18.198.in-addr.arpa"])
def test_every_other_name_does_not_exist(name: str) -> None:
    assert _code(names.answer(_ask(name), _allowed)) == 3


@pytest.mark.requirement("sandbox:egress:dns-total")
@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (_ask("api.example", flags=0x2800), 4),  # an update
        (_ask("api.example", count=0), 1),
        (_ask("api.example", count=2), 1),
        (_ask("api.example", group=3), 1),  # CHAOS
        (_ask("api.example")[:-1], 1),
        (_ask("api.example")[:13], 1),
        (struct.pack(">6H", 7, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", 1),  # a pointer to itself
        (struct.pack(">6H", 7, 0, 1, 0, 0, 0) + b"\7a.b.com\0\0\1\0\1", 1),  # a dot within a label
        (_ask(".".join(["a" * 63] * 4)), 1),
        (_ask("api.example") + b"x" * 2000, 1),
    ],
)
def test_a_malformed_question_is_said_to_be_one(packet: bytes, code: int) -> None:
    assert _code(names.answer(packet, _allowed)) == code


@pytest.mark.requirement("sandbox:egress:dns-total")
@pytest.mark.parametrize("packet", [b"", b"\0" * 11, _ask("api.example", flags=0x8100)])
def test_what_is_no_question_gets_no_answer(packet: bytes) -> None:
    assert names.answer(packet, _allowed) is None


@pytest.mark.requirement("sandbox:egress:dns-total")
@given(
    st.binary(max_size=1500)
    | st.binary(max_size=300).map(lambda tail: struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + tail)
    | st.tuples(st.integers(0, 27), st.binary(min_size=1, max_size=3)).map(
        lambda change: _ask("api.example")[: change[0]] + change[1] + _ask("api.example")[change[0] + len(change[1]) :]
    )
)
def test_any_bytes_get_an_answer_or_none(packet: bytes) -> None:
    reply = names.answer(packet, _allowed)
    if reply is not None:
        assert reply[:2] == packet[:2]
        # never larger than the question and one record: nothing to amplify
        assert 12 <= len(reply) <= len(packet) + 16


@pytest.mark.requirement("sandbox:egress:apart", "sandbox:egress:bounded")
def test_addresses_mean_one_name_and_the_longest_unused_is_forgotten() -> None:
    mine = names.Names(most=3)
    first = {name: mine.address(name) for name in ("a", "b", "c")}
    assert len(set(first.values())) == 3
    assert mine.address("a") == first["a"]
    assert mine.name(first["b"]) == "b"
    mine.address("d")
    # "c" was neither asked for nor used since
    assert mine.name(first["c"]) is None
    assert mine.name(first["a"]) == "a"
    assert len(mine) == 3
    # and its address is not given to another name for a long time
    assert mine.address("e") not in first.values()
    assert names.Names().name(first["a"]) is None


@pytest.mark.requirement("sandbox:egress:bounded")
def test_addresses_are_taken_again_only_after_all_others() -> None:
    mine = names.Names(most=2)
    mine.address("kept")
    seen: set[str] = set()
    for number in range(sum(network.num_addresses - 2 for network in names.NETWORKS) - 2):
        mine.address("kept")
        found = mine.address(f"{number}")
        assert found not in seen
        seen.add(found)
    assert mine.name(mine.address("kept")) == "kept"


@pytest.mark.requirement("sandbox:egress:looks-public")
def test_the_first_names_stand_for_addresses_that_careful_programs_do_not_refuse() -> None:
    mine = names.Names()
    found = [ipaddress.ip_address(mine.address(f"{number}.example")) for number in range(254)]
    assert all(one.is_global and not one.is_private and not one.is_reserved for one in found)
    assert len(set(found)) == 254
