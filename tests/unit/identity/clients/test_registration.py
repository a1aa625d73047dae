"""What a client may say of itself."""

from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwk

from smcp.identity.oauth import clients, keysets, refusals, registration
from support import authorizing

HERE = {"redirect_uris": [authorizing.CALLBACK]}


def keys(*made: Any) -> dict[str, Any]:
    return {"keys": [one.as_dict(private=False) for one in made]}


def refused(said: dict[str, Any], *, secrets: bool = True) -> str:
    with pytest.raises(refusals.Refused) as error:
        registration.read(said, secrets=secrets)
    return error.value.code


@pytest.mark.requirement("oauth:registration:defaults")
def test_a_client_that_says_little_is_what_the_specification_says() -> None:
    read = registration.read(HERE, secrets=True)
    assert read.auth_method is clients.AuthMethod.BASIC
    assert read.grant_types == (clients.AUTHORIZATION_CODE, clients.REFRESH_TOKEN)
    assert (read.native, read.name, read.jwks) == (False, "", "")
    # In a document that anybody reads there is no secret.
    assert registration.read(HERE, secrets=False).auth_method is clients.AuthMethod.NONE


@pytest.mark.requirement("oauth:registration:ignored")
def test_what_nobody_knows_is_ignored_and_what_leads_elsewhere_is_not_followed() -> None:
    read = registration.read(
        {
            **HERE,
            "software_id": "x",
            "logo_uri": "http://169.254.169.254/",
            "policy_uri": "file:///etc/passwd",
            "unheard_of": {"a": 1},
            "client_uri": "javascript:alert(1)",
        },
        secrets=True,
    )
    assert read.uri == ""
    assert "169.254" not in repr(read)


@pytest.mark.requirement("oauth:registration:refused")
@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({}, refusals.INVALID_REDIRECT_URI),
        ({"redirect_uris": []}, refusals.INVALID_REDIRECT_URI),
        ({"redirect_uris": ["javascript:alert(1)"]}, refusals.INVALID_REDIRECT_URI),
        ({"redirect_uris": authorizing.CALLBACK}, refusals.INVALID_CLIENT_METADATA),
        ({"redirect_uris": [1]}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "grant_types": ["client_credentials"]}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "grant_types": ["authorization_code", "client_credentials"]}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "grant_types": ["password"]}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "grant_types": ["implicit"]}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "grant_types": ["refresh_token"]}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "grant_types": []}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "response_types": ["token"]}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "response_types": ["code", "id_token"]}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "token_endpoint_auth_method": "client_secret_jwt"}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "token_endpoint_auth_method": None}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "token_endpoint_auth_method": ["none"]}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "token_endpoint_auth_method": "private_key_jwt"}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "jwks_uri": "http://169.254.169.254/"}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "jwks": {"keys": []}}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "client_name": 1}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "client_uri": "https://" + "x" * 600}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "scope": 'a"b'}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "scope": "x" * 600}, refusals.INVALID_CLIENT_METADATA),
        ({**HERE, "application_type": "desktop"}, refusals.INVALID_CLIENT_METADATA),
        ({"redirect_uris": ["http://localhost/cb"], "application_type": "web"}, refusals.INVALID_REDIRECT_URI),
    ],
)
def test_what_is_wrong_is_refused_with_the_code_of_the_specification(said: dict[str, Any], code: str) -> None:
    assert refused(said) == code


@pytest.mark.requirement("oauth:registration:application-type")
def test_a_client_on_a_persons_machine_is_known_by_its_uris_where_it_does_not_say_so() -> None:
    assert registration.read({"redirect_uris": ["http://localhost:1/cb"]}, secrets=True).native
    assert registration.read({**HERE, "application_type": "native"}, secrets=True).native
    assert not registration.read({**HERE, "application_type": "web"}, secrets=True).native


@pytest.mark.requirement("oauth:registration:no-shared-secret")
@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_a_document_names_no_secret_as_proof(method: str) -> None:
    assert refused({**HERE, "token_endpoint_auth_method": method}, secrets=False) == refusals.INVALID_CLIENT_METADATA


@pytest.mark.requirement("oauth:registration:name", "attack:oauth:client-names")
@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("  Some \t\n App ", "Some App"),
        ("evil\u202egnp.exe", "evilgnp.exe"),
        ("a\u200bb\u200d\ufeffc", "abc"),
        ("a\x00\x1b[31mb\x7f", "a[31mb"),
        ("line\u2028break", "line break"),
        ("\ud800x", "x"),
        ("Ｃｌａｕｄｅ", "Claude"),
        ("\u20ddx\u20e3", "x"),
        ("e\u200b\u0301", "\u00e9"),
        ("x" * 500, "x" * registration.MAX_NAME),
        ("\u202e\u200b", ""),
    ],
)
def test_a_name_has_no_characters_that_are_not_seen_or_turn_the_line(said: str, shown: str) -> None:
    assert registration.name(said) == shown


@pytest.mark.requirement("oauth:registration:name")
@given(st.text(max_size=200))
def test_every_name_is_one_printable_line(said: str) -> None:
    shown = registration.name(said)
    assert shown.isprintable() or shown == ""
    assert len(shown) <= registration.MAX_NAME
    assert registration.name(shown) == shown


_SIGNS = {**HERE, "token_endpoint_auth_method": "private_key_jwt"}
_THERE = "https://app.example:8443/keys/set.json"


