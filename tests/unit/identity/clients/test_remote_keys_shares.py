"""Keys behind `jwks_uri`: for whom they are read, how often, how many are kept, and what may name them."""

import asyncio
from typing import Any

import pytest
from joserfc import jwk

from smcp.app import documents
from smcp.identity.oauth import clients, remote_keys
from support import authorizing
from support.authorizing import UMBRA, Pair
from support.signers import ACME, ADDRESS, NEW, OLD, PATH, Three, asked, key_set, known, limited, proves, stranger


@pytest.mark.requirement("oauth:keys:kept")
async def test_many_who_come_at_once_are_one_request_also_with_a_new_key(three: Three) -> None:
    room, host, client = three

    async def all_of(key: jwk.ECKey, kid: str) -> list[str]:
        host.hold, host.arrived = asyncio.Event(), asyncio.Event()
        coming = [asyncio.create_task(proves(room, client, key, kid)) for _ in range(50)]
        await host.arrived.wait()
        host.hold.set()
        return await asyncio.gather(*coming)

    assert await all_of(OLD, "old") == ["yes"] * 50
    assert asked(host) == 1
    host.publish(PATH, key_set((NEW, "new")))
    room.time.advance(61)
    assert await all_of(NEW, "new") == ["yes"] * 50
    assert asked(host) == 2


@pytest.mark.requirement("oauth:keys:kept")
async def test_what_one_tenant_has_read_is_not_anothers(three: Three) -> None:
    room, host, client = three
    other = await known(room, host.url(PATH), UMBRA)
    assert [await proves(room, one, OLD, "old") for one in (client, other, client, other)] == ["yes"] * 4
    assert asked(host) == 2


