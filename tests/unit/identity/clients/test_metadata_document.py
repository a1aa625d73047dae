"""Clients that are a document: fetched by the guarded way out from real hosts, read strictly, kept for a while."""

import asyncio
import pathlib
import ssl
from typing import Any

import pytest
from joserfc import jwk, jwt

from smcp.app import documents
from smcp.audit import identity as audited
from smcp.identity.oauth import client_auth, clients, fetched, metadata_document, refusals
from smcp.kernel import errors, ids
from smcp.stores import tenant as stores
from support import authority, authorizing

Pair = authorizing.Pair


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer to connect than clients may."""
    monkeypatch.setattr(documents, "TIME_S", 60.0)


async def refusal(room: authorizing.Room, client_id: str) -> str:
    with pytest.raises(clients.UnknownClient) as error:
        await room.clients.find(authorizing.ACME, client_id, "192.0.2.1")
    return error.value.description


@pytest.mark.requirement("oauth:document:read")
async def test_a_client_is_what_stands_at_its_id(pair: Pair) -> None:
    room, host = pair
    url = host.publish("/client.json")
    found = await room.clients.find(authorizing.ACME, url, "192.0.2.1")
    assert (found.id, found.kind, found.name) == (url, "metadata", "Some App")
    assert (found.host, found.verified) == (f"{authorizing.APP}:{host.port}", True)
    assert (found.redirect_uris, found.auth_method) == ((authorizing.CALLBACK,), "none")
    path, fields = host.asked[0]
    assert (path, fields["host"], fields["accept"]) == ("/client.json", found.host, "application/json")
    # Nothing is shown that could be used: no credential, no cookie.
    assert not {"authorization", "cookie", "referer"} & fields.keys()


@pytest.mark.requirement("oauth:document:own-address", "attack:oauth:document-of-another")
@pytest.mark.parametrize(
    "said",
    [
        {"client_id": "https://app.example/client.json"},
        {"client_id": None},
        {"client_id": "https://evil.example/"},
        {"client_secret": "shared"},
        {"client_secret_expires_at": 0},
        {"token_endpoint_auth_method": "client_secret_post"},
        {"redirect_uris": ["javascript:alert(1)"]},
        {"redirect_uris": []},
        {"grant_types": ["client_credentials"]},
        {"jwks_uri": "https://169.254.169.254/"},
    ],
)
async def test_a_document_speaks_for_its_own_address_and_holds_nothing_secret(pair: Pair, said: dict[str, Any]) -> None:
    room, host = pair
    url = host.url("/client.json")
    host.publish("/client.json", authorizing.document(url, **said))
    assert "The application's document is wrong" in await refusal(room, url)


@pytest.mark.requirement("oauth:document:read")
@pytest.mark.parametrize("body", [b"", b"[]", b"nul", b'{"a":1,"a":2}', b"\xff", b"[" * 100, b'"text"'])
async def test_what_is_no_object_that_everybody_reads_alike_is_no_document(pair: Pair, body: bytes) -> None:
    room, host = pair
    assert "wrong" in await refusal(room, host.publish("/client.json", body))


@pytest.mark.requirement("oauth:document:bounds", "attack:oauth:document-flood")
async def test_a_document_is_small_plain_and_there_at_once(pair: Pair) -> None:
    room, host = pair
    large = host.publish("/large", authorizing.document(host.url("/large"), x="y" * fetched.MAX_BYTES))
    page = host.publish("/page", None, "Content-Type: text/html")
    coded = host.publish("/coded", None, "Content-Encoding: gzip")
    gone = host.url("/gone")
    for url, why in ((large, "more than"), (page, "JSON"), (coded, "JSON"), (gone, "404")):
        assert why in await refusal(room, url)
    host.pages["/endless"] = b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\n\r\n" + b" " * 100_000
    assert "more than" in await refusal(room, host.url("/endless"))


@pytest.mark.requirement("oauth:document:no-redirect", "attack:oauth:ssrf-redirect")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(pair: Pair, status: int) -> None:
    room, host = pair
    host.publish("/right")
    url = host.publish("/client.json", None, "Location: /right", status=status)
    assert str(status) in await refusal(room, url)
    assert [path for path, _ in host.asked] == ["/client.json"]


@pytest.mark.requirement("oauth:document:time")
async def test_a_host_that_does_not_answer_ends_in_time(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    room, host = pair
    monkeypatch.setattr(documents, "TIME_S", 0.05)
    host.hold = asyncio.Event()
    assert "can't be reached" in await refusal(room, host.publish("/client.json"))


@pytest.mark.requirement("oauth:document:tls")
@pytest.mark.parametrize("trusted", ["the system's", "another authority"])
async def test_a_host_whose_certificate_is_not_trusted_is_not_believed(
    store: stores.Store, tmp_path: pathlib.Path, trusted: str
) -> None:
    plain = trusted == "the system's"
    secure = ssl.create_default_context() if plain else authority.Authority(tmp_path / "stranger").client()
    async with authorizing.published(store, tmp_path, secure=secure) as (room, host):
        assert "can't be reached" in await refusal(room, host.publish("/client.json"))
        assert host.asked == []


@pytest.mark.requirement("oauth:document:id")
@pytest.mark.parametrize(
    "client_id",
    [
        "https://app.example", "https://app.example/", "http://app.example/c", "HTTPS://app.example/c",
        "https://APP.example/c", "https://user@app.example/c", "https://app.example/c?x=1", "https://app.example/c#x",
        "https://app.example/a/../c", "https://app.example/./c", "https://app.example/%2e%2e/c",
        "https://app.example\\@evil/c", "https://app.example:0/c", "https://app.example:99999/c",
        "https://app.example:443/c", "https://app.example./c", "https://app.example/c d", "https://ünï.example/c",
        "https://[::1]/c", "https://app.example/" + "x" * 512, "https://127.1/c", "https://2130706433/c",
        "https://0x7f000001/c", "https://0177.0.0.1/c", "https:///c", "https://-a.example/c",
    ],
)  # fmt: skip
async def test_an_address_with_two_readings_is_nobodys_id(pair: Pair, client_id: str) -> None:
    room, host = pair
    await refusal(room, client_id)
    assert host.asked == []


@pytest.mark.requirement("oauth:document:ssrf", "attack:oauth:ssrf")
@pytest.mark.parametrize("address", authorizing.INSIDE)
async def test_a_name_that_leads_inside_is_not_dialled_and_nothing_is_told_of_it(
    store: stores.Store, tmp_path: pathlib.Path, address: str
) -> None:
    async def resolve(name: str, port: int) -> list[str]:
        return [address]

    async with authorizing.published(store, tmp_path, open_to=[], pins=[], resolve=resolve) as (room, host):
        told = await refusal(room, host.publish("/client.json"))
        assert host.asked == []
        # The same words as for a name that is not there: who asks does not learn what the name system says inside.
        assert told == "The application's document can't be read: Its host can't be reached from here."
        assert address not in told
        if ":" not in address:
            assert await refusal(room, f"https://{address}:{host.port}/client.json") == told
            assert host.asked == []


@pytest.mark.requirement("oauth:document:ssrf", "attack:oauth:ssrf-rebinding")
async def test_a_name_system_that_changes_its_mind_is_asked_once_and_what_was_checked_is_dialled(
    store: stores.Store, tmp_path: pathlib.Path
) -> None:
    answers = ["127.0.0.1", "169.254.169.254", "10.0.0.1"]
    asked: list[str] = []

    async def resolve(name: str, port: int) -> list[str]:
        asked.append(name)
        return [answers[(len(asked) - 1) % len(answers)]]

    # The operator has opened loopback: so the first answer is right, and the next ones lead where nobody may go.
    async with authorizing.published(store, tmp_path, pins=[], resolve=resolve) as (room, host):
        url = host.publish("/client.json", None, "Cache-Control: no-store")
        assert (await room.clients.find(authorizing.ACME, url)).id == url
        for _ in range(2):
            room.time.advance(61)
            await refusal(room, url)
        # One look-up for each reading: there is no second one between the check and the connection.
        assert (len(asked), len(host.asked)) == (3, 1)


@pytest.mark.requirement("oauth:document:ssrf", "attack:oauth:ssrf")
async def test_one_address_inside_condemns_the_name(store: stores.Store, tmp_path: pathlib.Path) -> None:
    async def resolve(name: str, port: int) -> list[str]:
        return ["127.0.0.1", "169.254.169.254"]

    async with authorizing.published(store, tmp_path, pins=[], resolve=resolve) as (room, host):
        await refusal(room, host.publish("/client.json"))
        assert host.asked == []


@pytest.mark.requirement("oauth:document:cached")
@pytest.mark.parametrize(
    ("field", "kept"),
    [
        ("X: y", 3600),
        ("Cache-Control: max-age=600", 600),
        ("Cache-Control: public, max-age=5", 60),
        ("Cache-Control: no-store", 60),
        ("Cache-Control: max-age=999999999", 86_400),
    ],
)
async def test_a_document_is_kept_for_as_long_as_its_host_lets_within_bounds(pair: Pair, field: str, kept: int) -> None:
    room, host = pair
    url = host.publish("/client.json", None, field)
    for _ in range(3):
        await room.clients.find(authorizing.ACME, url)
    assert len(host.asked) == 1
    room.time.advance(kept - 1)
    await room.clients.find(authorizing.ACME, url)
    assert len(host.asked) == 1
    room.time.advance(1)
    await room.clients.find(authorizing.ACME, url)
    assert len(host.asked) == 2


@pytest.mark.requirement("oauth:document:cached")
async def test_what_one_tenant_has_read_is_not_anothers(pair: Pair) -> None:
    room, host = pair
    url = host.publish("/client.json")
    for tenant in (authorizing.ACME, authorizing.UMBRA):
        assert (await room.clients.find(tenant, url)).tenant == tenant
    assert len(host.asked) == 2


@pytest.mark.requirement("oauth:document:cached")
async def test_many_who_ask_at_once_are_one_request_and_a_failure_is_remembered_for_a_minute(pair: Pair) -> None:
    room, host = pair
    host.hold = asyncio.Event()
    url = host.publish("/client.json")
    asking = [asyncio.create_task(room.clients.find(authorizing.ACME, url)) for _ in range(50)]
    await host.arrived.wait()
    host.hold.set()
    assert len({client.id for client in await asyncio.gather(*asking)}) == 1
    assert len(host.asked) == 1
    for _ in range(5):
        await refusal(room, host.url("/gone"))
    assert len(host.asked) == 2


@pytest.mark.requirement("oauth:document:rate", "attack:oauth:document-flood")
async def test_an_address_and_a_tenant_have_documents_read_so_often_a_minute(pair: Pair) -> None:
    room, host = pair

    async def ask(number: int, address: str) -> bool:
        try:
            await room.clients.find(authorizing.ACME, host.url(f"/{number}"), address)
        except errors.RateLimited:
            return False
        except clients.UnknownClient:
            return True
        raise AssertionError

    assert [await ask(number, "192.0.2.1") for number in range(12)] == [True] * 10 + [False] * 2
    # Other addresses have their own, up to three quarters of the tenant's; the rest is for those that had nothing.
    others = [await ask(100 + number, f"192.0.2.{2 + number // 8}") for number in range(60)]
    assert others == [True] * 35 + [number % 8 == 0 for number in range(35, 60)]
    assert [await ask(300 + number, f"198.51.100.{number}") for number in range(13)] == [True] * 12 + [False]
    assert len(host.asked) == 60
    # What is known needs no reading, so nobody who comes with it is kept out.
    room.time.advance(61)
    url = host.publish("/client.json")
    await room.clients.find(authorizing.ACME, url, "192.0.2.1")
    for number in range(20):
        await ask(200 + number, "192.0.2.1")
    assert (await room.clients.find(authorizing.ACME, url, "192.0.2.1")).id == url


@pytest.mark.requirement("oauth:document:on-record")
async def test_a_document_is_on_record_once_somebody_consented_and_then_known_without_reading(pair: Pair) -> None:
    room, host = pair
    url = host.publish("/client.json")
    found = await room.clients.find(authorizing.ACME, url)
    with pytest.raises(clients.UnknownClient):
        await room.clients.known(authorizing.ACME, url)
    assert [one.id for one in await room.clients.list(authorizing.ACME)] == [clients.CLI]
    adopted = await room.clients.adopt(found, actor="user-1", request_id="req-1")
    assert await room.clients.known(authorizing.ACME, url) == adopted
    assert await room.auth.authenticate(authorizing.ACME, None, {"client_id": url}) == adopted
    again = await room.clients.adopt(found, actor="user-2", request_id="req-2")
    assert again.adopted == adopted.adopted
    told = [one for one in await room.told() if isinstance(one, audited.ClientRegistered)]
    assert [(one.client, one.how, one.actor) for one in told] == [(url, "metadata", "user-1")]
    assert len(host.asked) == 1
    with pytest.raises(clients.UnknownClient):
        await room.clients.known(authorizing.UMBRA, url)


@pytest.mark.requirement("oauth:document:revoked")
async def test_a_revoked_document_stays_refused_although_it_is_still_there(pair: Pair) -> None:
    room, host = pair
    url = host.publish("/client.json")
    found = await room.clients.find(authorizing.ACME, url)
    await room.clients.adopt(found, actor="user-1", request_id="req-1")
    await room.clients.revoke(authorizing.ACME, url)
    room.time.advance(100_000)
    await refusal(room, url)
    with pytest.raises(clients.UnknownClient):
        await room.clients.adopt(found, actor="user-1", request_id="req-1")
    assert (await room.clients.find(authorizing.UMBRA, url)).id == url


@pytest.mark.requirement("oauth:document:away")
async def test_a_document_that_can_not_be_read_just_now_counts_for_a_day_and_a_wrong_one_not(pair: Pair) -> None:
    room, host = pair
    url = host.publish("/client.json")
    await room.clients.adopt(await room.clients.find(authorizing.ACME, url), actor="user-1", request_id="req-1")
    right = host.pages.pop("/client.json")
    room.time.advance(4000)
    assert (await room.clients.find(authorizing.ACME, url)).id == url
    room.time.advance(clients.STANDS_S)
    assert "404" in await refusal(room, url)
    host.pages["/client.json"] = right
    room.time.advance(100)
    await room.clients.adopt(await room.clients.find(authorizing.ACME, url), actor="user-1", request_id="req-1")
    host.publish("/client.json", authorizing.document("https://evil.example/c"))
    room.time.advance(4000)
    assert "wrong" in await refusal(room, url)


async def _consented(room: authorizing.Room, url: str) -> clients.Client:
    found = await room.clients.find(authorizing.ACME, url)
    return await room.clients.adopt(found, actor="user-1", request_id="req-1")


def _signing(url: str, key: jwk.ECKey) -> dict[str, Any]:
    keys = {"keys": [key.as_dict(private=False)]}
    return authorizing.document(url, token_endpoint_auth_method="private_key_jwt", jwks=keys)


def _assertion(room: authorizing.Room, url: str, key: jwk.ECKey) -> dict[str, str]:
    now = room.time.now()
    claims = {"iss": url, "sub": url, "aud": authorizing.ISSUER, "exp": now + 60, "jti": ids.new("jti")}
    said = jwt.encode({"alg": "ES256"}, claims, key)
    return {"client_assertion_type": client_auth.ASSERTION_TYPE, "client_assertion": said}


@pytest.mark.requirement("oauth:document:keys", "attack:oauth:keys-taken-back")
async def test_a_key_that_was_taken_out_of_a_document_counts_no_more(pair: Pair) -> None:
    room, host = pair
    stolen, new = jwk.ECKey.generate_key("P-256"), jwk.ECKey.generate_key("P-256")
    url = host.url("/client.json")
    host.publish("/client.json", _signing(url, stolen))
    first = await _consented(room, url)
    assert await room.auth.authenticate(authorizing.ACME, None, _assertion(room, url, stolen))
    host.publish("/client.json", _signing(url, new))
    room.time.advance(3601)
    with pytest.raises(refusals.Refused):
        await room.auth.authenticate(authorizing.ACME, None, _assertion(room, url, stolen))
    assert (await room.auth.authenticate(authorizing.ACME, None, _assertion(room, url, new))).id == url
    # And what was issued to the one before has ended.
    assert (await room.clients.known(authorizing.ACME, url)).epoch == first.epoch + 1


@pytest.mark.requirement("oauth:document:keys", "attack:oauth:keys-taken-back")
async def test_a_document_that_has_no_keys_any_more_proves_nothing_also_when_it_is_gone(pair: Pair) -> None:
    room, host = pair
    key = jwk.ECKey.generate_key("P-256")
    url = host.url("/client.json")
    host.publish("/client.json", _signing(url, key))
    await _consented(room, url)
    host.publish("/client.json")
    for _ in range(2):
        room.time.advance(3601)
        with pytest.raises(refusals.Refused) as error:
            await room.auth.authenticate(authorizing.ACME, None, _assertion(room, url, key))
        assert (error.value.code, error.value.detail) == ("invalid_client", "signature")
        host.pages.clear()


@pytest.mark.requirement("oauth:document:keys", "attack:oauth:keys-taken-back")
async def test_a_document_that_is_gone_proves_nothing_after_a_day(pair: Pair) -> None:
    room, host = pair
    key = jwk.ECKey.generate_key("P-256")
    url = host.url("/client.json")
    host.publish("/client.json", _signing(url, key))
    await _consented(room, url)
    host.pages.clear()
    room.time.advance(3601)
    assert await room.auth.authenticate(authorizing.ACME, None, _assertion(room, url, key))
    room.time.advance(clients.STANDS_S)
    with pytest.raises(refusals.Refused) as error:
        await room.auth.authenticate(authorizing.ACME, None, _assertion(room, url, key))
    assert error.value.code == "invalid_client"


@pytest.mark.requirement("oauth:document:known-first", "attack:oauth:document-flood")
async def test_strangers_who_use_up_the_rate_or_the_places_keep_no_known_client_out(pair: Pair) -> None:
    room, host = pair
    url = host.publish("/client.json")
    await _consented(room, url)
    room.time.advance(3601)
    host.hold = asyncio.Event()
    waiting = [
        asyncio.create_task(room.clients.find(authorizing.ACME, host.url(f"/slow-{number}"), f"192.0.2.{number}"))
        for number in range(4)
    ]
    while len(host.asked) < 1 + 4:
        host.arrived.clear()
        await host.arrived.wait()
    with pytest.raises(errors.RateLimited):
        await room.clients.find(authorizing.ACME, host.url("/one-more"), "192.0.2.99")
    # Another tenant has places of its own, and a client that is known here has one, too.
    asked = [
        asyncio.create_task(room.clients.find(tenant, url, "192.0.2.100"))
        for tenant in (authorizing.UMBRA, authorizing.ACME)
    ]
    while len(host.asked) < 1 + 4 + 2:
        host.arrived.clear()
        await host.arrived.wait()
    host.hold.set()
    assert [one.id for one in await asyncio.gather(*asked)] == [url, url]
    await asyncio.gather(*waiting, return_exceptions=True)
    room.time.advance(3601)
    for number in range(60):
        with pytest.raises(clients.UnknownClient):
            await room.clients.find(authorizing.ACME, host.url(f"/{number}"), f"192.0.2.{number}")
    with pytest.raises(errors.RateLimited):
        await room.clients.find(authorizing.ACME, host.url("/one-more"), "192.0.2.99")
    assert (await room.clients.find(authorizing.ACME, url, "192.0.2.99")).id == url


@pytest.mark.requirement("oauth:document:renewed")
async def test_what_a_document_says_later_counts_from_the_next_consent_on(pair: Pair) -> None:
    room, host = pair
    url = host.publish("/client.json")
    first = await room.clients.adopt(await room.clients.find(authorizing.ACME, url), actor="user-1", request_id="req-1")
    there = f"https://{authorizing.APP}/new"
    host.publish("/client.json", authorizing.document(url, redirect_uris=[there], client_name="Renamed"))
    room.time.advance(4000)
    found = await room.clients.find(authorizing.ACME, url)
    assert (found.redirect_uris, found.name, found.adopted) == ((there,), "Renamed", first.adopted)
    assert (await room.clients.known(authorizing.ACME, url)).name == "Some App"
    await room.clients.adopt(found, actor="user-1", request_id="req-1")
    assert (await room.clients.known(authorizing.ACME, url)).name == "Renamed"


@pytest.mark.requirement("oauth:document:read")
def test_a_document_is_parsed_without_a_network() -> None:
    with pytest.raises(refusals.Refused):
        metadata_document.parse(ids.TenantId("acme"), "https://a.example/c", b" " * 20_000, 0.0)
