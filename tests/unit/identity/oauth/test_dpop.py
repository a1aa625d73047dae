"""DPoP (RFC 9449): a stolen token alone opens nothing, and neither does a proof that was made for something else."""

from typing import Any

import pytest
from joserfc import jwk, jws

from smcp.identity.authn import base
from smcp.identity.oauth import dpop, issue
from smcp.kernel import errors
from support import tokens
from support.tokens import PUBLIC

AT: str = "/t/acme/files/mcp"


async def log_in(room: tokens.Room, key: tokens.Key, **changes: Any) -> issue.Tokens:
    return await room.ask(room.with_code(await room.code(**changes)), proof=key.proof(room))


@pytest.mark.requirement("oauth:dpop:bound")
async def test_a_bound_token_works_with_its_keys_proof_and_never_without(room: tokens.Room) -> None:
    key, other = tokens.Key(), tokens.Key()
    held = await log_in(room, key)
    assert held.body["token_type"] == "DPoP"
    for _ in range(3):
        shown = key.proof(room, path=AT, token=held.access)
        assert (await room.who(held.access, "DPoP", shown)).id == room.user.id
    assert await room.why(held.access) == base.Reason.PROOF
    assert await room.why(held.access, "Bearer", key.proof(room, path=AT, token=held.access)) == base.Reason.PROOF
    assert await room.why(held.access, "DPoP") == base.Reason.PROOF
    assert await room.why(held.access, "DPoP", other.proof(room, path=AT, token=held.access)) == base.Reason.PROOF
    assert room.made.method.recall(held.access) is None


@pytest.mark.requirement("oauth:dpop:bound")
async def test_a_token_that_is_bound_to_no_key_takes_no_proof(room: tokens.Room) -> None:
    held = await room.log_in()
    key = tokens.Key()
    assert await room.why(held.access, "DPoP", key.proof(room, path=AT, token=held.access)) == base.Reason.PROOF
    assert (await room.who(held.access)).id == room.user.id


@pytest.mark.requirement("oauth:dpop:replay")
async def test_a_proof_works_once(room: tokens.Room) -> None:
    key = tokens.Key()
    held = await log_in(room, key)
    shown = key.proof(room, path=AT, token=held.access)
    await room.who(held.access, "DPoP", shown)
    for _ in range(2):
        assert await room.why(held.access, "DPoP", shown) == base.Reason.PROOF
    room.time.advance(room.lives.proof_s)
    assert await room.why(held.access, "DPoP", shown) == base.Reason.PROOF
    room.time.advance(2 * room.lives.proof_s)
    assert await room.why(held.access, "DPoP", shown) == base.Reason.PROOF
    # The same words signed by another key are another proof.
    await room.who(held.access, "DPoP", key.proof(room, path=AT, token=held.access))


@pytest.mark.requirement("oauth:dpop:replay")
async def test_a_proof_from_before_a_restart_is_not_taken_by_the_next_process(room: tokens.Room) -> None:
    key = tokens.Key()
    held = await log_in(room, key)
    shown = key.proof(room, path=AT, token=held.access)
    await room.who(held.access, "DPoP", shown)
    room.time.advance(5)
    again = room.again()
    assert await again.why(held.access, "DPoP", shown) == base.Reason.PROOF


@pytest.mark.requirement("oauth:dpop:request")
@pytest.mark.parametrize(
    "claims",
    [
        {"htm": "GET"},
        {"htm": "post"},
        {"htm": None},
        {"htu": f"{PUBLIC}/t/acme/mail/mcp"},
        {"htu": f"{PUBLIC}{AT}/"},
        {"htu": f"https://evil.example{AT}"},
        {"htu": f"http://smcp.example{AT}"},
        {"htu": f"https://smcp.example:8443{AT}"},
        {"htu": f"https://a@smcp.example{AT}"},
        {"htu": AT},
        {"htu": "https://[::1"},
        {"htu": None},
        {"ath": "A" * 43},
        {"ath": ""},
        {"ath": None},
        {"iat": 1},
        {"iat": 1 << 40},
        {"iat": None},
        {"iat": "now"},
        {"jti": ""},
        {"jti": "x" * 257},
        {"jti": None},
        {"jti": 1},
    ],
)
async def test_a_proof_for_another_request_or_token_or_time_proves_nothing(
    room: tokens.Room, claims: dict[str, Any]
) -> None:
    key = tokens.Key()
    held = await log_in(room, key)
    if claims == {"ath": None}:
        shown = key.proof(room, path=AT)
    else:
        shown = key.proof(room, path=AT, token=held.access, **claims)
    assert await room.why(held.access, "DPoP", shown) == base.Reason.PROOF


@pytest.mark.requirement("oauth:dpop:request")
@pytest.mark.parametrize("htu", [f"{PUBLIC}{AT}?a=b", f"{PUBLIC}{AT}#x", f"https://SMCP.example:443{AT}"])
async def test_query_fragment_case_and_the_schemes_own_port_do_not_matter(room: tokens.Room, htu: str) -> None:
    """RFC 9449, 4.3: without query and fragment; RFC 3986, 6.2.2 and 6.2.3."""
    key = tokens.Key()
    held = await log_in(room, key)
    shown = key.proof(room, path=AT, token=held.access, htu=htu)
    assert (await room.who(held.access, "DPoP", shown)).id == room.user.id


