"""The token endpoint: codes, their challenge, replay and injection; clients that act for themselves."""

import asyncio
import base64
import json

import pytest

from smcp.access import policy
from smcp.app import tokens as composed
from smcp.identity.authn import base
from smcp.identity.oauth import clients, grants
from smcp.kernel import errors
from support import tokens
from support.tokens import ACME, BACK, PUBLIC, UMBRA, VERIFIER


def claims(token: str) -> dict[str, object]:
    """What a token says."""
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


@pytest.mark.requirement("oauth:tokens:claims")
async def test_an_access_token_says_what_rfc_9068_asks_for_and_no_role(room: tokens.Room) -> None:
    held = await room.log_in()
    said = claims(held.access)
    assert said | {"jti": "", "smcp_grant": ""} == {
        "iss": f"{PUBLIC}/t/acme",
        "sub": room.user.id,
        "aud": f"{PUBLIC}/t/acme/files/mcp",
        "client_id": room.client.id,
        "iat": int(room.time.now()),
        "exp": int(room.time.now()) + 3600,
        "jti": "",
        "scope": "mcp:read mcp:call",
        "smcp_grant": "",
    }
    assert held.body["token_type"] == "Bearer"
    assert held.body["expires_in"] == 3600
    assert held.body["scope"] == "mcp:read mcp:call"


@pytest.mark.requirement("oauth:tokens:principal")
async def test_a_token_is_its_person_narrowed_to_server_and_scopes(room: tokens.Room) -> None:
    held = await room.log_in()
    expected = policy.Principal(
        tenant=ACME,
        id=room.user.id,
        kind="user",
        roles=("mcp_user",),
        label="Ada",
        client=room.client.id,
        audience="files",
        scopes=frozenset({"mcp:read", "mcp:call"}),
    )
    assert await room.who(held.access) == expected
    assert await room.who(held.access) == expected
    assert await room.again().who(held.access) == expected


@pytest.mark.requirement("oauth:code:replay")
async def test_a_code_that_comes_twice_ends_what_the_first_one_got(room: tokens.Room) -> None:
    """OAuth 2.1, 4.1.3: somebody has a copy of the code and of its verifier."""
    code = await room.code()
    held = await room.ask(room.with_code(code))
    await room.who(held.access)
    refused = await room.refused(room.with_code(code))
    assert (refused.code, refused.detail) == ("invalid_grant", "replay")
    assert await room.why(held.access) == base.Reason.REVOKED
    assert (await room.refused(room.with_refresh(held.refresh))).code == "invalid_grant"


@pytest.mark.requirement("oauth:code:replay")
async def test_of_many_who_show_one_code_at_once_nobody_keeps_a_token(room: tokens.Room) -> None:
    code = await room.code()
    answers = await asyncio.gather(*(room.ask(room.with_code(code)) for _ in range(10)), return_exceptions=True)
    for one in answers:
        if not isinstance(one, BaseException):
            assert await room.why(one.access) == base.Reason.REVOKED
    assert await room.made.grants.of(ACME, room.user.id) == []


@pytest.mark.requirement("oauth:code:replay")
async def test_a_code_without_its_verifier_ends_nothing_also_when_it_was_used(room: tokens.Room) -> None:
    code = await room.code()
    held = await room.ask(room.with_code(code))
    assert (await room.refused(room.with_code(code, code_verifier="x" * 43))).detail == "verifier"
    assert (await room.who(held.access)).id == room.user.id


@pytest.mark.requirement("oauth:code:pkce")
@pytest.mark.parametrize(
    "verifier", ["", "x" * 43, tokens.challenge(VERIFIER), "v" * 42, VERIFIER + "v", "v" * 129, "é" * 43]
)
async def test_a_code_without_its_verifier_is_worth_nothing(room: tokens.Room, verifier: str) -> None:
    """CVE-2025-4144: no verifier; the challenge itself (the method `plain`); another session's (code injection)."""
    code = await room.code()
    refused = await room.refused(room.with_code(code, code_verifier=verifier))
    assert (refused.code, refused.detail) == ("invalid_grant", "verifier")
    assert (await room.ask(room.with_code(code))).access


@pytest.mark.requirement("oauth:code:pkce")
async def test_no_code_is_made_without_a_challenge(room: tokens.Room) -> None:
    for challenge in ("", "plain", VERIFIER + "x", "+" * 43):
        with pytest.raises(ValueError, match="challenge"):
            await room.code(challenge=challenge)


