"""Keys behind `jwks_uri`: fetched by the guarded way out from a real host, kept for a while, replaced by rotation."""

import asyncio
import base64
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from joserfc import jwk

from smcp.app import documents
from smcp.identity.oauth import fetched, refusals
from smcp.kernel import errors
from smcp.stores import tenant as stores
from support import authorizing, signers
from support.authorizing import Pair
from support.signers import ACME, ADDRESS, NEW, OLD, PATH, Three, asked, key_set, known, proves


@pytest.mark.requirement("oauth:keys:fetched")
async def test_a_signature_is_checked_with_the_keys_that_stand_where_the_client_said(three: Three) -> None:
    room, host, client = three
    assert asked(host) == 0  # not when it registered
    assert await proves(room, client, OLD, "old") == "yes"
    assert await proves(room, client, OLD, None) == "yes"  # there is one
    assert await proves(room, client, NEW, "old") == "signature"
    assert asked(host) == 1
    path, fields = host.asked[0]
    assert (path, fields["accept"]) == (PATH, "application/jwk-set+json, application/json")
    assert not {"authorization", "cookie", "referer"} & fields.keys()


@pytest.mark.requirement("oauth:keys:fetched")
async def test_a_key_set_may_come_with_its_own_media_type_and_hold_keys_for_something_else(pair: Pair) -> None:
    room, host = pair
    other = {**jwk.RSAKey.generate_key(2048).as_dict(private=False), "use": "enc", "kid": "old"}
    curve = {"kty": "OKP", "crv": "X25519", "x": "AAAA", "kid": "c"}
    foreign = {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"}
    said = {"keys": [other, curve, foreign, *key_set((OLD, "old"))["keys"], {**key_set((NEW, "n"))["keys"][0]}]}
    client = await known(room, host.publish(PATH, said, "Content-Type: application/jwk-set+json; charset=utf-8"))
    assert await proves(room, client, OLD, "old") == "yes"
    assert await proves(room, client, NEW, "n") == "yes"


@pytest.mark.requirement("oauth:keys:rotated", "attack:oauth:keys-taken-back")
async def test_a_new_key_counts_with_its_first_signature_and_ends_the_one_that_is_gone(three: Three) -> None:
    room, host, client = three
    assert await proves(room, client, OLD, "old") == "yes"
    room.time.advance(61)
    host.publish(PATH, key_set((NEW, "new")))
    assert await proves(room, client, OLD, "old") == "yes"  # nobody has looked again
    assert await proves(room, client, NEW, "new") == "yes"
    assert await proves(room, client, OLD, "old") == "signature"
    assert asked(host) == 2
    # Rotation is a matter of course: it ends nothing that was issued.
    assert (await room.clients.known(ACME, client.id)).epoch == client.epoch


@pytest.mark.requirement("oauth:keys:rotated", "oauth:keys:kept", "attack:oauth:keys-taken-back")
@pytest.mark.parametrize(
    ("field", "kept"),
    [
        ("X: y", 3600),
        ("Cache-Control: max-age=600", 600),
        ("Cache-Control: public, max-age=5", 60),
        ("Cache-Control: no-store", 60),
        ("Cache-Control: max-age=999999999", 3600),
    ],
)
async def test_a_key_that_is_gone_counts_until_the_set_is_read_again_within_bounds(
    pair: Pair, field: str, kept: int
) -> None:
    room, host = pair
    client = await known(room, host.publish(PATH, key_set((OLD, "old")), field))
    assert await proves(room, client, OLD, "old") == "yes"
    host.publish(PATH, key_set((NEW, "new")), field)
    room.time.advance(kept - 1)
    assert await proves(room, client, OLD, "old") == "yes"
    assert asked(host) == 1
    room.time.advance(1)
    assert await proves(room, client, OLD, "old") == "signature"
    assert await proves(room, client, NEW, "new") == "yes"
    assert asked(host) == 2


@pytest.mark.requirement("oauth:keys:unknown-kid", "attack:oauth:kid-flood")
async def test_signatures_that_name_random_keys_have_the_set_read_once_a_minute(three: Three) -> None:
    room, host, client = three
    assert await proves(room, client, OLD, "old") == "yes"
    for minute in range(3):
        for number in range(50):
            assert await proves(room, client, NEW, f"{minute} {number}", f"192.0.2.{number}") == "signature"
            assert await proves(room, client, OLD, "old") == "yes"
        assert asked(host) == 1 + minute
        room.time.advance(61)
    # Who names no key, or one that is there, has nothing read.
    for kid in (None, "old"):
        assert await proves(room, client, NEW, kid) == "signature"
    assert asked(host) == 3


@pytest.mark.requirement("oauth:keys:unknown-kid")
async def test_a_signature_that_does_not_say_which_of_several_keys_made_it_has_nothing_read_again(pair: Pair) -> None:
    room, host = pair
    client = await known(room, host.publish(PATH, key_set((OLD, "old"), (NEW, "new"))))
    assert await proves(room, client, OLD, "old") == "yes"
    room.time.advance(61)
    assert await proves(room, client, OLD, None) == "signature"
    assert asked(host) == 1


@pytest.mark.requirement("oauth:keys:unknown-kid")
async def test_an_early_reading_that_fails_ends_nothing_and_one_that_finds_a_wrong_set_all(three: Three) -> None:
    room, host, client = three
    assert await proves(room, client, OLD, "old") == "yes"
    right = host.pages.pop(PATH)
    room.time.advance(61)
    for _ in range(3):
        assert await proves(room, client, NEW, "other") == "signature"
        assert await proves(room, client, OLD, "old") == "yes"
    assert asked(host) == 2
    # Not for longer than it would have counted anyhow.
    room.time.advance(3600 - 61)
    assert await proves(room, client, OLD, "old") == "keys"
    host.pages[PATH] = right
    room.time.advance(61)
    assert await proves(room, client, OLD, "old") == "yes"
    host.publish(PATH, {"keys": []})
    room.time.advance(61)
    assert await proves(room, client, NEW, "other") == "keys"
    assert await proves(room, client, OLD, "old") == "keys"
    assert "a client's keys were not read" in room.log.getvalue()


@pytest.mark.requirement("oauth:keys:fail-closed")
async def test_while_the_host_is_away_nothing_is_proved_and_it_is_asked_once_a_minute(pair: Pair) -> None:
    room, host = pair
    client = await known(room, host.url(PATH))
    for _ in range(5):
        assert await proves(room, client, OLD, "old") == "keys"
    assert asked(host) == 1
    host.publish(PATH, key_set((OLD, "old")))
    room.time.advance(59)
    assert await proves(room, client, OLD, "old") == "keys"
    room.time.advance(2)
    assert await proves(room, client, OLD, "old") == "yes"
    assert asked(host) == 2


@pytest.mark.requirement("oauth:keys:fail-closed", "oauth:client-auth:fail-closed")
async def test_while_the_store_is_away_nothing_is_read_for_anybody(three: Three) -> None:
    room, host, client = three
    said = signers.form(room, client, OLD, "old")
    await room.store.close()
    with pytest.raises(errors.Unavailable):
        await room.auth.authenticate(ACME, None, said, ADDRESS)
    assert host.asked == []


@pytest.mark.requirement("oauth:keys:fail-closed", "oauth:client:revoked")
async def test_for_a_revoked_client_and_for_what_can_be_no_signature_nothing_is_read(three: Three) -> None:
    room, host, client = three
    good = signers.form(room, client, OLD, "old")
    claims = _encoded({"sub": client.id})
    for header in ({"alg": "HS256"}, {"alg": "none"}, {"alg": "ES256", "jku": host.url(PATH)}, {"typ": "at+jwt"}):
        made = good | {"client_assertion": f"{_encoded(header)}.{claims}.AAAA"}
        with pytest.raises(refusals.Refused):
            await room.auth.authenticate(ACME, None, made, ADDRESS)
    await room.clients.revoke(ACME, client.id)
    with pytest.raises(refusals.Refused):
        await room.auth.authenticate(ACME, None, good, ADDRESS)
    assert host.asked == []


def _encoded(part: object) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(part)).rstrip(b"=").decode()


