"""Refresh tokens: races that lose nothing, copies that end everything."""

import asyncio
import pathlib

import pytest

from smcp.identity.authn import base
from smcp.identity.oauth import issue, opaque
from support import tokens
from support.tokens import ACME


@pytest.mark.requirement("oauth:refresh:rotation")
async def test_each_use_gives_a_new_pair_and_the_new_one_goes_on(room: tokens.Room) -> None:
    first = await room.log_in()
    second = await room.ask(room.with_refresh(first.refresh))
    third = await room.ask(room.with_refresh(second.refresh))
    assert len({first.refresh, second.refresh, third.refresh}) == 3
    assert len({first.access, second.access, third.access}) == 3
    for one in (first, second, third):
        assert (await room.who(one.access)).id == room.user.id


@pytest.mark.requirement("oauth:refresh:race")
async def test_a_hundred_racing_refreshes_lose_no_login_with_tokens_of_five_seconds(tmp_path: pathlib.Path) -> None:
    """Quirk 10: many windows of one client refresh at once, and each keeps the answer that it got."""
    async with tokens.opened(tmp_path, tokens.SHORT) as room:
        first = await room.log_in()
        held: list[issue.Tokens] = [first] * 100
        for _ in range(3):
            room.time.advance(5)
            assert await room.why(held[0].access) == base.Reason.EXPIRED
            held = await asyncio.gather(*(room.ask(room.with_refresh(one.refresh)) for one in held))
            for one in held:
                assert (await room.who(one.access)).id == room.user.id
        # Whoever slept through the last rounds goes on as well, as long as the grace lasts.
        assert (await room.ask(room.with_refresh(first.refresh))).access
        assert len(await room.made.grants.of(ACME, room.user.id)) == 1


@pytest.mark.requirement("oauth:refresh:race")
async def test_whoever_comes_second_within_the_grace_gets_a_token_that_goes_on_behind_it(room: tokens.Room) -> None:
    first = await room.log_in()
    won = await room.ask(room.with_refresh(first.refresh))
    room.time.advance(59)
    lost = await room.ask(room.with_refresh(first.refresh))
    assert lost.refresh == won.refresh
    room.time.advance(3600)
    assert (await room.ask(room.with_refresh(lost.refresh))).access


@pytest.mark.requirement("oauth:refresh:reuse")
async def test_a_copy_that_is_used_after_the_grace_ends_the_family_and_its_access_tokens(room: tokens.Room) -> None:
    """RFC 9700, 4.14.2: who of the two is the thief can't be told."""
    first = await room.log_in()
    second = await room.ask(room.with_refresh(first.refresh))
    await room.who(second.access)
    room.time.advance(61)
    refused = await room.refused(room.with_refresh(first.refresh))
    assert (refused.code, refused.detail) == ("invalid_grant", "reuse")
    assert await room.why(second.access) == base.Reason.REVOKED
    assert (await room.refused(room.with_refresh(second.refresh))).code == "invalid_grant"
    ended = [one for one in await room.told() if one["event"] == "grant_revoked"]
    assert [one["why"] for one in ended] == ["reuse"]


@pytest.mark.requirement("oauth:refresh:reuse")
async def test_an_old_token_is_a_copy_however_many_came_after_it(room: tokens.Room) -> None:
    first = await room.log_in()
    held = first
    for _ in range(5):
        room.time.advance(30)
        held = await room.ask(room.with_refresh(held.refresh))
    assert (await room.refused(room.with_refresh(first.refresh))).detail == "reuse"
    assert (await room.refused(room.with_refresh(held.refresh))).code == "invalid_grant"


@pytest.mark.requirement("oauth:refresh:guess")
async def test_a_guess_at_a_known_family_is_unknown_and_ends_nothing(room: tokens.Room) -> None:
    first = await room.log_in()
    parsed = opaque.parse(opaque.REFRESH, first.refresh)
    assert parsed is not None
    for number in (0, 1, 2, 1000):
        guess = opaque.compose(opaque.REFRESH, ACME, parsed.id, opaque.new_secret(), number)
        assert (await room.refused(room.with_refresh(guess))).detail == "unknown"
    # The secret of the first generation is not that of another.
    wrong = opaque.compose(opaque.REFRESH, ACME, parsed.id, parsed.secret, 2)
    assert (await room.refused(room.with_refresh(wrong))).detail == "unknown"
    assert (await room.ask(room.with_refresh(first.refresh))).access


@pytest.mark.requirement("oauth:refresh:bound")
async def test_a_refresh_token_works_for_its_client_and_in_its_tenant_only(room: tokens.Room) -> None:
    first = await room.log_in()
    other = await room.public(ACME)
    refused = await room.refused(room.with_refresh(first.refresh, client_id=other.id))
    assert (refused.code, refused.detail) == ("invalid_grant", "client")
    foreign = await room.public(tokens.UMBRA)
    refused = await room.refused(room.with_refresh(first.refresh, client_id=foreign.id), tenant=tokens.UMBRA)
    assert refused.code == "invalid_grant"
    assert (await room.ask(room.with_refresh(first.refresh))).access


@pytest.mark.requirement("oauth:refresh:narrow")
async def test_scopes_can_be_narrowed_and_not_widened_and_the_resource_stays(room: tokens.Room) -> None:
    first = await room.log_in()
    narrow = await room.ask(room.with_refresh(first.refresh, scope="mcp:read"))
    assert (await room.who(narrow.access)).scopes == {"mcp:read"}
    assert (await room.refused(room.with_refresh(narrow.refresh, scope="api:admin"))).code == "invalid_scope"
    assert (await room.refused(room.with_refresh(narrow.refresh, scope="root"))).code == "invalid_scope"
    mail = f"{tokens.PUBLIC}/t/acme/mail/mcp"
    assert (await room.refused(room.with_refresh(narrow.refresh, resource=mail))).code == "invalid_target"
    same = f"{tokens.PUBLIC}/t/acme/files/mcp/"
    whole = await room.ask(room.with_refresh(narrow.refresh, resource=same))
    assert (await room.who(whole.access)).scopes == {"mcp:read", "mcp:call"}


@pytest.mark.requirement("oauth:refresh:idle")
async def test_a_refresh_token_that_nobody_uses_for_thirty_days_ends(room: tokens.Room) -> None:
    day = 86400.0
    assert room.lives.refresh_s == 30 * day
    held = await room.log_in()
    family = opaque.parse(opaque.REFRESH, held.refresh)
    assert family is not None
    entries = await room.store.tenant(ACME).kv.scan(("oauth-family",))
    assert entries[0].expires is not None
    assert abs(entries[0].expires - room.store.now() - 30 * day) < 60


@pytest.mark.requirement("oauth:refresh:secret")
async def test_nothing_that_is_stored_or_shown_is_a_token(room: tokens.Room) -> None:
    code = await room.code()
    held = await room.ask(room.with_code(code))
    kept = b"".join([entry.value async for entry in room.store.tenant(ACME).kv.snapshot()])
    secrets = [code, held.refresh, held.access]
    for kind, text in ((opaque.CODE, code), (opaque.REFRESH, held.refresh)):
        parsed = opaque.parse(kind, text)
        assert parsed is not None
        secrets.append(parsed.secret)
        assert parsed.secret not in repr(parsed)
    told = repr(await room.told())
    for secret in secrets:
        assert secret.encode() not in kept
        assert secret not in told
        assert secret not in repr(held)