@pytest.mark.requirement("oauth:code:bound")
async def test_a_code_works_for_its_client_and_address_only(room: tokens.Room) -> None:
    """Code injection: a code of one client in another client's session."""
    code = await room.code()
    other = await room.public(ACME)
    assert (await room.refused(room.with_code(code, client_id=other.id))).detail == "client"
    for place in ("", BACK + "/", "https://evil.example/back"):
        assert (await room.refused(room.with_code(code, redirect_uri=place))).detail == "redirect_uri"
    foreign = await room.public(UMBRA)
    refused = await room.refused(room.with_code(code, client_id=foreign.id), tenant=UMBRA)
    assert (refused.code, refused.detail) == ("invalid_grant", "malformed")
    for wrong in (code[:-1] + ("0" if code[-1] != "0" else "1"), code.upper(), "x", "x" * 5000):
        assert (await room.refused(room.with_code(wrong))).code == "invalid_grant"
    assert (await room.ask(room.with_code(code))).access


@pytest.mark.requirement("oauth:code:life")
async def test_a_code_lives_for_a_minute(room: tokens.Room) -> None:
    code = await room.code()
    room.time.advance(60)
    assert (await room.refused(room.with_code(code))).detail == "expired"


@pytest.mark.requirement("oauth:code:stands")
async def test_a_code_is_worth_nothing_once_person_client_or_approval_is_gone(room: tokens.Room) -> None:
    code = await room.code()
    await room.made.grants.withdraw(ACME, room.user.id, room.client.id, actor=room.user.id, why="asked")
    assert (await room.refused(room.with_code(code))).detail == "ended"
    code = await room.code()
    await room.users.end_everything(ACME, room.user.id)
    assert (await room.refused(room.with_code(code))).detail == "user"
    await room.users.disable(ACME, room.user.id)
    assert (await room.refused(room.with_code(code))).detail == "user"
    await room.clients.revoke(ACME, room.client.id)
    assert (await room.refused(room.with_code(code))).code == "invalid_client"


@pytest.mark.requirement("oauth:code:stands")
async def test_an_approval_that_is_taken_back_while_a_code_is_exchanged_leaves_no_login(room: tokens.Room) -> None:
    for _ in range(20):
        code = await room.code()
        back = room.made.grants.withdraw(ACME, room.user.id, room.client.id, actor=room.user.id, why="asked")
        answers = await asyncio.gather(room.ask(room.with_code(code)), back, return_exceptions=True)
        assert await room.made.grants.of(ACME, room.user.id) == []
        if not isinstance(answers[0], BaseException):
            assert await room.why(answers[0].access) == base.Reason.REVOKED


@pytest.mark.requirement("oauth:grants:bounded")
async def test_a_login_that_ends_leaves_nothing_behind(room: tokens.Room) -> None:
    held = await room.log_in()
    assert await room.store.tenant(ACME).kv.scan(("oauth-family",))
    await room.made.grants.withdraw(ACME, room.user.id, room.client.id, actor=room.user.id, why="asked")
    assert (await room.refused(room.with_refresh(held.refresh))).code == "invalid_grant"
    for kind in ("oauth-family", "oauth-grant", "oauth-approval"):
        assert await room.store.tenant(ACME).kv.scan((kind,)) == []


@pytest.mark.requirement("oauth:code:resource")
async def test_a_token_is_for_what_was_allowed_and_nothing_else_can_be_named(room: tokens.Room) -> None:
    """RFC 8707; CVE-2025-69196: a token for one server is no token for another."""
    code = await room.code()
    for other in (
        f"{PUBLIC}/t/acme/mail/mcp",
        f"{PUBLIC}/api/v1",
        f"{PUBLIC}/t/umbra/files/mcp",
        "https://evil.example/",
    ):
        assert (await room.refused(room.with_code(code, resource=other))).code == "invalid_target"
    held = await room.ask(room.with_code(code, resource=f"{PUBLIC}/t/acme/files/mcp/"))
    assert (await room.who(held.access)).audience == "files"


@pytest.mark.requirement("oauth:token:form")
async def test_what_is_missing_or_not_registered_for_is_said(room: tokens.Room) -> None:
    assert (await room.refused({"client_id": room.client.id})).code == "invalid_request"
    for kind in ("password", "implicit", "authorization_code ", "urn:ietf:params:oauth:grant-type:jwt-bearer"):
        assert (await room.refused({"grant_type": kind, "client_id": room.client.id})).code == "unsupported_grant_type"
    assert (await room.refused(room.with_code(""))).code == "invalid_request"
    assert (await room.refused({"grant_type": "client_credentials", "client_id": room.client.id})).code == (
        "unauthorized_client"
    )
    assert (await room.refused(room.with_code("x", client_id="client-nobody"))).code == "invalid_client"


@pytest.mark.requirement("oauth:token:no-refresh")
async def test_a_client_that_did_not_register_for_refreshing_gets_no_refresh_token(room: tokens.Room) -> None:
    room.client = await room.public(ACME, grant_types=[clients.AUTHORIZATION_CODE])
    held = await room.log_in()
    assert not held.refresh
    assert "refresh_token" not in held.body