@pytest.mark.requirement("oauth:dpop:header")
async def test_a_proofs_header_has_one_form(room: tokens.Room) -> None:
    key = tokens.Key()
    held = await log_in(room, key)
    private = key.key.as_dict(private=True)
    public = key.key.as_dict(private=False)
    for header in (
        {"typ": "JWT"},
        {"typ": "at+jwt"},
        {"jwk": private},
        {"jwk": {**public, "kid": "a"}},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"kid": "x"},
    ):
        shown = key.proof(room, path=AT, token=held.access, header=header)
        assert await room.why(held.access, "DPoP", shown) == base.Reason.PROOF
    good = key.proof(room, path=AT, token=held.access).text.split(".")
    for text in (f"{good[0]}.{good[1]}.", ".".join(good[:2]), "x", f"{good[0]}.{good[1]}.{'A' * 86}"):
        shown = dpop.Shown(text, "POST", "smcp.example", AT)
        assert await room.why(held.access, "DPoP", shown) == base.Reason.PROOF


@pytest.mark.requirement("oauth:dpop:header")
@pytest.mark.parametrize(("algorithm", "curve"), [("ES256", "P-256"), ("ES384", "P-384")])
async def test_each_curve_is_taken_with_its_own_algorithm(room: tokens.Room, algorithm: str, curve: Any) -> None:
    key = jwk.ECKey.generate_key(curve, auto_kid=False)
    head = {"typ": "dpop+jwt", "alg": algorithm, "jwk": key.as_dict(private=False)}
    said = f'{{"jti":"1","htm":"POST","htu":"{PUBLIC}/oauth/acme/token","iat":{int(room.time.now())}}}'
    text = jws.serialize_compact(head, said, key, algorithms=[algorithm])
    shown = dpop.Shown(text, "POST", "smcp.example", "/oauth/acme/token")
    held = await room.ask(room.with_code(await room.code()), proof=shown)
    assert held.bound


@pytest.mark.requirement("oauth:dpop:refresh")
async def test_a_public_clients_refresh_token_needs_the_key_that_it_began_with(room: tokens.Room) -> None:
    key, other = tokens.Key(), tokens.Key()
    held = await log_in(room, key)
    form = room.with_refresh(held.refresh)
    assert (await room.refused(form)).code == dpop.INVALID
    assert (await room.refused(form, proof=other.proof(room))).code == dpop.INVALID
    again = await room.ask(form, proof=key.proof(room))
    assert (await room.who(again.access, "DPoP", key.proof(room, path=AT, token=again.access))).id == room.user.id


@pytest.mark.requirement("oauth:dpop:code")
async def test_a_code_that_was_asked_for_with_a_key_needs_that_key(room: tokens.Room) -> None:
    """RFC 9449, 10: whoever steals the code has not got the key."""
    key, other = tokens.Key(), tokens.Key()
    code = await room.code(jkt=key.thumbprint)
    assert (await room.refused(room.with_code(code))).code == dpop.INVALID
    assert (await room.refused(room.with_code(code), proof=other.proof(room))).code == dpop.INVALID
    assert (await room.ask(room.with_code(code), proof=key.proof(room))).bound


@pytest.mark.requirement("oauth:dpop:bounded")
async def test_there_is_room_for_so_many_proofs_of_a_tenant_and_no_more(
    room: tokens.Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dpop, "MOST", 5)
    key = tokens.Key()
    held = await log_in(room, key)
    shown = [key.proof(room, path=AT, token=held.access) for _ in range(5)]
    for one in shown[:4]:
        await room.who(held.access, "DPoP", one)
    with pytest.raises(errors.RateLimited):
        await room.who(held.access, "DPoP", shown[4])
    assert await room.why(held.access, "DPoP", shown[0]) == base.Reason.PROOF
    room.time.advance(2 * room.lives.proof_s + 1)
    await room.who(held.access, "DPoP", key.proof(room, path=AT, token=held.access))


@pytest.mark.requirement("oauth:dpop:bounded")
async def test_one_who_sends_more_proofs_than_anybody_needs_takes_nobody_elses_room_attack_lock_out(
    room: tokens.Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dpop, "MOST_OF_ONE", 5)
    key, other = tokens.Key(), tokens.Key()
    held = await log_in(room, key)
    bob = await room.person(tokens.ACME, "bob@acme.example")
    his = await log_in(room, other, user=bob.id, user_epoch=bob.epoch)
    for _ in range(4):
        await room.who(held.access, "DPoP", key.proof(room, path=AT, token=held.access))
    with pytest.raises(errors.RateLimited):
        await room.who(held.access, "DPoP", key.proof(room, path=AT, token=held.access))
    assert (await room.who(his.access, "DPoP", other.proof(room, path=AT, token=his.access))).id == bob.id
    # And the first one's room comes back as what was in it ends.
    room.time.advance(2 * room.lives.proof_s + 1)
    await room.who(held.access, "DPoP", key.proof(room, path=AT, token=held.access))
