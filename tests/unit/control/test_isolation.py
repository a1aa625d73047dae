"""Tenant B cannot name, list, call or read anything of tenant A, whatever it sends."""

import asyncio
import pathlib
from collections.abc import Mapping
from typing import Any, Final

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smcp.access import roles
from smcp.control import endpoint
from smcp.identity.authn import key_text
from smcp.kernel import ids
from support import words
from unit.control import paths
from unit.control import world as worlds

_VOLATILE: Final = frozenset({"smcp-request-id", "date", "ratelimit"})
# Secrets can be set before their server exists, and a namespace without keys is one, so naming none is no error there.
_NAMED: Final = tuple(
    one
    for one in paths.TENANTS
    if len(one.parameters) > 1
    and one.method != "PUT"
    and (one.method != "GET" or not one.path.endswith(("/secrets", "/{namespace}", "/{bucket}")))
)


def _seen(answer: httpx2.Response) -> tuple[int, Any, dict[str, str]]:
    """All that a caller sees, without what is new in every answer."""
    request_id = answer.headers["smcp-request-id"]
    headers = {name: value for name, value in answer.headers.items() if name not in _VOLATILE}
    return answer.status_code, answer.content.replace(request_id.encode(), b"-"), headers


_names = st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,2}", fullmatch=True)
_buckets = st.from_regex(r"[a-z0-9][a-z0-9-]{1,20}[a-z0-9]", fullmatch=True)
_secrets = st.from_regex(r"[A-Z_a-z][A-Za-z0-9_]{0,20}", fullmatch=True)
_ids = st.from_regex(r"[a-z]{2,3}-[0-9a-hjkmnp-tv-z]{12,26}", fullmatch=True)


_absent = st.fixed_dictionaries(
    {
        "tenant": _names,
        "server": _names,
        "operation": _ids,
        "client": st.from_regex(r"(client|document)-[0-9a-z]{1,40}", fullmatch=True),
        "key": _ids,
        "user": _ids,
        "invitation": _ids,
        "secret": _secrets,
        "namespace": _names,
        "item": _names,
        "bucket": _buckets,
        "object": _names,
    }
)


@pytest.mark.requirement("control:isolation:foreign-is-absent")
def test_what_belongs_to_another_tenant_answers_exactly_as_what_does_not_exist(tmp_path: pathlib.Path) -> None:
    with asyncio.Runner() as runner:
        opening = worlds.opened(tmp_path)
        world = runner.run(opening.__aenter__())
        foreign = {
            "tenant": worlds.OWN,
            "server": "time",
            "operation": world.operation,
            "client": runner.run(world.fresh_client(worlds.OWN)),
            "key": runner.run(world.fresh_key(worlds.OWN)),
            "secret": worlds.SECRET,
            **runner.run(world.fresh_people(worlds.OWN)),
        }

        @given(
            one=st.sampled_from(paths.TENANTS),
            absent=_absent,
            role=st.sampled_from(worlds.ROLES),
            query=st.sampled_from(({}, {"limit": "3"}, {"after": "1"})),
        )
        @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        def check(one: endpoint.Endpoint, absent: dict[str, str], role: str, query: Mapping[str, str]) -> None:
            who = f"{worlds.OTHER}/{role}"
            if absent["tenant"] in (worlds.OWN, worlds.OTHER) or absent["tenant"] in (
                "t",
                "api",
                "www",
                "admin",
                "smcp",
            ):
                absent = absent | {"tenant": "nobody"}
            sent = paths.options(one) | {"params": dict(query)}
            answers = [
                runner.run(world.send(one.method, paths.filled(one, parts), who, **sent))
                for parts in (
                    foreign,
                    absent,
                    {**foreign, "tenant": absent["tenant"]},
                    {**absent, "tenant": worlds.OWN},
                )
            ]
            assert len({str(_seen(answer)) for answer in answers}) == 1
            assert answers[0].status_code in (400, 404)

        try:
            check()
        finally:
            runner.run(opening.__aexit__(None, None, None))


