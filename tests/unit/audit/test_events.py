"""The closed list of events: few types, no place for a secret."""

import typing
from typing import Any, get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.audit import events
from smcp.identity.authn import key_text
from smcp.kernel import errors, ids

KEY = key_text.compose(ids.tenant("acme"), "0123456789ab", "0123456789abcdefghjkmnpqrstvwxyz")


def call(**fields: Any) -> events.McpCall:
    known: dict[str, Any] = {"tenant": "acme", "actor": "key-1", "server": "time", "method": "tools/call", **fields}
    return events.McpCall(**known)


def bounded(hint: Any) -> bool:
    """Is a field of this type a number, a closed list, or text that a pattern or a length holds?"""
    origin = get_origin(hint)
    if origin is typing.Literal:
        return True
    if origin in (typing.Union, tuple) or type(hint).__name__ == "UnionType":
        return all(bounded(part) for part in get_args(hint) if part is not Ellipsis)
    if origin is typing.Annotated:
        base, *metas = get_args(hint)
        held = any(m.pattern is not None or m.max_length is not None for m in metas if isinstance(m, msgspec.Meta))
        return held or base in (int, float)
    return hint in (int, float, bool, type(None))


@pytest.mark.requirement("audit:events:closed")
def test_every_field_of_every_event_is_of_a_bounded_type() -> None:
    checked = 0
    for kind in events.CLASSES:
        for name, hint in typing.get_type_hints(kind, include_extras=True).items():
            if not name.startswith("__"):
                assert bounded(hint), f"{kind.__name__}.{name}: {hint}"
                checked += 1
    assert checked > 100


@pytest.mark.requirement("audit:events:closed")
def test_a_field_of_free_text_would_be_noticed() -> None:
    assert not bounded(str)
    assert not bounded(tuple[str, ...])
    assert not bounded(str | None)
    assert not bounded(dict[str, Any])


@pytest.mark.requirement("audit:events:closed")
def test_every_event_has_a_name_of_its_own_and_says_what_it_means() -> None:
    tags = [kind.__struct_config__.tag for kind in events.CLASSES]
    assert len(set(tags)) == len(tags)
    assert all(kind.__doc__ for kind in events.CLASSES)


@pytest.mark.requirement("audit:events:no-secrets")
@pytest.mark.parametrize("field", ["tenant", "actor", "request_id", "server", "method", "target", "code"])
@pytest.mark.parametrize("value", [KEY, "Bearer abcdefgh", "a b", "x\ny", "é", "a" * 5000])
def test_no_field_of_a_call_takes_a_credential_or_free_text(field: str, value: str) -> None:
    for _ in range(2):  # the second time from what is remembered
        with pytest.raises(ValueError, match="audit event") as refused:
            events.encode(call(**{field: value}))
        assert value not in str(refused.value)


@pytest.mark.requirement("audit:events:no-secrets")
def test_no_other_event_takes_a_credential() -> None:
    for event in (
        events.DeploySubmitted(tenant="acme", actor="key-1", operation="op-1", source=f"remote:https://u:{KEY}@h/"),
        events.DeploySubmitted(tenant="acme", actor="key-1", operation="op-1", source="pypi:a\nb"),
        events.KeyCreated(tenant="acme", actor="key-1", key=KEY, roles=("admin",)),
    ):
        with pytest.raises(ValueError, match="audit event"):
            events.encode(event)


@pytest.mark.requirement("audit:events:no-secrets")
def test_a_reason_is_needed_cut_and_redacted() -> None:
    with pytest.raises(errors.InvalidParams):
        events.reason("  \n ")
    written = events.reason(f"customer sent {KEY}\r\nand a second line " + "x" * 5000)
    assert KEY not in written
    assert "\n" not in written
    assert len(written) <= 400
    events.encode(events.OperatorAccess(tenant="acme", actor="key-1", action="audit:read", reason=written))


@pytest.mark.requirement("audit:events:targets")
@given(text=st.text(max_size=200))
def test_a_target_is_a_public_name_or_nothing(text: str) -> None:
    target = events.public_name(text)
    if target is not None:
        assert target == text
        events.encode(call(target=target))


@pytest.mark.requirement("audit:events:targets")
def test_names_of_tools_are_public_and_everything_else_is_not() -> None:
    for name in ("get_current_time", "a.b/c-d", "X" * 128):
        assert events.public_name(name) == name
    for private in ("file:///home/ann/diary", "", "X" * 129, KEY, "a b", "smcp_acme_" + "0" * 40):
        assert events.public_name(private) is None


@pytest.mark.requirement("audit:events:round-trip")
@given(
    duration=st.floats(0, 1e9),
    sent=st.integers(0, 2**40),
    request=st.from_regex(r"[A-Za-z0-9-]{0,64}", fullmatch=True),
)
def test_what_was_encoded_is_decoded(duration: float, sent: int, request: str) -> None:
    event = call(duration_ms=duration, bytes_out=sent, request_id=request)
    assert events.decode(events.encode(event)) == event


@pytest.mark.requirement("audit:events:round-trip")
@given(data=st.binary(max_size=200))
def test_what_is_no_event_is_damage(data: bytes) -> None:
    for broken in (data, b'{"event":"no_such","tenant":"a","actor":"b"}', b'{"event":"audit_read","tenant":"A B"}'):
        with pytest.raises(errors.TamperedData):
            events.decode(broken)
