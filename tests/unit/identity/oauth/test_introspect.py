"""Introspection and revocation: who may ask about a token, what is told, and what ends."""

import base64
from collections.abc import Mapping
from typing import Any

import pytest

from smcp.identity.authn import base
from smcp.identity.oauth import clients, exchange, refusals
from support import tokens
from support.tokens import ACME, PUBLIC, UMBRA


def basic(found: clients.Issued) -> str:
    return "Basic " + base64.b64encode(f"{found.client.id}:{found.secret}".encode()).decode()


async def look(room: tokens.Room, token: str, by: clients.Issued, **more: Any) -> Mapping[str, Any]:
    request = exchange.Request(tenant=by.client.tenant, form={"token": token, **more}, authorization=basic(by))
    return await room.made.looking.introspect(request)


async def give_back(room: tokens.Room, token: str, client: str = "", tenant: Any = ACME) -> None:
    form = {"token": token, "client_id": client or room.client.id}
    await room.made.looking.revoke(exchange.Request(tenant=tenant, form=form))


@pytest.mark.requirement("oauth:introspect:active")
async def test_a_resource_server_is_told_what_a_token_is(room: tokens.Room) -> None:
    held, robot = await room.log_in(), await room.machine()
    told = await look(room, held.access, robot, token_type_hint="refresh_token")
    assert dict(told) | {"jti": ""} == {
        "active": True,
        "scope": "mcp:read mcp:call",
        "client_id": room.client.id,
        "token_type": "Bearer",
        "exp": int(room.time.now()) + 3600,
        "iat": int(room.time.now()),
        "sub": room.user.id,
        "aud": f"{PUBLIC}/t/acme/files/mcp",
        "iss": f"{PUBLIC}/t/acme",
        "jti": "",
    }
    refresh = await look(room, held.refresh, robot)
    assert (refresh["active"], refresh["client_id"]) == (True, room.client.id)
    key = tokens.Key()
    bound = await room.ask(room.with_code(await room.code()), proof=key.proof(room))
    told = await look(room, bound.access, robot)
    assert (told["token_type"], told["cnf"]) == ("DPoP", {"jkt": key.thumbprint})


@pytest.mark.requirement("oauth:introspect:inactive")
async def test_what_is_not_good_any_more_is_inactive_and_nothing_more(room: tokens.Room) -> None:
    held, robot = await room.log_in(), await room.machine()
    stranger = await room.machine(UMBRA)
    for token in ("x", "ey.a.b", "smcr_acme_x", held.access + "A", "smcp_acme_000"):
        assert await look(room, token, robot) == {"active": False}
    for token in (held.access, held.refresh):
        assert await look(room, token, stranger) == {"active": False}
    await room.users.disable(ACME, room.user.id)
    assert await look(room, held.access, robot) == {"active": False}


@pytest.mark.requirement("oauth:introspect:who")
async def test_only_who_proves_who_they_are_may_ask(room: tokens.Room) -> None:
    """RFC 7662, 4: nobody scans for tokens."""
    held, robot = await room.log_in(), await room.machine()
    request = exchange.Request(tenant=ACME, form={"token": held.access, "client_id": room.client.id})
    with pytest.raises(refusals.Refused, match="invalid_client"):
        await room.made.looking.introspect(request)
    with pytest.raises(refusals.Refused, match="invalid_client"):
        await look(room, held.access, clients.Issued(robot.client, "wrong"))
    with pytest.raises(refusals.Refused, match="invalid_request"):
        await room.made.looking.introspect(exchange.Request(tenant=ACME, form={}, authorization=basic(robot)))


@pytest.mark.requirement("oauth:revoke:grant")
@pytest.mark.parametrize("which", ["access", "refresh"])
async def test_a_token_that_is_given_back_ends_its_whole_login(room: tokens.Room, which: str) -> None:
    """RFC 7009, 2.1."""
    held, other = await room.log_in(), await room.log_in()
    await room.who(held.access)
    await give_back(room, getattr(held, which))
    assert await room.why(held.access) == base.Reason.REVOKED
    assert (await room.refused(room.with_refresh(held.refresh))).code == "invalid_grant"
    assert (await room.who(other.access)).id == room.user.id
    await give_back(room, getattr(held, which))  # again is fine (2.2)
    assert [one["event"] for one in await room.told()].count("token_revoked") == 1


@pytest.mark.requirement("oauth:revoke:grant")
async def test_a_refresh_token_that_was_used_before_ends_its_login_too_attack_logout_that_did_not(
    room: tokens.Room,
) -> None:
    """A client that never saw the answer to its refresh gives back what it has, and is told that it is out."""
    first = await room.log_in()
    held = await room.ask(room.with_refresh(first.refresh))
    room.time.advance(room.lives.grace_s + 1)
    robot = await room.machine()
    assert await look(room, first.refresh, robot) == {"active": False}
    await room.who(held.access)
    await give_back(room, first.refresh)
    assert await room.why(held.access) == base.Reason.REVOKED
    assert (await room.refused(room.with_refresh(held.refresh))).code == "invalid_grant"


@pytest.mark.requirement("oauth:revoke:own")
async def test_nobody_gives_back_another_clients_token(room: tokens.Room) -> None:
    held = await room.log_in()
    other, foreign = await room.public(ACME), await room.public(UMBRA)
    for token in (held.access, held.refresh):
        with pytest.raises(refusals.Refused, match="invalid_grant"):
            await give_back(room, token, other.id)
        await give_back(room, token, foreign.id, UMBRA)
    for token in ("x", "smcr_acme_x", "ey.a.b"):
        await give_back(room, token)
    assert (await room.who(held.access)).id == room.user.id