@pytest.mark.requirement("control:isolation:foreign-is-absent")
@pytest.mark.parametrize("one", _NAMED, ids=paths.name)
async def test_an_id_of_another_tenant_names_nothing_in_ones_own(one: endpoint.Endpoint, world: worlds.World) -> None:
    await world.publish(worlds.OWN, "secret-server")
    foreign = {
        "tenant": worlds.OTHER,
        "server": "secret-server",
        "operation": world.operation,
        "client": await world.fresh_client(worlds.OWN),
        "key": await world.fresh_key(worlds.OWN),
        "secret": "FOREIGN",
        "namespace": "theirs",
        "item": "k",
        "bucket": "theirs",
        "object": "k",
        **await world.fresh_people(worlds.OWN),
        "role": "theirs",
    }
    await world.parts.roles.set(worlds.OWN, roles.Custom(name="theirs", actions=("mcp:list",)))
    await world.store_object(worlds.OWN, "theirs", "k")
    await world.parts.namespaces.put(worlds.OWN, "theirs", "k", b"its value")
    await world.parts.secrets.set(worlds.OWN, ids.ServerName("secret-server"), "FOREIGN", b"its value", by="key-1")
    absent = {
        "tenant": worlds.OTHER,
        "server": "nothing",
        "operation": ids.new("op"),
        "key": "key-000000000000",
        "secret": "FOREIGN",
        "namespace": "theirs",
        "item": "nothing",
        "bucket": "theirs",
        "object": "nothing",
        "role": "nothing",
    }
    who = f"{worlds.OTHER}/admin"
    seen = [
        _seen(await world.send(one.method, paths.filled(one, parts), who, **paths.options(one)))
        for parts in (foreign, absent)
    ]
    assert seen[0][0] == 404
    assert str(seen[0]).replace("secret-server", "nothing") == str(seen[1]), one.path


@pytest.mark.requirement("control:isolation:lists")
async def test_no_list_holds_another_tenants_things_whatever_the_cursor(world: worlds.World) -> None:
    who = f"{worlds.OTHER}/admin"
    await world.publish(worlds.OWN, "aaa-first")
    listing = await world.ok("GET", f"/api/v1/tenants/{worlds.OWN}/audit", f"{worlds.OWN}/admin", params={"limit": 1})
    cursors = [
        "",
        "aaa",
        "time",
        "0",
        str(listing["next"]),
        world.operation,
        worlds.OWN,
        await world.fresh_key(worlds.OWN),
        await world.fresh_client(worlds.OWN),
    ]
    parts = {"tenant": worlds.OTHER, "server": "time", **await world.fresh_people(ids.TenantId(worlds.OTHER))}
    for one in paths.TENANTS:
        if one.query is endpoint.Nothing or one.method != "GET" or "operation" in one.parameters:
            continue
        for cursor in cursors:
            path = paths.filled(one, parts)
            answer = await world.send("GET", path, who, params={"after": cursor})
            assert answer.status_code in (200, 400)
            assert not words.stands(worlds.OWN, answer.text)


@pytest.mark.requirement("control:isolation:crafted-keys")
async def test_a_key_made_of_parts_of_two_tenants_is_refused(world: worlds.World) -> None:
    own = key_text.parse(world.keys[f"{worlds.OWN}/admin"])
    other = key_text.parse(world.keys[f"{worlds.OTHER}/admin"])
    assert own is not None
    assert other is not None
    crafted = {
        key_text.compose(tenant, key_id, secret)
        for tenant in (own.tenant, other.tenant, ids.PLATFORM, ids.TenantId("nobody"))
        for key_id in (own.id, other.id, key_text.new_id())
        for secret in (own.secret, other.secret)
    } - set(world.keys.values())
    bodies: set[bytes] = set()
    for text in sorted(crafted):
        answer = await world.client.get("/api/v1/whoami", headers={"Authorization": f"Bearer {text}"})
        assert answer.status_code == 401
        bodies.add(answer.content.replace(answer.headers["smcp-request-id"].encode(), b"-"))
    assert len(bodies) == 1


@pytest.mark.requirement("control:isolation:no-escalation")
async def test_a_tenants_admin_makes_no_operator_and_no_key_elsewhere(world: worlds.World) -> None:
    who = f"{worlds.OWN}/admin"
    for tenant, role, status in (
        (worlds.OWN, "operator", 403),
        (ids.PLATFORM, "operator", 404),
        (worlds.OTHER, "admin", 404),
        (worlds.OWN, "admin", 201),
    ):
        answer = await world.send("POST", f"/api/v1/tenants/{tenant}/keys", who, json={"roles": [role]})
        assert answer.status_code == status, answer.text
    for role in ("admin", "mcp_user", "read_only"):
        answer = await world.send("POST", "/api/v1/tenants/platform/keys", "operator", json={"roles": [role]})
        assert answer.status_code == 403