# --- what may stand there ---


def _symmetric() -> list[dict[str, Any]]:
    good = key_set((OLD, "old"))["keys"][0]
    return [
        jwk.OctKey.generate_key(256).as_dict(private=True),
        jwk.ECKey.generate_key("P-256").as_dict(private=True),
        {**good, "kid": "other", "x": "AAAA"},
        {**good, "kid": "old"},
        {**good, "kid": ""},
        {**good, "kid": 7},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "weak"},
    ]


@pytest.mark.requirement("oauth:keys:checked", "attack:oauth:client-keys")
@pytest.mark.parametrize("bad", _symmetric(), ids=["oct", "private", "off-curve", "twice", "unnamed", "kid", "weak"])
async def test_beside_a_key_that_should_not_be_there_none_counts(pair: Pair, bad: dict[str, Any]) -> None:
    room, host = pair
    client = await known(room, host.publish(PATH, {"keys": [*key_set((OLD, "old"))["keys"], bad]}))
    assert await proves(room, client, OLD, "old") == "keys"


@pytest.mark.requirement("oauth:keys:checked", "attack:oauth:client-keys")
async def test_a_shared_secret_that_stands_there_alone_proves_nothing(pair: Pair) -> None:
    room, host = pair
    secret = jwk.OctKey.generate_key(256)
    client = await known(room, host.publish(PATH, {"keys": [{**secret.as_dict(private=True), "kid": "old"}]}))
    assert await proves(room, client, OLD, "old") == "keys"