@pytest.mark.requirement("oauth:registration:keys-at")
@pytest.mark.parametrize("secrets", [True, False])
def test_keys_may_be_at_an_address_of_which_there_is_one_reading(secrets: bool) -> None:
    read = registration.read({**_SIGNS, "jwks_uri": _THERE}, secrets=secrets)
    assert (read.jwks, read.jwks_uri) == ("", _THERE)
    issued = read.of(clients.Client(id="x", tenant=authorizing.ACME, kind=clients.Kind.DYNAMIC, name="", host=""))
    assert (registration.shown(issued)["jwks_uri"], "jwks" in registration.shown(issued)) == (_THERE, False)


@pytest.mark.requirement("oauth:registration:keys-at")
@pytest.mark.parametrize(
    "uri",
    [
        "http://app.example/keys", "ftp://app.example/keys", "file:///keys", "data:application/json,{}", "", 7, True,
        [_THERE], {}, "https://app.example", "https://app.example/", "https://user@app.example/keys",
        "https://app.example/keys?x=1", "https://app.example/keys?", "https://app.example/keys#x",
        "HTTPS://app.example/k", "https://APP.example/keys", "https://app.example:443/keys", "https://app.example:0/keys",
        "https://app.example:65536/keys", "https://app.example./keys", "https://app.example/a/../keys",
        "https://app.example/%2e%2e/keys", "https://app.example\\@evil.example/keys", "https://app.example/k k",
        "https://ünï.example/keys", "https://127.1/keys", "https://2130706433/keys", "https://0x7f000001/keys",
        "https://[::1]/keys", "https:///keys", "https://-a.example/keys", f"https://app.example/{'x' * 512}",
    ],
)  # fmt: skip
def test_an_address_of_keys_with_two_readings_or_without_tls_is_refused(uri: object) -> None:
    assert refused({**_SIGNS, "jwks_uri": uri}) == refusals.INVALID_CLIENT_METADATA


@pytest.mark.requirement("oauth:registration:keys-at")
def test_keys_and_their_address_are_not_sent_together_nor_by_who_does_not_sign() -> None:
    made = keys(jwk.ECKey.generate_key("P-256"))
    for said in (
        {**_SIGNS, "jwks": made, "jwks_uri": _THERE},
        {**_SIGNS, "jwks": None, "jwks_uri": None},
        {**HERE, "jwks_uri": _THERE},
        {**HERE, "token_endpoint_auth_method": "none", "jwks_uri": _THERE},
        {**HERE, "token_endpoint_auth_method": "client_secret_post", "jwks_uri": _THERE},
    ):
        assert refused(said) == refusals.INVALID_CLIENT_METADATA


@pytest.mark.requirement("oauth:keys:checked")
@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.one_of(st.none(), st.integers(0, 9), st.sampled_from(["EC", "oct", "RSA", "P-256", "AQAB", "sig"])),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(st.sampled_from(["keys", "kty", "crv", "x", "y", "k", "use", "kid", "n", "e"]), inner),
            ),
            max_leaves=12,
        ).map(msgspec.json.encode),
    )
)
def test_whatever_stands_at_an_address_is_a_refusal_or_public_keys(body: bytes) -> None:
    try:
        text = keysets.published(body)
    except refusals.Refused:
        return
    assert not any(key.is_private for key in keysets.read(text).keys)


@pytest.mark.requirement("oauth:registration:keys")
def test_public_keys_are_kept_without_what_nobody_reads() -> None:
    made = [jwk.ECKey.generate_key("P-256"), jwk.OKPKey.generate_key("Ed25519"), jwk.RSAKey.generate_key(2048)]
    said = keys(*made)
    for number, one in enumerate(said["keys"]):
        one["kid"] = f"k{number}"
    said["keys"][0] |= {"x5u": "http://169.254.169.254/", "use": "sig"}
    text = keysets.checked(said)
    kept = msgspec.json.decode(text)["keys"]
    assert [one["kty"] for one in kept] == ["EC", "OKP", "RSA"]
    assert '"x5u"' not in text
    assert len(keysets.read(text).keys) == 3


@pytest.mark.requirement("oauth:registration:keys", "attack:oauth:client-keys")
def test_a_key_that_is_private_weak_or_for_something_else_is_refused() -> None:
    good = jwk.ECKey.generate_key("P-256").as_dict(private=False)
    small = rsa.generate_private_key(65537, 1024).public_key().public_numbers()
    strong = jwk.RSAKey.generate_key(2048).as_dict(private=False)
    weak = {"kty": "RSA", "n": _number(small.n), "e": _number(small.e)}
    for bad in (
        jwk.ECKey.generate_key("P-256").as_dict(private=True),
        jwk.OctKey.generate_key(256).as_dict(private=True),
        weak,
        {**strong, "e": strong["n"]},
        {**strong, "e": "Aw"},
        {**strong, "n": "_" * 1366},
        {**good, "crv": "secp256k1"},
        {**good, "x": "AAAA"},
        {**good, "use": "enc"},
        {**good, "alg": "HS256"},
        {**good, "alg": "none"},
        {**good, "kid": 7},
        {**good, "kid": "x" * 300},
        {"kty": "oct"},
        "a key",
    ):
        with pytest.raises(refusals.Refused) as error:
            keysets.checked({"keys": [bad]})
        assert error.value.code == refusals.INVALID_CLIENT_METADATA
    named, twice = {**good, "kid": "a"}, {**good, "kid": "a"}
    assert keysets.checked({"keys": [named, {**good, "kid": "b"}]})
    for said in ({"keys": [good, named]}, {"keys": [named, twice]}, {"keys": [named, {**good, "kid": ""}]}):
        with pytest.raises(refusals.Refused):
            keysets.checked(said)
    wrong: list[Any] = [None, [], {}, {"keys": {}}, {"keys": []}, {"keys": [good] * (keysets.MOST + 1)}]
    for said in wrong:
        with pytest.raises(refusals.Refused):
            keysets.checked(said)


def _number(value: int) -> str:
    import base64

    data = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
