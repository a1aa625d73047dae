"""Connecting a device: a code is typed, looked at twice and answered once."""

import re

import pytest

from smcp.identity.oauth import clients, device, refusals
from smcp.stores import records
from support import pages


async def begun(world: pages.World) -> tuple[clients.Client, device.Begun]:
    """A terminal that waits."""
    client = await world.client("Terminal")
    return client, await world.devices.begin(client, "notes", ("mcp:call",))


async def state(world: pages.World, client: clients.Client, code: str) -> str:
    """What the device hears."""
    try:
        return (await world.devices.poll(pages.ACME, code, client.id)).asked.user
    except refusals.Refused as error:
        return error.code


@pytest.mark.requirement("oauth:pages:device")
async def test_a_person_signs_in_looks_twice_and_connects_a_device(person: pages.Browser, world: pages.World) -> None:
    client, told = await begun(world)
    login = await person.get(f"/account/acme/device?user_code={told.user_code}")
    back = await person.send(login, email=pages.EMAIL, password=pages.PASSWORD)
    assert back.headers["location"] == f"/account/acme/device?user_code={told.user_code}"
    first = await person.get(back.headers["location"])
    assert f'value="{told.user_code}"' in first.text
    second = await person.send(first)
    for words in ("Terminal", told.user_code, "Did you start this yourself", f"{world.base}/t/acme/notes/mcp"):
        assert words in second.text
    # Where the answers of a client go that registered itself is nobody's proved name.
    assert "127.0.0.1" not in second.text
    assert await state(world, client, told.device_code) == "authorization_pending"
    assert "Connected" in (await person.send(second, answer="allow")).text
    assert await state(world, client, told.device_code) == world.ada.id
    assert await world.grants.allowed(pages.ACME, world.ada.id, client.id, "notes") == {"mcp:call"}
    assert len(await world.told("ConsentGiven")) == 1
    assert (await world.clients.known(pages.ACME, client.id)).adopted is not None
    assert (await person.send(second, answer="allow")).status_code == 400


@pytest.mark.requirement("oauth:pages:device")
async def test_a_client_that_is_a_document_can_not_hide_its_host_attack_impersonation(
    person: pages.Browser, world: pages.World
) -> None:
    """It is warned of nobody, so that its host is all there is to look at; a loopback address hides nothing."""
    made = clients.Client(
        id="https://evil.example/client.json",
        tenant=pages.ACME,
        kind=clients.Kind.METADATA,
        name="SMCP command line",
        host="evil.example",
        redirect_uris=("http://127.0.0.1/callback",),
        grant_types=(clients.DEVICE_CODE,),
        verified=True,
        adopted=1.0,
    )
    await records.Records(world.store, clients.Client, ("oauth-client",)).create(
        pages.ACME, (clients.ref(made.id),), made
    )
    told = await world.devices.begin(made, "notes", ("mcp:call",))
    await person.sign_in()
    page = await person.send(await person.get("/account/acme/device"), code=told.user_code)
    assert "<bdi>evil.example</bdi>" in page.text


@pytest.mark.requirement("oauth:pages:device")
async def test_a_person_says_no(person: pages.Browser, world: pages.World) -> None:
    client, told = await begun(world)
    await person.sign_in()
    page = await person.send(await person.get("/account/acme/device"), code=told.user_code.lower().replace("-", " "))
    assert "Not connected" in (await person.send(page, answer="deny")).text
    assert await state(world, client, told.device_code) == "access_denied"
    assert not await world.grants.approvals(pages.ACME, world.ada.id)


@pytest.mark.requirement("oauth:pages:device")
async def test_a_code_that_nobody_waits_with_is_told_and_guesses_are_few_attack_user_code_guessing(
    person: pages.Browser, world: pages.World
) -> None:
    await person.sign_in()
    page = await person.get("/account/acme/device")
    answers = [await person.send(page, code=f"BCDF-GHJ{letter}") for letter in "BCDFGHJKLMNP"]
    assert answers[0].status_code == 400
    assert re.search(r'role="alert"', answers[0].text)
    assert answers[-1].status_code == 429
    told = await world.told("TokenRefused")
    assert [one.detail for one in told] == ["user_code"] * [one.status_code for one in answers].count(400)
    assert {one.actor for one in told} == {world.ada.id}


@pytest.mark.requirement("oauth:pages:device")
async def test_an_answer_is_for_the_session_that_saw_the_page_attack_remote_phishing(
    person: pages.Browser, world: pages.World
) -> None:
    client, told = await begun(world)
    async with pages.browser(world) as attacker:
        await world.person("eve@example.org", "Eve")
        await attacker.sign_in("eve@example.org")
        page = await attacker.send(await attacker.get("/account/acme/device"), code=told.user_code)
    await person.sign_in()
    assert (await person.send(page, answer="allow")).status_code == 403
    own = await person.send(await person.get("/account/acme/device"), code=told.user_code)
    token = pages.Forms(own.text).forms[0][1]["form_token"]
    assert (await person.send(page, answer="allow", form_token=token)).status_code == 400
    assert await state(world, client, told.device_code) == "authorization_pending"
