"""Clients prove who they are: by a secret in its place, or by a signature that is good once and here."""

import base64
import hmac
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import pytest
from joserfc import jwk, jwt

from smcp.identity.oauth import client_auth, clients, forms, refusals
from smcp.kernel import errors
from support import authorizing

KEY: Final = jwk.ECKey.generate_key("P-256")
STRANGER: Final = jwk.ECKey.generate_key("P-256")
TOKEN: Final = f"{authorizing.PUBLIC}/oauth/acme/token"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def signer(room: authorizing.Room, key: Any = KEY, **members: str) -> clients.Client:
    """A client with a key."""
    said = {"keys": [key.as_dict(private=False) | members]}
    return (await room.register(token_endpoint_auth_method="private_key_jwt", jwks=said)).client


def signed(
    room: authorizing.Room,
    client: clients.Client,
    *,
    key: Any = KEY,
    head: Mapping[str, Any] | None = None,
    **claims: Any,
) -> dict[str, str]:
    """A request's parameters with a right assertion, but for what is said (None: left out)."""
    now = room.time.now()
    made = {
        "iss": client.id,
        "sub": client.id,
        "aud": authorizing.ISSUER,
        "exp": now + 60,
        "iat": now,
        "jti": f"jti-{time.monotonic_ns()}",
    } | claims
    told = {name: value for name, value in made.items() if value is not None}
    assertion = jwt.encode({"alg": "ES256", **(head or {})}, told, key, algorithms=["ES256", "Ed25519", "RS256"])
    return {"client_assertion_type": client_auth.ASSERTION_TYPE, "client_assertion": assertion}


def _with_secret(head: Mapping[str, Any], claims: str, secret: bytes) -> str:
    """Signed with a public key as if it were a shared secret."""
    said = f"{_encoded(msgspec.json.encode(head))}.{claims}"
    return f"{said}.{_encoded(hmac.digest(secret, said.encode(), 'sha256'))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


async def refusal(room: authorizing.Room, authorization: str | None, form: Mapping[str, str]) -> refusals.Refused:
    with pytest.raises(refusals.Refused) as error:
        await room.auth.authenticate(authorizing.ACME, authorization, form)
    return error.value


@pytest.mark.requirement("oauth:client-auth:secret")
async def test_a_secret_is_taken_in_the_place_that_the_client_registered_for(room: authorizing.Room) -> None:
    in_header = await room.register(token_endpoint_auth_method="client_secret_basic")
    in_form = await room.register(token_endpoint_auth_method="client_secret_post")
    header = basic(in_header.client.id, in_header.secret)
    for form in ({}, {"client_id": in_header.client.id}):
        assert await room.auth.authenticate(authorizing.ACME, header, form) == in_header.client
    sent = {"client_id": in_form.client.id, "client_secret": in_form.secret}
    assert await room.auth.authenticate(authorizing.ACME, None, sent) == in_form.client
    wrong: tuple[tuple[str | None, dict[str, str]], ...] = (
        (basic(in_form.client.id, in_form.secret), {}),
        (None, {"client_id": in_header.client.id, "client_secret": in_header.secret}),
        (None, {"client_id": in_header.client.id}),
        (basic(in_header.client.id, in_form.secret), {}),
        (basic(in_header.client.id, ""), {}),
        (basic(in_header.client.id, in_header.manage), {}),
        (basic("client-00000000000000000000000000", in_header.secret), {}),
        (None, {"client_id": in_form.client.id, "client_secret": in_header.secret}),
    )
    told = {str(await refusal(room, *one)) for one in wrong}
    assert len(told) == 1
    assert "invalid_client" in told.pop()


