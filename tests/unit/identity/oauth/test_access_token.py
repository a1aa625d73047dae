"""Access tokens: every trick that JWTs are known for, and everything that ends one."""

import base64
import hashlib
import hmac
import json
import pathlib
from typing import Any

import msgspec
import pytest
from joserfc import jwk, jws

from smcp.access import policy
from smcp.access import roles as access_roles
from smcp.identity import authenticator
from smcp.identity.authn import access_token, base
from smcp.identity.oauth import dpop, lifetimes, standing
from smcp.kernel import errors, ids
from support import storage, tokens
from support.tokens import ACME, PUBLIC, UMBRA


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Header, payload and signature."""
    header, payload, signature = token.split(".")
    return opened(header), opened(payload), signature


def everything_below(directory: pathlib.Path) -> bytes:
    """All that is on disk."""
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


def opened(part: str) -> dict[str, Any]:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def closed(value: object) -> str:
    return tokens.b64(json.dumps(value).encode())


async def public_key(room: tokens.Room) -> jwk.ECKey:
    """The tenant's public key, as anybody can read it."""
    found = (await room.made.signing.published(ACME))["keys"][-1]
    return jwk.ECKey.import_key({name: found[name] for name in ("kty", "crv", "x", "y")})


@pytest.mark.requirement("oauth:verify:none")
@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", ""])
async def test_a_token_without_a_signature_is_refused(room: tokens.Room, algorithm: str) -> None:
    """RFC 8725, 2.1 and 3.1: alg none."""
    header, payload, signature = parts((await room.log_in()).access)
    head = closed({**header, "alg": algorithm})
    for end in ("", signature):
        assert await room.why(f"{head}.{closed(payload)}.{end}") == base.Reason.UNKNOWN


@pytest.mark.requirement("oauth:verify:confusion")
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_public_key_is_no_shared_secret(room: tokens.Room, algorithm: str) -> None:
    """RFC 8725, 2.1: HS256 with the public key as the secret, in each form in which it can be had."""
    header, payload, _ = parts((await room.log_in()).access)
    key = await public_key(room)
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[algorithm]
    signed = f"{closed({**header, 'alg': algorithm})}.{closed(payload)}"
    published = json.dumps((await room.made.signing.published(ACME))["keys"][-1]).encode()
    for secret in (key.as_pem(private=False), key.as_der(private=False), published, b""):
        mac = tokens.b64(hmac.digest(secret, signed.encode(), digest))
        assert await room.why(f"{signed}.{mac}") == base.Reason.UNKNOWN


@pytest.mark.requirement("oauth:verify:header")
@pytest.mark.parametrize(
    "more",
    [
        {"jku": "https://evil.example/jwks"},
        {"x5u": "https://evil.example/cert"},
        {"x5c": ["MIIB"]},
        {"crit": ["exp"], "exp": 1},
        {"crit": []},
        {"b64": False},
        {"zip": "DEF"},
        {"cty": "JWT"},
        {"jwk": {}},
    ],
)
async def test_a_header_that_brings_anything_along_is_refused(room: tokens.Room, more: dict[str, Any]) -> None:
    """RFC 8725, 3.10; CVE-2018-0114 (jwk): signed by the attacker, with the key where it says."""
    header, payload, _ = parts((await room.log_in()).access)
    own = jwk.ECKey.generate_key("P-256", auto_kid=False)
    if "jwk" in more:
        more = {"jwk": own.as_dict(private=False)}
    head = closed({**header, **more})
    made = jws.serialize_compact({"alg": "ES256"}, b"{}", own, algorithms=["ES256"]).split(".")[2]
    assert await room.why(f"{head}.{closed(payload)}.{made}") == base.Reason.UNKNOWN


@pytest.mark.requirement("oauth:verify:kid")
@pytest.mark.parametrize("kid", ["../../etc/passwd", "/dev/null", "' OR 1=1 --", "", "sig-0", "ring", None, 1, ["a"]])
async def test_a_key_id_is_a_name_in_the_tenants_ring_and_nothing_else(room: tokens.Room, kid: object) -> None:
    header, payload, signature = parts((await room.log_in()).access)
    assert await room.why(f"{closed({**header, 'kid': kid})}.{closed(payload)}.{signature}") == base.Reason.UNKNOWN
    del header["kid"]
    assert await room.why(f"{closed(header)}.{closed(payload)}.{signature}") == base.Reason.UNKNOWN


