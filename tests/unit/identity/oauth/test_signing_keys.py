"""Signing keys that somebody has stolen: what they are good for, and how they are ended."""

import msgspec
import pytest
from joserfc import jwk, jws

from smcp.identity import signing
from smcp.identity.authn import base
from smcp.identity.oauth import issue
from support import tokens
from support.tokens import ACME, UMBRA


async def _stolen(room: tokens.Room) -> dict[str, bytes]:
    """The private keys of the ring as it is on record, by their ids."""
    (ring,) = await room.store.tenant(ACME).kv.scan(("oauth-signing",))
    return {key["id"]: key["private"] for key in msgspec.msgpack.decode(ring.value)["keys"]}


def _forged(keys: dict[str, bytes], token: str, now: float) -> str:
    """What a thief of the key that signed `token` makes: the same, for another hour."""
    claims = signing.read_part(token, 1, issue.Claims)
    assert claims is not None
    payload = msgspec.json.encode(msgspec.structs.replace(claims, iat=int(now), exp=int(now) + 3600))
    kid = signing.key_of(token)
    header = {"alg": "ES256", "kid": kid, "typ": issue.TYPE}
    return jws.serialize_compact(header, payload, jwk.ECKey.import_key(keys[kid]), algorithms=["ES256"])


@pytest.mark.requirement("oauth:signing:ended")
async def test_a_stolen_key_that_signs_no_more_is_good_for_nothing_once_what_it_signed_has_ended(
    room: tokens.Room,
) -> None:
    """It is still on record: the ring is written anew with the next key only, three months later."""
    token = (await room.log_in()).access
    stolen = await _stolen(room)
    await room.made.signing.rotate(ACME)
    room.time.advance(room.lives.access_s - 1)
    assert (await room.who(_forged(stolen, token, room.time.now()))).id == room.user.id
    room.time.advance(62)
    assert stolen.items() <= (await _stolen(room)).items()
    for one in (room, room.again()):
        assert await one.why(_forged(stolen, token, room.time.now())) == base.Reason.UNKNOWN


@pytest.mark.requirement("oauth:signing:leak")
async def test_after_a_leak_what_stolen_keys_sign_is_refused_with_the_next_request_and_logins_go_on(
    room: tokens.Room,
) -> None:
    first = await room.log_in()
    room.time.advance(room.lives.refresh_s / 2)
    second = await room.ask(room.with_refresh(first.refresh or ""))
    stolen = await _stolen(room)
    forged = _forged(stolen, second.access, room.time.now())
    other, neighbour = room.again(), await room.made.signing.published(UMBRA)
    for one in (room, other):
        for token in (second.access, forged):
            assert (await one.who(token)).id == room.user.id
    recalls = [one.made.method.recall(token) for one in (room, other) for token in (second.access, forged)]
    assert all(recall is not None and recall() is not None for recall in recalls)
    done = await room.made.signing.rotate(ACME, drop=True)
    assert (done.kept, set(done.ended)) == ((), stolen.keys())
    assert [recall() for recall in recalls if recall is not None] == [None] * 4  # remembered, and still refused
    for one in (room, other, room.again()):
        for token in (second.access, forged):
            assert await one.why(token) == base.Reason.UNKNOWN
    assert [one["kid"] for one in (await room.made.signing.published(ACME))["keys"]] == [done.key]
    assert (await _stolen(room)).keys() == {done.key}
    third = await room.ask(room.with_refresh(second.refresh or ""))
    for one in (room, other):
        assert (await one.who(third.access)).id == room.user.id
    assert await room.made.signing.published(UMBRA) == neighbour


@pytest.mark.requirement("oauth:signing:leak")
async def test_a_key_that_was_announced_goes_with_the_others_when_the_ring_has_leaked(room: tokens.Room) -> None:
    await room.log_in()
    room.time.advance(room.lives.signing_s - room.lives.ahead_s)
    assert len((await room.made.signing.published(ACME))["keys"]) == 2
    stolen = await _stolen(room)
    done = await room.made.signing.rotate(ACME, drop=True)
    assert (await room.made.signing.held(ACME), set(done.ended)) == ((done.key,), stolen.keys())
    room.time.advance(room.lives.ahead_s + 1)
    assert signing.key_of((await room.log_in()).access) == done.key
