"""Quirks 2, 4, 5, 12 and 14: sessions nobody ends, streams opened anew, GET without one, Accept, progress."""

from collections.abc import Callable

import pytest

from support import wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

Make = Callable[[Endpoint], wire.Caller]
_SESSIONS = 6
"""The cap of a principal's sessions in these tests."""


@pytest.mark.requirement("quirk:02:no-delete")
async def test_a_client_that_never_ends_its_sessions_keeps_a_bounded_number_of_copies(gate: Gate, caller: Make) -> None:
    key = gate.platform.create_key("acme")
    one = caller(Endpoint(gate.acme.url, key))
    before = wire.vitals(gate.platform)
    sessions = [await one.open() for _ in range(3 * _SESSIONS)]
    wanted = before._replace(
        sessions=before.sessions + _SESSIONS,
        instances=before.instances + _SESSIONS,
        children=before.children + 4 * _SESSIONS,
    )
    after = await wire.settled(gate.platform, wanted)
    assert after.sessions <= before.sessions + _SESSIONS
    assert after.instances <= before.instances + _SESSIONS
    # The newest live, and who comes back with an old one learns that it is over, and begins anew.
    assert (await one.legacy(sessions[-1], "tools/list")).status_code == 200
    assert (await one.legacy(sessions[0], "tools/list")).status_code == 404
    again = await one.legacy(sessions[0], "initialize", wire.hello())
    assert again.status_code == 200
    assert again.headers["mcp-session-id"] not in sessions
    await one.end(again.headers["mcp-session-id"])


@pytest.mark.requirement("quirk:04:reconnect")
async def test_a_client_that_reconnects_before_its_old_stream_is_gone_gets_the_new_one(acme: wire.Caller) -> None:
    session = await acme.open()
    async with acme.listening(session) as old, acme.listening(session) as new:
        # No 409: the old one ends, and what comes goes to the new one.
        await old.end()
        await acme.act("notice", session, n=4)
        assert (await new.message())["params"] == {"n": 4}


@pytest.mark.requirement("quirk:05:no-stream")
@pytest.mark.parametrize("version", [None, "2025-03-26", "2025-11-25", "2026-07-28"])
async def test_a_get_where_no_stream_is_says_405_and_which_verb_there_is(
    acme: wire.Caller, version: str | None
) -> None:
    fields = {**acme.bearer, "accept": "text/event-stream"}
    fields |= {} if version is None else {"mcp-protocol-version": version}
    answer = await acme.http.get(acme.url, headers=fields)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.headers["content-type"].partition(";")[0] == "application/json"
    # To one that takes it for fatal the rest goes on.
    assert (await acme.act("echo", await acme.open(), text="on"))["text"] == "on"


@pytest.mark.requirement("quirk:12:accept")
@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/event-stream", "text/event-stream"),
        ("application/json", "application/json"),
        ("application/json, text/event-stream", "application/json"),
        ("text/event-stream,application/json;q=0.9", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("text/*", "text/event-stream"),
        ("Application/JSON; charset=utf-8", "application/json"),
        ("TEXT/EVENT-STREAM", "text/event-stream"),
        ("", "application/json"),
    ],
)
async def test_either_media_type_alone_is_enough_and_is_what_comes(
    acme: wire.Caller, era: str, accept: str, kind: str
) -> None:
    session = await acme.open() if era == "legacy" else None
    params = wire.call("echo", text=accept)
    fields, body = wire.modern("tools/call", params) if session is None else wire.legacy(session, "tools/call", params)
    fields = {name: value for name, value in fields.items() if name != "accept"}
    # An empty text stands for no field: the client here would add one of its own.
    answer = await acme.send({**fields, "accept": accept or "*/*"}, body)
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, kind)
    assert wire.said(wire.messages(answer)[-1])["text"] == accept


@pytest.mark.requirement("quirk:14:progress")
@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("token", [None, 0, 7, "", "seven", "7", "x" * 500])
async def test_progress_comes_under_the_clients_own_token_and_only_with_one(
    acme: wire.Caller, era: str, token: object
) -> None:
    session = await acme.open() if era == "legacy" else None
    params = wire.call("steps", token=token, count=3)
    answer = await (
        acme.modern("tools/call", params) if session is None else acme.legacy(session, "tools/call", params)
    )
    *before, last = wire.messages(answer)
    assert [(one["method"], one["params"]["progressToken"], one["params"]["progress"]) for one in before] == (
        [] if token is None else [("notifications/progress", token, number) for number in range(3)]
    )
    assert wire.said(last) == "done"