def basic(found: clients.Issued) -> str:
    """HTTP Basic of a client."""
    return "Basic " + base64.b64encode(f"{found.client.id}:{found.secret}".encode()).decode()


@pytest.mark.requirement("oauth:token:itself")
async def test_a_client_of_an_administrator_acts_for_itself_with_its_own_roles(room: tokens.Room) -> None:
    robot = await room.machine()
    form = {"grant_type": "client_credentials", "resource": f"{PUBLIC}/t/acme/mail/mcp", "scope": "mcp:read"}
    held = await room.ask(form, authorization=basic(robot))
    assert not held.refresh
    who = await room.who(held.access)
    assert (who.kind, who.id, who.roles, who.audience) == ("client", robot.client.id, ("mcp_user",), "mail")
    assert who.scopes == {"mcp:read"}
    wrong = clients.Issued(robot.client, robot.secret[:-1] + ("0" if robot.secret[-1] != "0" else "1"))
    assert (await room.refused(form, authorization=basic(wrong))).code == "invalid_client"
    assert (await room.refused({**form, "resource": ""}, authorization=basic(robot))).code == "invalid_target"
    await room.clients.revoke(ACME, robot.client.id)
    assert await room.why(held.access) == base.Reason.REVOKED


@pytest.mark.requirement("oauth:token:itself")
async def test_a_client_that_asks_for_no_scope_at_the_admin_api_may_read(room: tokens.Room) -> None:
    robot = await room.machine()
    form = {"grant_type": "client_credentials", "resource": f"{PUBLIC}/api/v1"}
    held = await room.ask(form, authorization=basic(robot))
    assert (await room.who(held.access)).scopes == {"api:read"}


@pytest.mark.requirement("oauth:token:bounded")
async def test_one_client_can_not_fill_its_tenants_store_with_tokens(
    room: tokens.Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants, "MOST_OWN", 3)
    robot = await room.machine()
    form = {"grant_type": "client_credentials", "resource": f"{PUBLIC}/t/acme/mail/mcp"}
    held = [await room.ask(form, authorization=basic(robot)) for _ in range(3)]
    with pytest.raises(errors.RateLimited):
        await room.ask(form, authorization=basic(robot))
    for one in held:
        assert (await room.who(one.access)).id == robot.client.id
    assert (await room.log_in()).access


@pytest.mark.requirement("oauth:token:bounded")
async def test_good_requests_for_tokens_count_for_who_they_are_of_and_nobody_else(room: tokens.Room) -> None:
    held = await room.log_in()
    for _ in range(composed.PER_MINUTE - 1):
        await room.ask(room.with_refresh(held.refresh))
    with pytest.raises(errors.RateLimited):
        await room.ask(room.with_refresh(held.refresh))
    room.user = await room.person(ACME, "bob@acme.example")
    assert (await room.log_in()).access
    room.time.advance(61)
    assert (await room.who(held.access)).kind == "user"


@pytest.mark.requirement("oauth:token:audited")
async def test_tokens_are_told_in_the_trail_without_a_secret(room: tokens.Room) -> None:
    held = await room.log_in()
    await room.ask(room.with_refresh(held.refresh))
    issued = [one for one in await room.told() if one["event"] == "token_issued"]
    assert [(one["how"], one["actor"], one["client"], one["server"]) for one in issued] == [
        ("authorization_code", room.user.id, room.client.id, "files"),
        ("refresh_token", room.user.id, room.client.id, "files"),
    ]
    assert any(one["event"] == "signing_key_rotated" for one in await room.told())


@pytest.mark.requirement("oauth:grants:bounded")
async def test_a_person_keeps_a_bounded_number_of_logins_and_the_newest_stay(room: tokens.Room) -> None:
    first = last = await room.log_in()
    for _ in range(grants.MOST):
        room.time.advance(1)
        last = await room.log_in()
    assert len(await room.made.grants.of(ACME, room.user.id)) == grants.MOST
    assert await room.why(first.access) == base.Reason.REVOKED
    assert (await room.who(last.access)).id == room.user.id


@pytest.mark.requirement("oauth:grants:bounded")
async def test_a_client_that_logs_in_without_end_ends_only_its_own_logins_attack_eviction(room: tokens.Room) -> None:
    """A web client that somebody once allowed gets codes without asking: it must not log them out everywhere else."""
    other = await room.public(ACME)
    form = room.with_code(await room.code(client=other.id, client_epoch=other.epoch), client_id=other.id)
    held = await room.ask(form)
    for _ in range(grants.MOST):
        room.time.advance(1)
        await room.log_in()
    assert len(await room.made.grants.of(ACME, room.user.id)) == grants.MOST
    assert (await room.who(held.access)).client == other.id
