"""A tenant's signing key is rotated: by whom, and what is told."""

import pytest

from unit.control import world as worlds

_PATH = f"/api/v1/tenants/{worlds.OWN}/signing-key/rotate"
_ADMIN = f"{worlds.OWN}/admin"


async def _rotated(world: worlds.World) -> list[tuple[str, tuple[str, ...]]]:
    told = [one for one in await world.trail(worlds.OWN) if one["event"] == "signing_key_rotated"]
    return [(one["actor"], tuple(one["ended"])) for one in told]


@pytest.mark.requirement("oauth:signing:command")
async def test_a_rotation_says_beforehand_what_it_would_end_and_is_told_in_the_trail(world: worlds.World) -> None:
    signing = world.parts.signing
    await signing.published(worlds.OWN)
    (first,) = await signing.held(worlds.OWN)
    await world.parts.trail.flush(worlds.OWN)
    for end_now, would in ((False, {"kept": [first], "ended": []}), (True, {"kept": [], "ended": [first]})):
        asked = await world.ok("POST", f"{_PATH}?dry_run=true", _ADMIN, json={"end_now": end_now})
        assert asked == {"applied": False, "key": None, **would}
    assert await signing.held(worlds.OWN) == (first,)
    second = await world.ok("POST", _PATH, _ADMIN, json={})
    assert second == {"applied": True, "key": second["key"], "kept": [first], "ended": []}
    third = await world.ok("POST", _PATH, _ADMIN, json={"end_now": True})
    assert (third["kept"], set(third["ended"])) == ([], {first, second["key"]})
    assert await signing.held(worlds.OWN) == (third["key"],)
    first_told, *by_hand = await _rotated(world)
    assert first_told == ("platform", ())
    assert [set(ended) for _, ended in by_hand] == [set(), {first, second["key"]}]
    assert all(actor.startswith("key-") for actor, _ in by_hand)


@pytest.mark.requirement("oauth:signing:command")
@pytest.mark.parametrize("who", [f"{worlds.OWN}/mcp_user", f"{worlds.OWN}/read_only", f"{worlds.OTHER}/admin"])
async def test_nobody_else_ends_a_tenants_tokens(world: worlds.World, who: str) -> None:
    await world.parts.signing.published(worlds.OWN)
    before = await world.parts.signing.held(worlds.OWN)
    assert (await world.send("POST", _PATH, who, json={"end_now": True})).status_code in (403, 404)
    assert await world.parts.signing.held(worlds.OWN) == before