@pytest.mark.requirement("oauth:keys:kept", "oauth:keys:strangers")
async def test_a_bounded_number_of_sets_is_kept_and_strangers_push_out_no_known_one(
    three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, host, client = three
    monkeypatch.setattr(remote_keys, "_REMEMBERED", 2)
    assert await proves(room, client, OLD, "old") == "yes"
    for number in range(4):
        uri = host.publish(f"/s{number}", key_set((OLD, "old")))
        assert await proves(room, await stranger(room, uri), OLD, "old") == "yes"
    assert await proves(room, client, OLD, "old") == "yes"
    assert asked(host) == 1
    for number in range(2):
        uri = host.publish(f"/k{number}", key_set((OLD, "old")))
        assert await proves(room, await known(room, uri), OLD, "old") == "yes"
    assert await proves(room, client, OLD, "old") == "yes"
    assert asked(host) == 2


@pytest.mark.requirement("oauth:keys:strangers", "attack:oauth:document-flood")
async def test_strangers_have_keys_and_documents_read_from_one_rate_and_known_clients_are_not_concerned(
    three: Three,
) -> None:
    room, host, client = three
    strangers = [await stranger(room, host.url(f"/s{number}")) for number in range(12)]
    # Six documents, then keys: ten together, for an address.
    for number in range(6):
        with pytest.raises(clients.UnknownClient):
            await room.clients.find(ACME, host.url(f"/d{number}"), ADDRESS)
    assert [await limited(room, one) for one in strangers[:6]] == [False] * 4 + [True] * 2
    assert len(host.asked) == 10
    # Another address has its own, and the known client, whose keys nobody has read so far, needs none.
    assert not await limited(room, strangers[6], address="192.0.2.2")
    assert await proves(room, client, OLD, "old") == "yes"
    # Sixty of a tenant; the last quarter is for addresses that had nothing.
    for number in range(60):
        await limited(room, await stranger(room, host.url(f"/t{number}")), address=f"198.51.100.{number}")
    assert len(host.asked) == 61
    late = await known(room, host.publish("/late", key_set((OLD, "old"))))
    assert await proves(room, late, OLD, "old") == "yes"


@pytest.mark.requirement("oauth:keys:strangers", "attack:oauth:kid-flood")
async def test_who_names_a_key_that_is_not_there_pays_for_the_look(three: Three) -> None:
    room, host, client = three
    every = [client, *[await known(room, host.publish(f"/k{number}", key_set((OLD, "old")))) for number in range(11)]]
    assert [await proves(room, one, OLD, "old") for one in every] == ["yes"] * 12
    room.time.advance(61)
    assert [await limited(room, one, "other") for one in every] == [False] * 10 + [True] * 2
    assert len(host.asked) == 12 + 10
    # Nothing of it is the client's, nor anybody's who comes from elsewhere.
    assert [await proves(room, one, OLD, "old") for one in every] == ["yes"] * 12
    assert not await limited(room, every[-1], "other", "192.0.2.2")


@pytest.mark.requirement("oauth:keys:strangers")
async def test_known_clients_of_one_tenant_have_so_many_sets_read_a_minute(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, host = pair
    every = [await known(room, host.url(f"/{number}")) for number in range(50)]
    made = authorizing.metadata(token_endpoint_auth_method="private_key_jwt", jwks_uri=host.url("/own"))
    own = await room.clients.create(ACME, made, grant_types=("client_credentials",), roles=("mcp_user",))
    monkeypatch.setattr(remote_keys, "_REMEMBERED", 0)  # each signature has its set read
    some = [await limited(room, every[number % 50]) for number in range(documents.KNOWN_PER_MINUTE + 3)]
    assert some == [False] * documents.KNOWN_PER_MINUTE + [True] * 3
    # Not an administrator's, nor another tenant's.
    assert not await limited(room, own.client)
    assert not await limited(room, await known(room, host.url("/other"), UMBRA))
    room.time.advance(61)
    assert not await limited(room, every[0])


@pytest.mark.requirement("oauth:keys:strangers", "attack:oauth:document-flood")
async def test_a_client_that_says_another_address_each_time_has_few_of_them_read(pair: Pair) -> None:
    room, host = pair
    client = await known(room, host.url("/0"))
    some: list[bool] = []
    for number in range(10):
        said = authorizing.metadata(token_endpoint_auth_method="private_key_jwt", jwks_uri=host.url(f"/{number}"))
        client = (await room.clients.amend(client, said)).client
        some.append(await limited(room, client))
    assert some == [False] * documents.OWN_PER_MINUTE + [True] * (10 - documents.OWN_PER_MINUTE)
    assert len(host.asked) == documents.OWN_PER_MINUTE


@pytest.mark.requirement("oauth:keys:strangers")
async def test_slow_hosts_of_a_tenants_known_clients_leave_room_for_other_tenants(pair: Pair) -> None:
    room, host = pair
    host.hold = asyncio.Event()
    slow = [await known(room, host.url(f"/{number}")) for number in range(13)]
    other = await known(room, host.publish(PATH, key_set((OLD, "old"))), UMBRA)
    coming = [asyncio.create_task(proves(room, one, OLD, "old")) for one in slow[:12]]
    while len(host.asked) < 12:
        host.arrived.clear()
        await host.arrived.wait()
    assert await limited(room, slow[12])
    theirs = asyncio.create_task(proves(room, other, OLD, "old"))
    while asked(host) < 1:
        host.arrived.clear()
        await host.arrived.wait()
    host.hold.set()
    assert await theirs == "yes"
    assert await asyncio.gather(*coming) == ["keys"] * 12


# --- documents and registrations that name an address ---


def _document(host: authorizing.Host, path: str, uri: str) -> str:
    url = host.url(path)
    said = authorizing.document(url, token_endpoint_auth_method="private_key_jwt", jwks_uri=uri)
    return host.publish(path, said)


@pytest.mark.requirement("oauth:keys:document")
async def test_a_document_names_keys_at_its_own_origin(pair: Pair) -> None:
    room, host = pair
    url = _document(host, "/client.json", host.publish(PATH, key_set((OLD, "old"))))
    found = await room.clients.find(ACME, url, ADDRESS)
    assert (found.keys, asked(host)) == (("", host.url(PATH)), 0)
    # Before anybody has consented nothing is read for it, whoever signs.
    assert await proves(room, found, OLD, "old") == "unknown"
    assert asked(host) == 0
    client = await room.clients.adopt(found, actor="user-1", request_id="req-1")
    assert await proves(room, client, OLD, "old") == "yes"
    host.publish(PATH, key_set((NEW, "new")))
    room.time.advance(61)
    assert await proves(room, client, NEW, "new") == "yes"
    assert await proves(room, client, OLD, "old") == "signature"


@pytest.mark.requirement("oauth:keys:document", "attack:oauth:keys-of-another")
async def test_keys_of_another_origin_are_no_documents(pair: Pair) -> None:
    room, host = pair
    for uri in (
        host.url(PATH, authorizing.OTHER),
        f"https://{authorizing.APP}:{host.port + 1 if host.port < 65535 else 1024}{PATH}",
        f"https://{authorizing.APP}{PATH}",
        f"https://{authorizing.APP}.evil.example:{host.port}{PATH}",
        "https://169.254.169.254/keys",
    ):
        url = _document(host, "/client.json", uri)
        with pytest.raises(clients.UnknownClient) as error:
            await room.clients.find(ACME, url, ADDRESS)
        assert "jwks_uri is of another host" in error.value.description
        room.time.advance(61)


@pytest.mark.requirement("oauth:keys:proof", "oauth:client:amended")
async def test_keys_in_another_place_are_another_proof_and_end_what_was_issued(pair: Pair) -> None:
    room, host = pair
    uri, there = host.publish(PATH, key_set((OLD, "old"))), host.publish("/there", key_set((NEW, "new")))
    registered = await known(room, uri)
    documented = await room.clients.find(ACME, _document(host, "/client.json", uri), ADDRESS)
    documented = await room.clients.adopt(documented, actor="user-1", request_id="req-1")
    said: dict[str, Any] = {"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": there}
    await room.clients.amend(registered, authorizing.metadata(**said))
    _document(host, "/client.json", there)
    room.time.advance(3601)
    for client in (registered, documented):
        assert await proves(room, client, OLD, "old") == "signature"
        assert await proves(room, client, NEW, "new") == "yes"
        assert (await room.clients.known(ACME, client.id)).epoch == client.epoch + 1
    same = await room.clients.known(ACME, registered.id)
    await room.clients.amend(same, authorizing.metadata(client_name="Renamed", **said))
    assert (await room.clients.known(ACME, registered.id)).epoch == same.epoch