@pytest.mark.requirement("oauth:verify:type")
@pytest.mark.parametrize("typ", ["JWT", "jwt", "dpop+jwt", "id+jwt", "application/at+jwt", "", "at+jwt2"])
async def test_another_kind_of_token_is_no_access_token_even_if_we_signed_it(room: tokens.Room, typ: str) -> None:
    """RFC 8725, 3.11; RFC 9068, 4."""
    _, payload, _ = parts((await room.log_in()).access)
    token = await room.made.signing.sign(ACME, typ, json.dumps(payload).encode())
    assert await room.why(token) == base.Reason.UNKNOWN
    good = await room.made.signing.sign(ACME, "at+jwt", json.dumps(payload).encode())
    assert (await room.who(good)).id == room.user.id


@pytest.mark.requirement("oauth:verify:tenant")
async def test_another_tenants_key_signs_nothing_here(room: tokens.Room) -> None:
    """Who rules one tenant (and could take its key) gets nothing in another."""
    _, payload, _ = parts((await room.log_in()).access)
    signing = room.made.signing
    await signing.published(UMBRA)
    forged = await signing.sign(UMBRA, "at+jwt", json.dumps(payload).encode())
    assert await room.why(forged) == base.Reason.UNKNOWN
    # Its own issuer, with claims about us: there is no such grant in that tenant, and no such audience.
    moved = {**payload, "iss": f"{PUBLIC}/t/umbra"}
    assert await room.why(await signing.sign(UMBRA, "at+jwt", json.dumps(moved).encode())) == base.Reason.UNKNOWN
    moved["aud"] = f"{PUBLIC}/t/umbra/files/mcp"
    assert await room.why(await signing.sign(UMBRA, "at+jwt", json.dumps(moved).encode())) == base.Reason.REVOKED


@pytest.mark.requirement("oauth:verify:claims")
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iss": f"{PUBLIC}/t/acme/"}, base.Reason.MALFORMED),
        ({"iss": "https://evil.example/t/acme"}, base.Reason.MALFORMED),
        ({"iss": f"{PUBLIC}/T/acme"}, base.Reason.MALFORMED),
        ({"iss": f"{PUBLIC}/t/nobody"}, base.Reason.UNKNOWN),
        ({"aud": f"{PUBLIC}/t/acme/files/mcp/"}, base.Reason.UNKNOWN),
        ({"aud": f"{PUBLIC}/t/acme/mail/mcp"}, base.Reason.REVOKED),
        ({"aud": [f"{PUBLIC}/t/acme/files/mcp"]}, base.Reason.MALFORMED),
        ({"aud": "https://evil.example/"}, base.Reason.UNKNOWN),
        ({"exp": 0}, base.Reason.EXPIRED),
        ({"exp": "never"}, base.Reason.MALFORMED),
        ({"exp": None}, base.Reason.MALFORMED),
        ({"iat": 1 << 40}, base.Reason.UNKNOWN),
        ({"sub": "user-somebody"}, base.Reason.REVOKED),
        ({"client_id": "smcp-cli"}, base.Reason.REVOKED),
        ({"scope": "mcp:read api:admin"}, base.Reason.REVOKED),
        ({"smcp_grant": "grant-000000000000"}, base.Reason.REVOKED),
        ({"roles": ["admin"]}, base.Reason.MALFORMED),
        ({"nbf": 0}, base.Reason.MALFORMED),
    ],
)
async def test_claims_that_we_do_not_write_are_refused_even_if_we_signed_them(
    room: tokens.Room, changes: dict[str, Any], why: str
) -> None:
    _, payload, _ = parts((await room.log_in()).access)
    token = await room.made.signing.sign(ACME, "at+jwt", json.dumps({**payload, **changes}).encode())
    assert await room.why(token) == why


@pytest.mark.requirement("oauth:verify:form")
async def test_what_is_no_token_in_its_one_form_is_refused_before_anything_is_looked_up(room: tokens.Room) -> None:
    token = (await room.log_in()).access
    header, payload, signature = token.split(".")
    reads = room.store.counts.calls.copy()
    for wrong in (
        f"{header}..{signature}",
        f"{header}.{payload}=.{signature}",
        "ey..",
        "ey.a.b",
        f"{header}.{'a' * 5000}.{signature}",
    ):
        assert await room.why(wrong) == base.Reason.MALFORMED
    assert room.store.counts.calls == reads
    for wrong in (f"{header}.{payload}.", f"{header}.{payload}.{signature[:-4]}", f"{header}.{payload}.{'A' * 86}"):
        assert await room.why(wrong) == base.Reason.UNKNOWN
    flipped = ("A" if signature[10] != "A" else "B").join((signature[:10], signature[11:]))
    assert await room.why(f"{header}.{payload}.{flipped}") == base.Reason.UNKNOWN


