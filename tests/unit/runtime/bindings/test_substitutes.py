"""Values over stand-ins, and stand-ins over values, whatever stands around them."""

import base64
import urllib.parse
from typing import Final

import hypothesis
import pytest
from hypothesis import strategies as st

from smcp.runtime.bindings import substitutes
from smcp.upstream import places

PLACE: Final = places.parse("https://allowed.example/")
FIRST: Final = "first/secret+value=%2"
SECOND: Final = f"{FIRST}-is-a-part-of-the-second"

_NAMES: Final = st.sampled_from([b"authorization", b"x-key", b"cookie"])
_SCHEMES: Final = st.sampled_from([b"", b"Basic ", b"bAsIC  ", b"Bearer ", b"Basic !"])
# Pieces of a value: 0 and 1 stand for the stand-ins.
_PIECES: Final = st.lists(st.one_of(st.sampled_from([0, 1]), st.binary(max_size=12)), max_size=6)


def _made() -> substitutes.Substitutes:
    return substitutes.Substitutes(substitutes.Secret(name, text) for name, text in (("A", FIRST), ("B", SECOND)))


@pytest.mark.requirement("workers:substitution:sent")
@hypothesis.given(st.lists(st.tuples(_NAMES, _SCHEMES, _PIECES, st.booleans()), max_size=4))
def test_what_comes_back_as_it_was_sent_is_what_the_code_wrote(
    written: list[tuple[bytes, bytes, list[int | bytes], bool]],
) -> None:
    made = _made()
    stand_ins = [one.encode() for one in made.placeholders.values()]
    fields: list[tuple[bytes, bytes]] = []
    for name, scheme, pieces, encoded in written:
        value = b"".join(stand_ins[one] if isinstance(one, int) else one for one in pieces)
        fields.append((name, scheme + (base64.b64encode(value) if encoded else value)))
    put = made.put(PLACE, fields)
    assert [name for name, _ in put.fields] == [name for name, _ in fields]
    # No stand-in is left to be seen by the host, and no value by the code.
    assert not any(one in value for _, value in put.fields for one in stand_ins)
    assert made.hide(put.fields, put.encoded) == fields
    assert put.secret == (list(put.fields) != fields)


@pytest.mark.requirement("workers:substitution:sent")
def test_a_value_that_holds_another_one_is_hidden_as_a_whole_in_a_url_too() -> None:
    made = _made()
    for text in (SECOND, urllib.parse.quote(SECOND, safe="")):
        ((_, value),) = made.hide([(b"location", f"/there?key={text}".encode())], [])
        assert value == f"/there?key={made.placeholders['B']}".encode()