@pytest.mark.requirement("oauth:client-auth:public")
async def test_a_public_client_names_itself_and_shows_nothing(room: authorizing.Room) -> None:
    client = (await room.register()).client
    assert await room.auth.authenticate(authorizing.ACME, None, {"client_id": client.id}) == client
    assert (await refusal(room, None, {})).code == "invalid_client"
    for shown in ({"client_secret": "x"}, {"client_secret": "smcs_acme_x"}):
        assert (await refusal(room, None, {"client_id": client.id, **shown})).code == "invalid_client"
    with pytest.raises(refusals.Refused):
        await room.auth.authenticate(authorizing.UMBRA, None, {"client_id": client.id})


@pytest.mark.requirement("oauth:client-auth:one-proof")
async def test_two_proofs_or_two_names_are_refused(room: authorizing.Room) -> None:
    issued = await room.register(token_endpoint_auth_method="client_secret_basic")
    header = basic(issued.client.id, issued.secret)
    client = await signer(room)
    for authorization, form in (
        (header, {"client_secret": issued.secret}),
        (header, signed(room, client)),
        (None, {"client_id": client.id, "client_secret": "x", **signed(room, client)}),
        (header, {"client_id": client.id}),
        (None, {"client_id": issued.client.id, **signed(room, client)}),
    ):
        assert (await refusal(room, authorization, form)).code == "invalid_request"


@pytest.mark.requirement("oauth:client-auth:basic")
async def test_basic_is_read_in_one_way_and_answered_in_kind(room: authorizing.Room) -> None:
    issued = await room.register(token_endpoint_auth_method="client_secret_basic")
    good = basic(issued.client.id, issued.secret)
    assert (await room.auth.authenticate(authorizing.ACME, good.replace("Basic", "bAsIc "), {})) == issued.client
    # Form-urlencoded before base64 (RFC 6749, 2.3.1): what needs no encoding is the same without.
    encoded = basic(issued.client.id.replace("-", "%2D"), issued.secret)
    assert (await room.auth.authenticate(authorizing.ACME, encoded, {})) == issued.client
    for header in ("", "Basic", "Basic !!", "Basic eA==", good[:-2] + "*", f"Bearer {issued.secret}", good + " x",
                   "Basic " + "A" * 10_000, "Basic \u00e9"):  # fmt: skip
        error = await refusal(room, header, {})
        assert (error.code, error.status) == ("invalid_client", 401)
        assert error.headers == (("WWW-Authenticate", 'Basic realm="smcp"'),)


@pytest.mark.requirement("oauth:client-auth:revoked")
async def test_a_revoked_client_proves_nothing(room: authorizing.Room) -> None:
    client = await signer(room)
    await room.auth.authenticate(authorizing.ACME, None, signed(room, client))
    await room.clients.revoke(authorizing.ACME, client.id)
    error = await refusal(room, None, signed(room, client))
    assert (error.code, error.detail) == ("invalid_client", "revoked")


@pytest.mark.requirement("oauth:client-auth:assertion")
@pytest.mark.parametrize("audience", [authorizing.ISSUER, TOKEN, [authorizing.ISSUER], [TOKEN]])
async def test_a_signature_for_us_is_taken(room: authorizing.Room, audience: Any) -> None:
    client = await signer(room, kid="k1")
    for head in ({}, {"kid": "k1"}, {"typ": "JWT"}, {"typ": "client-authentication+jwt"}):
        form = signed(room, client, head=head, aud=audience)
        assert await room.auth.authenticate(authorizing.ACME, None, form) == client


@pytest.mark.requirement("oauth:client-auth:assertion")
@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(jwk.OKPKey.generate_key("Ed25519"), "Ed25519"), (jwk.RSAKey.generate_key(2048), "RS256")],
    ids=["Ed25519", "RS256"],
)
async def test_other_keys_sign_as_well(room: authorizing.Room, key: Any, algorithm: str) -> None:
    client = await signer(room, key)
    assert await room.auth.authenticate(authorizing.ACME, None, signed(room, client, key=key, head={"alg": algorithm}))