@pytest.mark.requirement("oauth:verify:expiry")
async def test_a_token_ends_at_its_time_cold_and_warm(room: tokens.Room) -> None:
    token = (await room.log_in()).access
    room.time.advance(3599)
    await room.who(token)
    room.time.advance(1)
    assert await room.why(token) == base.Reason.EXPIRED
    assert await room.again().why(token) == base.Reason.EXPIRED


# --- what ends one ---


async def _grant(room: tokens.Room) -> None:
    (grant,) = await room.made.grants.of(ACME, room.user.id)
    await room.made.grants.revoke(grant, actor=room.user.id, why="asked")


async def _approval(room: tokens.Room) -> None:
    assert await room.made.grants.withdraw(ACME, room.user.id, room.client.id, actor=room.user.id, why="asked") == 1


async def _user(room: tokens.Room) -> None:
    await room.users.disable(ACME, room.user.id)


async def _epoch(room: tokens.Room) -> None:
    await room.users.end_everything(ACME, room.user.id)


async def _reopened(room: tokens.Room) -> None:
    await room.users.disable(ACME, room.user.id)
    await room.users.enable(ACME, room.user.id)


async def _client(room: tokens.Room) -> None:
    await room.clients.revoke(ACME, room.client.id)


@pytest.mark.requirement("oauth:revocation:next-request")
@pytest.mark.parametrize("end", [_grant, _approval, _user, _epoch, _reopened, _client])
async def test_what_a_token_stands_on_is_gone_with_the_next_request(room: tokens.Room, end: Any) -> None:
    token = (await room.log_in()).access
    other = room.again()
    asked = authenticator.Authenticator((room.made.method,))
    recall = None
    for one in (room, room, other):
        await one.who(token)
    recall = asked.recall(f"Bearer {token}")
    assert recall is not None
    assert recall() is not None
    await end(room)
    assert recall() is None
    for one in (room, other, room.again()):
        assert await one.why(token) == base.Reason.REVOKED


class _Forgetful:
    """The clients of a process whose memory does not know them: each time they must be asked for."""

    def __init__(self, room: tokens.Room) -> None:
        self._known = standing.Applications(room.clients)

    def peek(self, tenant: ids.TenantId, id: str) -> int:
        return standing.NEVER

    async def get(self, tenant: ids.TenantId, id: str) -> standing.Holder | None:
        found = await self._known.get(tenant, id)
        return None if found is None else found._replace(revision=standing.NEVER)


@pytest.mark.requirement("oauth:revocation:next-request")
async def test_what_memory_does_not_know_is_never_the_same_as_before(room: tokens.Room) -> None:
    token = (await room.log_in()).access
    known = access_token.Known(
        room.made.grants,
        standing.People(room.users),
        _Forgetful(room),
        room.roles,
        room.resources,
        room.made.signing,
        dpop.Proofs(room.time, room.lives, PUBLIC, "https"),
    )
    method = access_token.AccessTokens(room.store, known, room.tenants.active, room.tenants.served, room.time)
    await method.authenticate(token)
    await room.clients.revoke(ACME, room.client.id)
    recall = method.recall(token)
    assert recall is None or recall() is None
    with pytest.raises(errors.Unauthenticated):
        await method.authenticate(token)


@pytest.mark.requirement("oauth:revocation:next-request")
async def test_a_suspended_tenants_token_is_told_so_and_a_forged_one_is_not(room: tokens.Room) -> None:
    token = (await room.log_in()).access
    await room.who(token)
    await room.tenants.suspend(ACME)
    for one in (room, room.again()):
        with pytest.raises(errors.TenantSuspended):
            await one.who(token)
    header, payload, _ = token.split(".")
    assert await room.why(f"{header}.{payload}.{'A' * 86}") == base.Reason.UNKNOWN
    await room.tenants.resume(ACME)
    await room.who(token)


@pytest.mark.requirement("oauth:revocation:roles")
async def test_other_roles_count_from_the_next_request_on(room: tokens.Room) -> None:
    token = (await room.log_in()).access
    assert (await room.who(token)).roles == ("mcp_user",)
    await room.users.set_roles(ACME, room.user.id, [policy.Role.READ_ONLY])
    assert (await room.who(token)).roles == ("read_only",)
    role = access_roles.Custom(name="reader", actions=("mcp:read", "mcp:connect", "mcp:list"))
    await room.roles.set(ACME, role)
    await room.users.set_roles(ACME, room.user.id, ["reader"])  # pyright: ignore[reportArgumentType]
    before = await room.who(token)
    assert [rule.role for rule in before.rules] == ["reader"]
    await room.roles.set(ACME, msgspec.structs.replace(role, servers=("mail",)))
    assert (await room.who(token)).rules != before.rules