@pytest.mark.requirement("oauth:keys:checked")
@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"nul", b"\xff", b"{}", b'{"keys":{}}', b'{"keys":[]}', b'{"keys":[1]}', b'{"keys":[],"keys":[]}',
        b"[" * 100, b"-----BEGIN PUBLIC KEY-----", b'{"keys":[{"kty":"EC"}]}', b'{"keys":[{"kty":"oct"}]}',
    ],
)  # fmt: skip
async def test_what_is_no_key_set_proves_nothing(pair: Pair, body: bytes) -> None:
    room, host = pair
    client = await known(room, host.publish(PATH, body))
    assert await proves(room, client, OLD, "old") == "keys"


@pytest.mark.requirement("oauth:keys:checked")
async def test_a_set_has_so_many_keys_and_no_more(pair: Pair) -> None:
    room, host = pair
    many = [(OLD, "old"), *((NEW, f"n{number}") for number in range(7))]
    client = await known(room, host.publish(PATH, key_set(*many)))
    assert await proves(room, client, OLD, "old") == "yes"
    host.publish(PATH, key_set(*many, (NEW, "n7")))
    room.time.advance(3601)
    assert await proves(room, client, OLD, "old") == "keys"


@pytest.mark.requirement("oauth:keys:guarded", "attack:oauth:document-flood")
async def test_a_key_set_is_small_plain_and_there_at_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    room, host = pair
    good = key_set((OLD, "old"))
    answers = {
        "/large": {**good, "x": "y" * fetched.MAX_BYTES},
        "/page": ("Content-Type: text/html",),
        "/jwt": ("Content-Type: application/jwt",),
        "/coded": ("Content-Encoding: gzip",),
    }
    for path, said in answers.items():
        uri = host.publish(path, good, *said) if isinstance(said, tuple) else host.publish(path, said)
        assert await proves(room, await known(room, uri), OLD, "old") == "keys", path
    host.pages["/endless"] = b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\n\r\n" + b" " * 100_000
    assert await proves(room, await known(room, host.url("/endless")), OLD, "old") == "keys"
    slow = await known(room, host.publish("/slow", good))
    monkeypatch.setattr(documents, "TIME_S", 0.05)
    host.hold = asyncio.Event()
    assert await proves(room, slow, OLD, "old") == "keys"


@pytest.mark.requirement("oauth:keys:guarded", "attack:oauth:ssrf-redirect")
@pytest.mark.parametrize("status", [201, 301, 302, 303, 307, 308, 500])
async def test_no_redirect_is_followed_to_keys(pair: Pair, status: int) -> None:
    room, host = pair
    host.publish("/right", key_set((OLD, "old")))
    uri = host.publish(PATH, key_set((OLD, "old")), "Location: /right", status=status)
    assert await proves(room, await known(room, uri), OLD, "old") == "keys"
    assert [path for path, _ in host.asked] == [PATH]


@pytest.mark.requirement("oauth:keys:guarded", "attack:oauth:ssrf")
@pytest.mark.parametrize("address", authorizing.INSIDE)
async def test_keys_that_are_said_to_be_inside_are_not_asked_for(
    store: stores.Store, tmp_path: pathlib.Path, address: str
) -> None:
    async def resolve(name: str, port: int) -> Sequence[str]:
        return [address]

    async with authorizing.published(store, tmp_path, open_to=[], pins=[], resolve=resolve) as (room, host):
        uris = [host.publish(PATH, key_set((OLD, "old")))]
        if ":" not in address:
            uris.append(f"https://{address}:{host.port}{PATH}")
        for uri in uris:
            assert await proves(room, await known(room, uri), OLD, "old") == "keys"
        assert host.asked == []


@pytest.mark.requirement("oauth:keys:guarded", "attack:oauth:ssrf-rebinding")
async def test_a_name_that_leads_inside_later_is_looked_up_and_checked_at_each_reading(
    store: stores.Store, tmp_path: pathlib.Path
) -> None:
    answers = itertools.chain(["127.0.0.1"], itertools.repeat("169.254.169.254"))

    async def resolve(name: str, port: int) -> Sequence[str]:
        return [next(answers)]

    # The operator has opened loopback: so the first answer is right, and the next ones lead where nobody may go.
    async with authorizing.published(store, tmp_path, pins=[], resolve=resolve) as (room, host):
        client = await known(room, host.publish(PATH, key_set((OLD, "old")), "Cache-Control: no-store"))
        assert await proves(room, client, OLD, "old") == "yes"
        room.time.advance(61)
        assert await proves(room, client, OLD, "old") == "keys"
        assert asked(host) == 1