@pytest.mark.requirement("oauth:client-auth:assertion", "attack:oauth:assertion-claims")
@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"aud": "https://other.example"}, "audience"),
        ({"aud": [authorizing.ISSUER, "https://other.example"]}, "audience"),
        ({"aud": [authorizing.ISSUER, TOKEN]}, "audience"),
        ({"aud": f"{authorizing.PUBLIC}/t/umbra"}, "audience"),
        ({"aud": f"{authorizing.ISSUER}/"}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": None}, "audience"),
        ({"iss": "client-00000000000000000000000000"}, "subject"),
        ({"iss": None}, "subject"),
        ({"exp": None}, "expired"),
        ({"exp": 1_800_000_000 - 31}, "expired"),
        ({"exp": 1_800_000_000 + client_auth.LIFE_S + 31}, "expired"),
        ({"exp": "1800000060"}, "malformed"),
        ({"exp": True}, "malformed"),
        ({"nbf": 1_800_000_000 + 31}, "early"),
        ({"iat": 1_800_000_000 + 31}, "early"),
        ({"jti": None}, "jti"),
        ({"jti": ""}, "jti"),
        ({"jti": 7}, "jti"),
        ({"jti": "x" * 300}, "jti"),
    ],
)
async def test_an_assertion_that_is_for_somebody_else_or_another_time_is_refused(
    room: authorizing.Room, claims: dict[str, Any], why: str
) -> None:
    client = await signer(room)
    error = await refusal(room, None, signed(room, client, **claims))
    assert (error.code, error.detail) == ("invalid_client", why)


@pytest.mark.requirement("oauth:client-auth:algorithms", "attack:oauth:jwt-alg-kid-jku")
async def test_a_header_can_choose_neither_the_algorithm_nor_the_key(room: authorizing.Room) -> None:
    client = await signer(room, kid="k1")
    public = KEY.as_pem(private=False)
    claims = signed(room, client)["client_assertion"].split(".")[1]
    unsigned = _encoded(b'{"alg":"none"}')
    good = signed(room, client)["client_assertion"]
    header, body, signature = good.split(".")
    flipped = ("A" if signature[10] != "A" else "B").join((signature[:10], signature[11:]))
    twice = _encoded(b'{"alg":"none","alg":"ES256"}')
    for assertion in (
        f"{unsigned}.{claims}.",
        f"{unsigned}.{claims}.AAAA",
        _with_secret({"alg": "HS256"}, claims, public),
        signed(room, client, key=STRANGER)["client_assertion"],
        signed(room, client, head={"jku": "http://169.254.169.254/"})["client_assertion"],
        signed(room, client, key=STRANGER, head={"jwk": STRANGER.as_dict(private=False)})["client_assertion"],
        signed(room, client, head={"x5u": "http://169.254.169.254/"})["client_assertion"],
        signed(room, client, head={"kid": "../../../dev/null"})["client_assertion"],
        signed(room, client, head={"kid": "' OR 1=1"})["client_assertion"],
        signed(room, client, head={"typ": "at+jwt"})["client_assertion"],
        f"{twice}.{body}.{signature}",
        f"{header}.{body}.{flipped}",
        f"{header}.{body}",
        f"{header}.{body}.{signature}.x",
        good + "=",
        "..",
        "x" * 9000,
        "é.é.é",
    ):
        error = await refusal(
            room, None, {"client_assertion_type": client_auth.ASSERTION_TYPE, "client_assertion": assertion}
        )
        assert error.code == "invalid_client"


@pytest.mark.requirement("oauth:client-auth:one-key", "attack:oauth:costly-keys")
async def test_of_several_keys_the_one_is_tried_that_the_signature_names(room: authorizing.Room) -> None:
    said = {"keys": [{**key.as_dict(private=False), "kid": kid} for key, kid in ((KEY, "a"), (STRANGER, "b"))]}
    client = (await room.register(token_endpoint_auth_method="private_key_jwt", jwks=said)).client
    for key, kid in ((KEY, "a"), (STRANGER, "b")):
        assert await room.auth.authenticate(authorizing.ACME, None, signed(room, client, key=key, head={"kid": kid}))
    for head in ({}, {"kid": "b"}, {"kid": "c"}, {"kid": ""}):
        assert (await refusal(room, None, signed(room, client, head=head))).detail == "signature"