@pytest.mark.requirement("oauth:revocation:fail-closed")
async def test_without_the_store_no_token_is_let_in(tmp_path: pathlib.Path) -> None:
    """JWT after a store's reset or loss: what can't be vouched for is 503, never 200."""
    async with storage.opened(tmp_path) as store, tokens.around(store, lifetimes.Lifetimes()) as room:
        token = (await room.log_in()).access
        await room.who(token)
        recall = room.made.method.recall(token)
        assert recall is not None
    assert recall() is None
    with pytest.raises(errors.Unavailable):
        await room.who(token)


@pytest.mark.requirement("oauth:verify:memory")
async def test_a_warm_token_is_checked_without_touching_the_store(room: tokens.Room) -> None:
    token = (await room.log_in()).access
    await room.who(token)
    await room.trail.flush(ACME)
    asked = authenticator.Authenticator((room.made.method,))
    recall = asked.recall(f"Bearer {token}")
    assert recall is not None
    before = room.store.counts.calls.copy()
    for _ in range(100):
        await room.who(token)
        assert recall() is not None
    assert room.store.counts.calls == before


@pytest.mark.requirement("oauth:verify:memory")
async def test_something_else_that_changes_costs_a_warm_token_no_look_at_the_store(room: tokens.Room) -> None:
    token = (await room.log_in()).access
    await room.who(token)
    await room.store.tenant(ACME).kv.put(("elsewhere",), b"1")
    recall = room.made.method.recall(token)
    assert recall is not None
    before = room.store.counts.calls.copy()
    assert recall() is not None
    assert room.store.counts.calls == before


# --- the ring ---


@pytest.mark.requirement("oauth:signing:rotation")
async def test_a_successor_is_shown_before_it_signs_and_the_old_key_until_its_tokens_have_ended(
    room: tokens.Room,
) -> None:
    lives, signing = room.lives, room.made.signing

    async def shown() -> list[str]:
        return [one["kid"] for one in (await signing.published(ACME))["keys"]]

    async def signs() -> str:
        token = (await room.log_in()).access
        return parts(token)[0]["kid"]

    first = await signs()
    assert await shown() == [first]
    room.time.advance(lives.signing_s - lives.ahead_s)
    assert await signs() == first
    second = (await shown())[-1]
    assert await shown() == [first, second]
    last = (await room.log_in()).access
    room.time.advance(lives.ahead_s)
    assert await signs() == second
    assert await shown() == [first, second]
    room.time.advance(lives.access_s + 61)
    assert await shown() == [second]
    assert await room.why(last) == base.Reason.UNKNOWN


@pytest.mark.requirement("oauth:signing:rotation")
async def test_what_was_signed_before_a_rotation_stays_good(room: tokens.Room) -> None:
    before = (await room.log_in()).access
    made = (await room.made.signing.rotate(ACME)).key
    after = (await room.log_in()).access
    assert parts(after)[0]["kid"] == made != parts(before)[0]["kid"]
    for one in (room, room.again()):
        assert (await one.who(before)).id == (await one.who(after)).id == room.user.id


@pytest.mark.requirement("oauth:signing:private")
async def test_only_public_halves_are_published_and_nothing_stored_is_a_key(
    tmp_path: pathlib.Path,
) -> None:
    async with tokens.opened(tmp_path) as room:
        await room.log_in()
        keys = (await room.made.signing.published(ACME))["keys"]
        assert [sorted(one) for one in keys] == [["alg", "crv", "kid", "kty", "use", "x", "y"]]
        (ring,) = await room.store.tenant(ACME).kv.scan(("oauth-signing",))
        kept = msgspec.msgpack.decode(ring.value)["keys"][0]["private"]
        assert jwk.ECKey.import_key(kept).as_dict(private=False)["x"] == keys[0]["x"]
    assert kept not in everything_below(tmp_path)


@pytest.mark.requirement("oauth:signing:made-once")
async def test_reading_a_forged_token_makes_no_keys(room: tokens.Room) -> None:
    _, payload, _ = parts((await room.log_in()).access)
    claims = {**payload, "iss": f"{PUBLIC}/t/umbra", "aud": f"{PUBLIC}/t/umbra/files/mcp"}
    head = closed({"alg": "ES256", "typ": "at+jwt", "kid": "sig-1"})
    assert await room.why(f"{head}.{closed(claims)}.{'A' * 86}") == base.Reason.UNKNOWN
    assert await room.store.tenant(UMBRA).kv.scan(("oauth-signing",)) == []
