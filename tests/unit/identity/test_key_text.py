"""The grammar of a key: one spelling, and a checksum that no slip passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.identity.authn import key_text
from smcp.kernel import ids, redact

DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
tenants = st.from_regex(r"[a-z0-9]{1,10}(-[a-z0-9]{1,9})?", fullmatch=True).filter(
    lambda name: name not in {"smcp", "api", "admin", "www", "t"}
)
key_ids = st.text(DIGITS, min_size=key_text.ID_DIGITS, max_size=key_text.ID_DIGITS)
key_secrets = st.text(DIGITS, min_size=key_text.SECRET_DIGITS, max_size=key_text.SECRET_DIGITS)


def compose(tenant: str, key_id: str, secret: str) -> str:
    return key_text.compose(ids.any_tenant(tenant), key_id, secret)


@pytest.mark.requirement("identity:key:round-trip")
@given(tenant=tenants, key_id=key_ids, secret=key_secrets)
def test_what_was_composed_is_read_again(tenant: str, key_id: str, secret: str) -> None:
    text = compose(tenant, key_id, secret)
    assert key_text.parse(text) == (tenant, key_id, secret)
    assert len(text) <= key_text.LONGEST


@pytest.mark.requirement("identity:key:one-spelling")
@given(tenant=tenants, key_id=key_ids, secret=key_secrets, data=st.data())
def test_a_key_with_one_character_changed_is_refused(
    tenant: str, key_id: str, secret: str, data: st.DataObject
) -> None:
    text = compose(tenant, key_id, secret)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters().filter(lambda character: character != text[place]))
    assert key_text.parse(text[:place] + other + text[place + 1 :]) is None


@pytest.mark.requirement("identity:key:one-spelling")
@given(tenant=tenants, key_id=key_ids, secret=key_secrets, place=st.integers(0, 200), more=st.characters())
def test_a_key_with_one_character_too_many_or_too_few_is_refused(
    tenant: str, key_id: str, secret: str, place: int, more: str
) -> None:
    text = compose(tenant, key_id, secret)
    place %= len(text)
    assert key_text.parse(text[:place] + text[place + 1 :]) is None
    assert key_text.parse(text[:place] + more + text[place:]) is None
    assert key_text.parse(text + more) is None


@pytest.mark.requirement("identity:key:one-spelling")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("smcp", "SMCP"),
        ("acme", "Acme"),
        ("b", "B"),
        ("smcp", " smcp"),
        ("b", "b\n"),
        ("b", "b\0"),
        ("smcp", "ｓｍｃｐ"),
        ("a", "\u0430"),  # Cyrillic
        ("0", "o"),  # Crockford's optional look-alikes are no second spelling
        ("1", "l"),
        ("1", "\u0661"),  # a digit to Unicode
        ("_", "%5F"),
    ],
)
def test_no_other_spelling_is_accepted(old: str, new: str) -> None:
    text = compose("acme", "0123456789ab", "0" * 16 + "1" * 16)
    assert key_text.parse(text) is not None
    assert key_text.parse(text.replace(old, new)) is None


@pytest.mark.requirement("identity:key:round-trip")
@given(text=st.text(max_size=120))
def test_whatever_is_read_is_composed_to_the_same_text(text: str) -> None:
    for candidate in (text, f"smcp_acme_{text}"):
        parsed = key_text.parse(candidate)
        assert parsed is None or key_text.compose(*parsed) == candidate


@pytest.mark.requirement("identity:key:entropy")
def test_secrets_have_160_bits_and_do_not_repeat() -> None:
    made = {key_text.new_secret() for _ in range(200)}
    assert len(made) == 200
    assert all(len(secret) * 5 >= 160 and set(secret) <= set(DIGITS) for secret in made)
    # Every digit occurs at every place: no bit is constant.
    assert all(len({secret[place] for secret in made}) > 16 for place in range(key_text.SECRET_DIGITS))


@pytest.mark.requirement("identity:key:hidden")
def test_a_key_is_hidden_in_repr_and_by_redaction() -> None:
    secret = key_text.new_secret()
    text = compose("acme", key_text.new_id(), secret)
    assert secret not in repr(key_text.parse(text))
    assert secret not in redact.text(f"GET /x?key={text} failed")


@pytest.mark.requirement("identity:key:platform")
def test_operators_keys_have_the_same_form() -> None:
    text = compose("platform", "0123456789ab", "0" * 32)
    parsed = key_text.parse(text)
    assert parsed is not None
    assert parsed.tenant == ids.PLATFORM
