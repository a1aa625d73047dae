"""Somebody's time is over: a hosted server's for its answer, a client's for its body.

On a platform of its own, whose patience is short: elsewhere it is long, and no machine's slowness is taken for a
server's.
"""

import asyncio
import time
from collections.abc import Callable, Generator
from typing import Final

import pytest

from support import gates, wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

Make = Callable[[Endpoint], wire.Caller]
_CALL_S: Final = float(gates.HASTY["SMCP_GATEWAY_CALL_TIMEOUT_S"])
_TIMED_OUT: Final = "The hosted MCP server did not answer in time."


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Generator[Gate]:
    """The platform, running."""
    with gates.running(tmp_path_factory, "hasty", gates.HASTY) as made:
        yield made


@pytest.mark.requirement("gateway:hosted:silent")
@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_server_that_never_answers_is_a_timeout_and_hears_of_it(acme: wire.Caller, era: str) -> None:
    session = await acme.open() if era == "legacy" else None
    await acme.act("echo", session)
    before = len(await acme.act("heard", session))
    params = wire.call("never")
    began = time.monotonic()
    answer = await (
        acme.modern("tools/call", params, "mine")
        if session is None
        else acme.legacy(session, "tools/call", params, "mine")
    )
    took = time.monotonic() - began
    said = wire.messages(answer)[-1]
    assert (said["id"], said["error"]["code"], said["error"]["message"]) == ("mine", -32000, _TIMED_OUT)
    assert took > _CALL_S - 0.5
    [note] = (await acme.act("heard", session))[before:]
    assert (note["method"], note["params"]["reason"]) == ("notifications/cancelled", "timed out")


@pytest.mark.requirement("gateway:audit:outcomes")
async def test_a_call_that_took_too_long_is_on_record_as_one(gate: Gate, acme: wire.Caller) -> None:
    secret = "hunter2-argument-value"
    answer = await acme.modern("tools/call", wire.call("never", text=secret))
    request = answer.headers["smcp-request-id"]
    told = [one["event"] for one in gate.platform.audit("acme", key=gate.admin)]
    mine = [one for one in told if one["event"] == "mcp_call" and one["request_id"] == request]
    assert [(one["outcome"], one["code"]) for one in mine] == [("failed", "server_timeout")]
    assert secret not in str(told)


@pytest.mark.requirement("gateway:streams:vanish")
async def test_clients_that_vanish_in_the_middle_of_a_call_leave_nothing_behind(gate: Gate, acme: wire.Caller) -> None:
    await acme.act("echo")
    session = await acme.open()
    before = wire.vitals(gate.platform)

    async def vanish(number: int) -> None:
        params = wire.call("never", token=number)
        made = (
            wire.modern("tools/call", params, 1) if number % 2 else wire.legacy(session, "tools/call", params, number)
        )
        async with acme.streaming(*made) as stream:
            await stream.message()

    for _ in range(5):
        await asyncio.gather(*(vanish(number) for number in range(20)))
    # A legacy client may come back for its answer: its call keeps its place until its time is over.
    after = await wire.settled(gate.platform, before._replace(in_flight=0), files=20)
    assert after.pid == before.pid
    assert after.more(before._replace(in_flight=0)) == {}
    assert after.files <= before.files + 20
    assert (await acme.act("echo", session, text="fine"))["text"] == "fine"


@pytest.mark.requirement("gateway:streams:listen")
async def test_a_modern_subscription_is_acknowledged_lives_and_ends_with_its_client(
    gate: Gate, acme: wire.Caller
) -> None:
    before = wire.vitals(gate.platform)
    async with acme.streaming(*wire.modern("subscriptions/listen", {"notifications": {}}, "mine")) as stream:
        first = await stream.message()
        assert first["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "mine"
        began = time.monotonic()
        while time.monotonic() - began < _CALL_S + 1:  # longer than any call may take
            assert await stream.line() == ": keep-alive"
    after = await wire.settled(gate.platform, before._replace(in_flight=0))
    assert after.in_flight == 0


@pytest.mark.requirement("gateway:asking:cancel")
async def test_a_call_whose_question_nobody_answers_in_time_takes_the_question_with_it(
    gate: Gate, caller: Make
) -> None:
    manifest = f'[env]\nERAS = "modern"\n{gates.ALONE}'
    url = gate.platform.deploy("acme", f"pypi:{wire.SCRIPTED}", "asker", gate.admin, manifest)
    client = caller(Endpoint(url, gate.acme.key))
    session = await client.open()
    params = wire.call("input", wants={"requestState": "s", "inputRequests": {"roots": {"method": "roots/list"}}})
    async with client.streaming(*wire.legacy(session, "tools/call", params, 8)) as stream:
        question = await stream.message()
        assert question["method"] == "roots/list"
        assert await stream.message() == {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": question["id"], "reason": "the call is over"},
        }
        ended = await stream.message()
        assert (ended["id"], ended["error"]["message"]) == (8, _TIMED_OUT)
    late = b'{"jsonrpc":"2.0","id":"%b","result":{"roots":[]}}' % question["id"].encode()
    assert (await client.send(wire.legacy(session, "x")[0], late)).status_code == 202
    # The server answered the call with its question: there is nothing that it could be told to cancel.
    heard = await client.act("heard", session)
    assert not [one for one in heard if one["method"] == "notifications/cancelled"]


async def _refused(who: wire.Caller, act: str, **arguments: object) -> str:
    answer = await who.modern("tools/call", wire.call(act, **arguments))
    return str(wire.messages(answer)[-1]["error"]["message"])


@pytest.mark.requirement("review:hung:replaced")
@pytest.mark.parametrize("act", ["sleep", "mute"])
async def test_a_copy_that_hangs_is_replaced_after_a_call_has_waited_in_vain(
    gate: Gate, caller: Make, act: str
) -> None:
    # A copy that closes its output can't be told from a silent one: the sandbox's first process keeps the pipe open.
    manifest = f'era = "modern"\n{gates.ALONE}'
    url = gate.platform.deploy("acme", f"pypi:{wire.SCRIPTED}", f"hangs-by-{act}", gate.admin, manifest)
    who = caller(Endpoint(url, gate.acme.key))
    before = (await who.act("echo", text="before"))["born"]
    assert "in time" in await _refused(who, act, seconds=3600)
    # It is asked once more, and replaced when it says nothing to that either; calls meanwhile still meet the old one.
    while "error" in (answer := wire.messages(await who.modern("tools/call", wire.call("echo", text="after")))[-1]):
        assert any(word in answer["error"]["message"] for word in ("answer", "while this call ran"))
    assert wire.said(answer)["born"] != before


@pytest.mark.requirement("gateway:malformed:slow")
async def test_a_body_that_comes_too_slowly_is_408_and_does_not_hold_its_connection(
    gate: Gate, acme: wire.Caller
) -> None:
    host, port = wire.address(gate.platform.base_url)
    fields = [("host", f"{host}:{port}"), *acme.bearer.items(), ("content-type", "application/json")]
    head = wire.request("POST", "/t/acme/tool/mcp", [*fields, ("content-length", "1000")])
    head = head.replace(b"connection: close\r\n", b"")
    # Far longer than a body may take, and never all of it; `raw` returns when the platform ends the connection.
    answer = await wire.raw(gate.platform.base_url, head, *[b" "] * 900, pause_s=0.1)
    assert answer.status == 408