@pytest.mark.requirement("oauth:client-auth:once", "attack:oauth:assertion-replay")
async def test_an_assertion_is_good_once_in_every_process(room: authorizing.Room) -> None:
    client = await signer(room)
    form = signed(room, client, jti="once")
    assert await room.auth.authenticate(authorizing.ACME, None, form) == client
    assert (await refusal(room, None, form)).detail == "replay"
    assert (await refusal(room, None, signed(room, client, jti="once", exp=room.time.now() + 500))).detail == "replay"
    other = authorizing.Room(room.store)
    other.time.advance(0)
    assert (await refusal(other, None, form)).detail == "replay"
    # Another client's, or a refused one's, is another one.
    second = await signer(room)
    assert await room.auth.authenticate(authorizing.ACME, None, signed(room, second, jti="once")) == second
    assert (await refusal(room, None, signed(room, client, jti="two", aud="x"))).detail == "audience"
    assert await room.auth.authenticate(authorizing.ACME, None, signed(room, client, jti="two")) == client


@pytest.mark.requirement("oauth:client-auth:bounded")
async def test_a_stranger_does_not_fill_a_tenants_storage_with_assertions(room: authorizing.Room) -> None:
    """Attack: register clients, and have each right assertion kept as a record of the tenant."""
    strangers = [await signer(room), await signer(room)]
    known = await room.clients.adopt(await signer(room), actor="user-1", request_id="req-1")
    for turn in range(120):
        await room.auth.authenticate(authorizing.ACME, None, signed(room, strangers[turn % 2], jti=f"n{turn}"))
    for stranger in strangers:
        with pytest.raises(errors.RateLimited):
            await room.auth.authenticate(authorizing.ACME, None, signed(room, stranger, jti="more"))
    # Not a known client's share, and not by what it did not sign.
    assert await room.auth.authenticate(authorizing.ACME, None, signed(room, known, jti="mine")) == known
    room.time.advance(61)
    assert await room.auth.authenticate(authorizing.ACME, None, signed(room, strangers[0], jti="more")) == strangers[0]


@pytest.mark.requirement("oauth:client-auth:tenant")
async def test_an_assertion_means_nothing_in_another_tenant(room: authorizing.Room) -> None:
    client = await signer(room)
    with pytest.raises(refusals.Refused) as error:
        await room.auth.authenticate(authorizing.UMBRA, None, signed(room, client))
    assert error.value.code == "invalid_client"


@pytest.mark.requirement("oauth:client-auth:fail-closed")
async def test_while_the_store_is_away_nobody_proves_anything(room: authorizing.Room) -> None:
    client = await signer(room)
    form = signed(room, client)
    await room.store.close()
    with pytest.raises(errors.Unavailable):
        await room.auth.authenticate(authorizing.ACME, None, form)


@pytest.mark.requirement("oauth:form:strict")
@pytest.mark.parametrize(
    "data", [b"a=1&a=2", b"a=%ff", b"a=\xff", b"a=1&" * 100, b"a=" + b"x" * 40_000, b"client_id=x&client_id=x"]
)
def test_parameters_with_two_readings_are_refused(data: bytes) -> None:
    with pytest.raises(refusals.Refused) as error:
        forms.parse(data)
    assert error.value.code == "invalid_request"


@pytest.mark.requirement("oauth:form:strict")
def test_an_empty_parameter_was_left_out() -> None:
    assert forms.parse(b"a=&b=1&c&resource=x&resource=y") == {"b": "1", "resource": "x y"}
    assert forms.parse(b"") == {}
    assert msgspec.json.encode(refusals.Refused("a", "b").body) == b'{"error":"a","error_description":"b"}'
