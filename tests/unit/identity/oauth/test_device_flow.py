"""The device flow: what a device hears while a person decides, and what a code is worth."""

import asyncio
from typing import Any

import pytest

from smcp.identity.authn import base
from smcp.identity.oauth import clients, device, exchange, refusals
from smcp.kernel import errors
from support import tokens
from support.tokens import ACME, PUBLIC, UMBRA

FILES = f"{PUBLIC}/t/acme/files/mcp"


async def begin(room: tokens.Room, **more: str) -> device.Begun:
    form = {"client_id": room.client.id, "resource": FILES, "scope": "mcp:read", **more}
    return await room.made.exchange.begin_device(exchange.Request(tenant=ACME, form=form))


def polling(room: tokens.Room, begun: device.Begun, **changes: str) -> dict[str, str]:
    return {
        "grant_type": clients.DEVICE_CODE,
        "client_id": room.client.id,
        "device_code": begun.device_code,
        **changes,
    }


async def allow(room: tokens.Room, begun: device.Begun) -> bool:
    """As the page does when somebody has typed the code and said yes."""
    found = await room.made.devices.find(ACME, begun.user_code, room.user.id)
    asked = found.asked
    await room.made.grants.approve(ACME, room.user.id, asked.client, asked.server, asked.scopes)
    return await room.made.devices.allow(ACME, found.id, room.user.id, room.user.epoch)


@pytest.mark.requirement("oauth:device:flow")
async def test_a_device_waits_and_gets_its_tokens_once_somebody_has_said_yes(room: tokens.Room) -> None:
    begun = await begin(room)
    assert (begun.expires_in, begun.interval) == (600, 5)
    assert (await room.refused(polling(room, begun))).code == "authorization_pending"
    assert await allow(room, begun)
    held = await room.ask(polling(room, begun))
    who = await room.who(held.access)
    assert (who.id, who.audience, who.scopes) == (room.user.id, "files", {"mcp:read"})
    assert (await room.ask(room.with_refresh(held.refresh))).access


@pytest.mark.requirement("oauth:device:scopes")
async def test_a_device_that_asks_for_no_scope_does_not_get_every_scope(room: tokens.Room) -> None:
    """Over-broad defaults: at the admin API it is the right to read."""
    api = await begin(room, resource=f"{PUBLIC}/api/v1", scope="")
    assert (await room.made.devices.find(ACME, api.user_code, room.user.id)).asked.scopes == ("api:read",)
    files = await begin(room, scope="")
    asked = (await room.made.devices.find(ACME, files.user_code, room.user.id)).asked
    assert set(asked.scopes) == {"mcp:read", "mcp:call"}
    with pytest.raises(refusals.Refused, match="invalid_scope"):
        await begin(room, scope="root")


@pytest.mark.requirement("oauth:device:pace")
async def test_a_hasty_device_is_told_to_slow_down_and_a_patient_one_is_not(room: tokens.Room) -> None:
    begun = await begin(room)
    assert (await room.refused(polling(room, begun))).code == "authorization_pending"
    room.time.advance(1)
    assert (await room.refused(polling(room, begun))).code == "slow_down"
    room.time.advance(5)
    assert (await room.refused(polling(room, begun))).code == "slow_down"
    room.time.advance(15)
    assert (await room.refused(polling(room, begun))).code == "authorization_pending"


@pytest.mark.requirement("oauth:device:end")
async def test_a_no_and_too_late_are_told_apart(room: tokens.Room) -> None:
    begun = await begin(room)
    found = await room.made.devices.find(ACME, begun.user_code, room.user.id)
    assert await room.made.devices.deny(ACME, found.id)
    assert (await room.refused(polling(room, begun))).code == "access_denied"
    assert not await room.made.devices.allow(ACME, found.id, room.user.id, 0)
    late = await begin(room)
    found = await room.made.devices.find(ACME, late.user_code, room.user.id)
    room.time.advance(600)
    assert (await room.refused(polling(room, late))).code == "expired_token"
    assert not await room.made.devices.allow(ACME, found.id, room.user.id, 0)


@pytest.mark.requirement("oauth:device:once")
async def test_a_device_code_works_once_and_its_copy_ends_what_it_got(room: tokens.Room) -> None:
    begun = await begin(room)
    await allow(room, begun)
    held = await room.ask(polling(room, begun))
    assert (await room.refused(polling(room, begun))).code == "invalid_grant"
    assert await room.why(held.access) == base.Reason.REVOKED
    again = await begin(room)
    await allow(room, again)
    answers: list[Any] = await asyncio.gather(
        *(room.ask(polling(room, again)) for _ in range(8)), return_exceptions=True
    )
    assert sum(not isinstance(one, BaseException) for one in answers) <= 1
    assert all(isinstance(one, refusals.Refused) for one in answers if isinstance(one, BaseException))


@pytest.mark.requirement("oauth:device:bound")
async def test_a_device_code_is_its_clients_and_its_tenants(room: tokens.Room) -> None:
    begun = await begin(room)
    await allow(room, begun)
    other = await room.public(ACME)
    # One that the same person lets do the same: else it would be refused for that alone.
    await room.made.grants.approve(ACME, room.user.id, other.id, "files", ("mcp:call", "mcp:read"))
    refused = await room.refused(polling(room, begun, client_id=other.id))
    assert (refused.code, refused.detail) == ("invalid_grant", "client")
    foreign = await room.public(UMBRA)
    assert (await room.refused(polling(room, begun, client_id=foreign.id), tenant=UMBRA)).code == "invalid_grant"
    assert (await room.refused(polling(room, begun, device_code="smcv_acme_0"))).code == "invalid_grant"
    room.client = await room.public(ACME, grant_types=[clients.AUTHORIZATION_CODE])
    with pytest.raises(refusals.Refused, match="unauthorized_client"):
        await begin(room)


@pytest.mark.requirement("oauth:device:user-code")
async def test_a_typed_code_is_found_however_it_is_written(room: tokens.Room) -> None:
    begun = await begin(room)
    plain = begun.user_code.replace("-", "")
    assert len(plain) == 8
    for typed in (begun.user_code, plain, plain.lower(), f" {plain[:4]} {plain[4:]} ", ".".join(plain)):
        assert (await room.made.devices.find(ACME, typed, room.user.id)).asked.client == room.client.id
    for typed in ("", plain[:7], plain + "B", "x" * 5000):
        with pytest.raises(errors.NotFound):
            await room.made.devices.find(ACME, typed, "user-another")
    kept = b"".join([entry.value async for entry in room.store.tenant(ACME).kv.snapshot()])
    assert plain.encode() not in kept


@pytest.mark.requirement("oauth:device:guesses")
async def test_nobody_tries_more_than_ten_codes_a_minute(room: tokens.Room) -> None:
    """RFC 8628, 5.1."""
    begun = await begin(room)
    for _ in range(10):
        with pytest.raises(errors.NotFound):
            await room.made.devices.find(ACME, "BBBB-BBBB", room.user.id)
    with pytest.raises(errors.RateLimited):
        await room.made.devices.find(ACME, begun.user_code, room.user.id)
    assert (await room.made.devices.find(ACME, begun.user_code, "user-another")).asked.client == room.client.id
    room.time.advance(60)
    assert (await room.made.devices.find(ACME, begun.user_code, room.user.id)).asked.client == room.client.id
