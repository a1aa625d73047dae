"""Modern clients at a server that speaks only the legacy wire: private sessions, and calls that wait."""

import asyncio
from collections.abc import Callable

import pytest

from support import upward, wire
from support.clients import Endpoint
from support.gates import Gate
from support.upward import Modern, accept, form, retry

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

Make = Callable[[Endpoint], wire.Caller]
_ROOTS: wire.Json = {"method": "roots/list"}
_FOLDER: wire.Json = {"roots": [{"uri": "file:///a"}]}


@pytest.mark.requirement("gateway:upward:discover")
async def test_discover_is_answered_from_what_initialize_said(one: Modern) -> None:
    answer = await one.ask("server/discover")
    result = answer.json()["result"]
    assert result["supportedVersions"] == ["2026-07-28"]
    assert result["capabilities"] == {key: value for key, value in upward.OFFERS.items() if key != "tasks"} | {
        "logging": {}
    }
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"] == {"name": "scripted", "version": "1.0.0"}
    assert (result["resultType"], result["ttlMs"], result["cacheScope"]) == ("complete", 0, "private")


@pytest.mark.requirement("gateway:upward:session")
async def test_a_private_session_is_one_principals_with_one_set_of_capabilities(
    older: Endpoint, gate: Gate, caller: Make
) -> None:
    told = {"io.modelcontextprotocol/clientInfo": {"name": "mine", "version": "7"}}
    mine = Modern(caller(older), {"roots": {}, "sampling": {}}, **told)
    first = await mine.said("echo", text="x")
    same = Modern(caller(older), {"sampling": {}, "roots": {}})
    assert (await same.said("echo", text="y"))["born"] == first["born"]
    other = Modern(caller(older), {"roots": {}})
    colleague = Modern(caller(Endpoint(older.url, gate.colleague.key)), {"roots": {}, "sampling": {}})
    born = [(await one.said("echo", text="z"))["born"] for one in (mine, other, colleague)]
    assert len(set(born)) == 3
    assert born[0] == first["born"]
    asked = await mine.said("asked")
    [hello] = [one["params"] for one in asked if one["method"] == "initialize"]
    assert hello == {
        "protocolVersion": "2025-11-25",
        "capabilities": {"roots": {}, "sampling": {}},
        "clientInfo": {"name": "mine", "version": "7"},
    }
    assert {"method": "notifications/initialized", "params": None} in await mine.said("heard")
    assert await mine.said("meta") == {}


@pytest.mark.requirement("gateway:upward:session")
async def test_private_sessions_count_as_sessions_of_their_principal(older: Endpoint, caller: Make) -> None:
    client = caller(older)
    mine = Modern(client, {"roots": {}, "experimental": {"first": {}}})
    born = (await mine.said("echo", text="x"))["born"]
    for _ in range(6):  # limits.principal_sessions
        await client.open()
    assert (await mine.said("echo", text="x"))["born"] != born


@pytest.mark.requirement("gateway:upward:questions")
async def test_questions_become_one_answer_and_the_retrys_answers_reach_the_call_that_waits(one: Modern) -> None:
    sampling: wire.Json = {
        "method": "sampling/createMessage",
        "params": {"messages": [{"role": "user", "content": {"type": "text", "text": "?"}}], "maxTokens": 1},
    }
    questions = [form("name?", "user_name"), sampling, _ROOTS]
    asked = await one.call("quiz", questions=questions)
    result = asked["result"]
    assert result["resultType"] == "input_required"
    assert set(result["inputRequests"]) == {"user_name", "sampling-1", "roots-1"}
    assert result["inputRequests"]["user_name"]["params"] == {
        "message": "name?",
        "requestedSchema": {"type": "object", "properties": {}},
    }
    said = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "!"}}
    given = {"user_name": accept(), "sampling-1": said, "roots-1": _FOLDER}
    done = await one.call("quiz", retry(asked, **given, unasked=accept()), questions=questions)
    assert wire.said(done) == [accept(), said, _FOLDER]
    assert done["result"]["resultType"] == "complete"


@pytest.mark.requirement("gateway:upward:questions")
async def test_questions_that_come_a_moment_apart_become_one_answer(one: Modern) -> None:
    questions = [form("a?"), form("b?"), form("c?")]
    asked: wire.Json = {}
    for _ in range(10):  # a busy machine makes more of a moment now and then, and not each time
        asked = await one.call("quiz", questions=questions, apart=0.01)
        if len(asked["result"]["inputRequests"]) == len(questions):
            break
    assert list(asked["result"]["inputRequests"]) == ["elicitation-1", "elicitation-2", "elicitation-3"]
    given = {key: accept(key=key) for key in asked["result"]["inputRequests"]}
    done = await one.call("quiz", retry(asked, **given), questions=questions, apart=0.01)
    assert wire.said(done) == [accept(key=f"elicitation-{number}") for number in (1, 2, 3)]


@pytest.mark.requirement("gateway:upward:partial")
async def test_what_is_missing_is_asked_again_under_the_same_key(one: Modern) -> None:
    questions = [form("a?"), form("b?"), form("c?", "c")]
    first = await one.call("quiz", questions=questions)
    assert list(first["result"]["inputRequests"]) == ["elicitation-1", "elicitation-2", "c"]
    second = await one.call("quiz", retry(first, **{"elicitation-1": accept(n=1)}), questions=questions)
    assert second["result"]["inputRequests"] == {
        key: first["result"]["inputRequests"][key] for key in ("elicitation-2", "c")
    }
    assert second["result"]["requestState"] != first["result"]["requestState"]
    wrong = await one.call("quiz", retry(second, c=_FOLDER), questions=questions)
    assert wrong["error"]["code"] == -32602
    assert "inputResponses.c" in wrong["error"]["message"]
    # What was refused for its answers has not used the state up.
    done = await one.call(
        "quiz", retry(second, **{"elicitation-2": accept(n=2), "c": accept(n=3)}), questions=questions
    )
    assert wire.said(done) == [accept(n=1), accept(n=2), accept(n=3)]


@pytest.mark.requirement("gateway:upward:rounds")
async def test_each_round_asks_anew_with_another_state_and_keys_that_go_on(one: Modern) -> None:
    questions = [form("a?"), form("b?"), form("c?", "c")]
    again: wire.Json | None = None
    keys: list[str] = []
    states: set[str] = set()
    for _ in questions:
        asked = await one.call("quiz", again, questions=questions, slowly=True)
        [key] = asked["result"]["inputRequests"]
        keys.append(key)
        states.add(asked["result"]["requestState"])
        again = retry(asked, **{key: accept(key=key)})
    done = await one.call("quiz", again, questions=questions, slowly=True)
    assert wire.said(done) == [accept(key=key) for key in keys]
    assert (keys, len(states)) == (["elicitation-1", "elicitation-2", "c"], 3)


@pytest.mark.requirement("gateway:upward:preset")
async def test_answers_that_come_with_the_first_request_meet_the_questions_of_that_name(one: Modern) -> None:
    given: wire.Json = {"inputResponses": {"mine": accept(n=1), "elicitation-1": accept(n=2)}}
    asked = await one.call("quiz", given, questions=[form("a?", "mine"), form("b?")])
    # Only the server's own name for a question says that it is the one that the client means.
    assert list(asked["result"]["inputRequests"]) == ["elicitation-1"]


_FORGED: dict[str, Callable[[str], str]] = {
    "flipped": lambda state: state[:20] + ("A" if state[20] != "A" else "B") + state[21:],
    "shorter": lambda state: state[:-1],
    "half": lambda state: state[:40],
    "empty": lambda _: "",
    "longer": lambda state: state + "A",
    "no text of ours": lambda _: "\u00e9",
}


@pytest.mark.requirement("attack:mrtr:request-state")
@pytest.mark.parametrize("how", _FORGED)
async def test_a_state_that_was_changed_is_refused_and_the_call_waits_on(one: Modern, how: str) -> None:
    asked = await one.call("quiz", questions=[_ROOTS])
    good = retry(asked, **{"roots-1": _FOLDER})
    answer = await one.call("quiz", {**good, "requestState": _FORGED[how](good["requestState"])}, questions=[_ROOTS])
    assert answer["error"]["code"] == -32602
    assert "without requestState" in answer["error"]["message"]
    assert wire.said(await one.call("quiz", good, questions=[_ROOTS])) == [_FOLDER]


@pytest.mark.requirement("attack:mrtr:request-state")
async def test_a_state_is_good_once_for_its_own_principal_tenant_server_and_request(
    gate: Gate, older: Endpoint, one: Modern, caller: Make
) -> None:
    manifest = 'era = "legacy"\n'
    twin = gate.platform.deploy("acme", f"pypi:{wire.SCRIPTED}", "older-twin", gate.admin, manifest)
    asked = await one.call("quiz", questions=[_ROOTS])
    good = retry(asked, **{"roots-1": _FOLDER})
    colleague = Modern(caller(Endpoint(older.url, gate.colleague.key)))
    elsewhere = Modern(caller(Endpoint(twin, older.key)))
    refused = [
        await colleague.call("quiz", good, questions=[_ROOTS]),
        await elsewhere.call("quiz", good, questions=[_ROOTS]),
        await one.call("quiz", good, questions=[_ROOTS, _ROOTS]),
        await one.call("echo", good, text="x"),
        (await one.ask("resources/read", {"uri": "a:b", **good})).json(),
    ]
    assert [one["error"]["code"] for one in refused] == [-32602] * 5
    assert len({one["error"]["message"] for one in refused}) == 1
    assert wire.said(await one.call("quiz", good, questions=[_ROOTS])) == [_FOLDER]
    used = await one.call("quiz", good, questions=[_ROOTS])
    assert used["error"]["code"] == -32602
    assert "used" in used["error"]["message"]


@pytest.mark.requirement("attack:mrtr:request-state")
async def test_the_state_of_an_earlier_round_is_spent_while_the_call_still_waits(one: Modern) -> None:
    """Once the call is over no state of it is good, spent or not: here it goes on, and waits for the second answer."""
    questions = [form("a?"), form("b?")]
    first = await one.call("quiz", questions=questions, slowly=True)
    spent = retry(first, **{"elicitation-1": accept(n=1)})
    second = await one.call("quiz", spent, questions=questions, slowly=True)
    used = await one.call("quiz", spent, questions=questions, slowly=True)
    assert used["error"]["code"] == -32602
    assert "used" in used["error"]["message"]
    done = await one.call("quiz", retry(second, **{"elicitation-2": accept(n=2)}), questions=questions, slowly=True)
    assert wire.said(done) == [accept(n=1), accept(n=2)]


@pytest.mark.requirement("attack:mrtr:request-state")
async def test_of_two_retries_at_once_one_goes_on(one: Modern) -> None:
    asked = await one.call("quiz", questions=[_ROOTS])
    good = retry(asked, **{"roots-1": _FOLDER})
    answers = await asyncio.gather(*(one.call("quiz", good, questions=[_ROOTS]) for _ in range(8)))
    assert sorted("result" in answer for answer in answers) == [False] * 7 + [True]


@pytest.mark.requirement("gateway:upward:bounds")
async def test_the_oldest_of_too_many_waiting_calls_gives_way(gate: Gate, older: Endpoint, caller: Make) -> None:
    one = Modern(caller(Endpoint(older.url, gate.platform.create_key("acme", "mcp_user"))))
    asked = [await one.call("quiz", questions=[_ROOTS], n=number) for number in range(17)]
    codes: list[int | None] = []
    for number, state in enumerate(asked):
        done = await one.call("quiz", retry(state, **{"roots-1": _FOLDER}), questions=[_ROOTS], n=number)
        codes.append(done.get("error", {}).get("code"))
    assert codes == [-32602] + [None] * 16
    cancelled = [told for told in await one.said("heard") if told["method"] == "notifications/cancelled"]
    assert len(cancelled) == 1


@pytest.mark.requirement("gateway:upward:ends")
async def test_a_call_that_waits_ends_with_its_copy(one: Modern) -> None:
    asked = await one.call("quiz", questions=[_ROOTS])
    ended = (await one.call("exit"))["error"]
    assert (ended["code"], ended["data"]) == (-32000, {"mayHaveRun": True})
    late = await one.call("quiz", retry(asked, **{"roots-1": _FOLDER}), questions=[_ROOTS])
    assert late["error"]["code"] == -32602
    assert await one.said("echo", text="a new copy")


@pytest.mark.requirement("gateway:upward:ends")
@pytest.mark.parametrize(("drain_s", "goes_on"), [(60, True), (0, False)])
async def test_a_call_that_waits_goes_on_in_its_own_deployment_while_that_may(
    gate: Gate, caller: Make, drain_s: int, goes_on: bool
) -> None:
    name = f"older-{drain_s}"

    def deploy(canary: str) -> Endpoint:
        manifest = f'era = "legacy"\ndrain_s = {drain_s}\n[env]\nCANARY = "{canary}"\n'
        url = gate.platform.deploy("acme", f"pypi:{wire.SCRIPTED}", name, gate.admin, manifest)
        return Endpoint(url, gate.acme.key)

    one = Modern(caller(deploy("first")))
    asked = await one.call("quiz", questions=[_ROOTS])
    await asyncio.to_thread(deploy, "second")
    assert (await one.said("echo", text="x"))["canary"] == "second"
    done = await one.call("quiz", retry(asked, **{"roots-1": _FOLDER}), questions=[_ROOTS])
    assert (wire.said(done) == [_FOLDER]) if goes_on else (done["error"]["code"] == -32602)
    # Its private sessions end with it: other tests count sessions.
    await asyncio.to_thread(gate.platform.api, "POST", f"/tenants/acme/servers/{name}/stop", key=gate.admin)


@pytest.mark.requirement("gateway:upward:ends")
async def test_a_call_that_waits_ends_with_its_principals_key(gate: Gate, older: Endpoint, caller: Make) -> None:
    made = gate.platform.api("POST", "/tenants/acme/keys", {"roles": ["mcp_user"], "label": "to be revoked"})
    one = Modern(caller(Endpoint(older.url, made["secret"])))
    before = (await wire.steady(gate.platform))._replace(in_flight=0)
    asked = await one.call("quiz", questions=[_ROOTS])
    during = await asyncio.to_thread(wire.vitals, gate.platform)
    assert (during.sessions, during.instances) == (before.sessions + 1, before.instances + 1)
    await asyncio.to_thread(gate.platform.api, "DELETE", f"/tenants/acme/keys/{made['key']['id']}")
    answer = await one.ask("tools/call", {"name": "do", "arguments": {}, **retry(asked)})
    assert answer.status_code == 401
    after = await wire.settled(gate.platform, before)
    assert after.more(before) == {}


@pytest.mark.requirement("gateway:upward:capability")
async def test_a_server_is_not_told_more_than_its_client_can_do(older: Endpoint, caller: Make) -> None:
    shy = Modern(caller(older), {"elicitation": {}})
    refused = await shy.said("quiz", questions=[_ROOTS, {**form("x"), "params": {"mode": "url", "message": "m"}}])
    assert [answer["code"] for answer in refused] == [-32601, -32602]
    url = {
        "method": "elicitation/create",
        "params": {"mode": "url", "message": "m", "url": "a:b", "elicitationId": "1"},
    }
    lacking: list[tuple[wire.Json, wire.Json]] = [(_ROOTS, {"roots": {}}), (url, {"elicitation": {"url": {}}})]
    for question, lacks in lacking:
        before = [{"id": "q", **question}]
        failed = await shy.ask(
            "tools/call",
            {"name": "do", "arguments": {"act": "reply", "before": before, "result": {"content": [], "isError": True}}},
        )
        assert failed.status_code == 400
        error = failed.json()["error"]
        assert (error["code"], error["data"]) == (-32021, {"requiredCapabilities": lacks})
    # One that does without is fine.
    done = await shy.call("reply", before=[{"id": "q", **_ROOTS}], result={"content": []})
    assert done["result"]["content"] == []


@pytest.mark.requirement("gateway:upward:capability")
async def test_what_no_client_can_be_asked_is_refused_to_the_server_and_pings_are_answered(one: Modern) -> None:
    answers = await one.said("quiz", questions=[{"method": "ping"}, {"method": "com.example/ask"}])
    assert answers[0] == {}
    assert answers[1]["code"] == -32601


@pytest.mark.requirement("gateway:upward:orphans")
async def test_what_the_server_asks_between_calls_is_asked_with_the_next_that_can(
    older: Endpoint, caller: Make
) -> None:
    one = Modern(caller(older), {**upward.ASKABLE, "experimental": {"orphans": {}}})
    assert await one.said("asklater") == "soon"
    # A list can't be answered with a question ("Multi Round-Trip Requests: Supported requests").
    assert (await one.ask("tools/list")).json()["result"]["resultType"] == "complete"
    asked = await one.call("echo", text="x")
    assert list(asked["result"]["inputRequests"]) == ["roots-1"]
    done = await one.call("echo", retry(asked, **{"roots-1": _FOLDER}), text="x")
    assert wire.said(done)["text"] == "x"
    assert (await one.said("echo", text="y"))["text"] == "y"


@pytest.mark.requirement("gateway:upward:concurrent")
async def test_calls_of_one_session_run_beside_each_other_and_each_question_is_answered(
    older: Endpoint, caller: Make
) -> None:
    one = Modern(caller(older), {**upward.ASKABLE, "experimental": {"beside": {}}})

    async def through(number: int) -> object:
        questions = [form(f"{number}a?"), form(f"{number}b?")]
        answer = await one.call("quiz", questions=questions, slowly=True, number=number)
        while answer["result"]["resultType"] == "input_required":
            asked: wire.Json = answer["result"]["inputRequests"]
            given = {key: accept(to=question["params"]["message"]) for key, question in asked.items()}
            answer = await one.call("quiz", retry(answer, **given), questions=questions, slowly=True, number=number)
        return wire.said(answer)

    async with asyncio.timeout(240):
        said = await asyncio.gather(*(through(number) for number in range(8)))
    # A question may be shown in another call's answer; the server's own id brings its answer back to where it belongs.
    assert said == [[accept(to=f"{number}a?"), accept(to=f"{number}b?")] for number in range(8)]


@pytest.mark.requirement("gateway:upward:errors")
async def test_an_address_that_must_be_visited_first_is_asked_for_and_the_request_is_sent_again(
    one: Modern, older: Endpoint, caller: Make
) -> None:
    wanted = {"elicitations": [{"mode": "url", "elicitationId": "e", "url": "https://x.example/", "message": "go"}]}
    error = {"code": -32042, "message": "first", "data": wanted}
    asked = await one.call("reply", error=error)
    assert asked["result"]["inputRequests"] == {
        "elicitation-1": {
            "method": "elicitation/create",
            "params": {"mode": "url", "url": "https://x.example/", "message": "go"},
        }
    }
    # The scripted server says the same each time: the request has come to it once more.
    again = await one.call("reply", retry(asked, **{"elicitation-1": {"action": "accept"}}), error=error)
    assert again["result"]["resultType"] == "input_required"
    [key] = again["result"]["inputRequests"]
    declined = await one.call("reply", retry(again, **{key: {"action": "decline"}}), error=error)
    assert "address" in declined["error"]["message"]
    two = {**error, "data": {"elicitations": [*wanted["elicitations"], *wanted["elicitations"]]}}
    both = await one.call("reply", error=two)
    left = await one.call("reply", retry(both, **{"elicitation-1": {"action": "accept"}}), error=two)
    assert [list(answer["result"]["inputRequests"]) for answer in (both, left)] == [
        ["elicitation-1", "elicitation-2"],
        ["elicitation-2"],
    ]
    shy = Modern(caller(older), {"elicitation": {}})
    lacking = await shy.call("reply", error=error)
    assert (lacking["error"]["code"], lacking["error"]["data"]["requiredCapabilities"]) == (
        -32021,
        {"elicitation": {"url": {}}},
    )


@pytest.mark.requirement("gateway:upward:errors")
@pytest.mark.parametrize(
    ("code", "told", "status"), [(-32002, -32602, 400), (-32077, -32000, 200), (-32601, -32601, 404)]
)
async def test_errors_have_the_codes_that_the_modern_wire_gives_them(
    one: Modern, code: int, told: int, status: int
) -> None:
    answer = await one.ask(
        "tools/call",
        {"name": "do", "arguments": {"act": "reply", "error": {"code": code, "message": "m", "data": {"a": 1}}}},
    )
    assert (answer.status_code, answer.json()["error"]) == (status, {"code": told, "message": "m", "data": {"a": 1}})


@pytest.mark.requirement("gateway:upward:results")
async def test_results_say_what_modern_ones_say_and_keep_all_else(one: Modern) -> None:
    listed = (await one.ask("tools/list")).json()["result"]
    assert (listed["resultType"], listed["ttlMs"], listed["cacheScope"]) == ("complete", 0, "private")
    # What the server itself says of them is not what counts.
    given: wire.Json = {"content": [], "resultType": "input_required", "_meta": {"mine": [1.50]}, "more": {"deep": "é"}}
    result = (await one.call("reply", result=given))["result"]
    info = {"io.modelcontextprotocol/serverInfo": {"name": "scripted", "version": "1.0.0"}}
    assert result == {**given, "resultType": "complete", "_meta": {"mine": [1.50], **info}}
    large = (await one.call("long", bytes=400_000))["result"]
    assert (large["resultType"], len(large["x"])) == ("complete", 400_000)


@pytest.mark.requirement("gateway:upward:removed")
async def test_what_the_modern_wire_does_not_have_is_not_there(one: Modern) -> None:
    for method in ("ping", "logging/setLevel", "resources/subscribe", "tasks/get", "tasks/list"):
        answer = await one.ask(method, {"uri": "a:b", "taskId": "1", "level": "info"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, -32601)


@pytest.mark.requirement("gateway:upward:notices")
async def test_progress_and_log_messages_are_the_request_of_nows(older: Endpoint, caller: Make) -> None:
    quiet, told = Modern(caller(older)), Modern(caller(older))
    told.meta |= {"io.modelcontextprotocol/logLevel": "info"}
    questions = [form("a?"), form("b?")]
    told.meta["progressToken"] = "first"
    first = await told.messages("quiz", questions=questions, slowly=True)
    assert [one["params"].get("progressToken", one["params"].get("level")) for one in first[:-1]] == [
        "first",
        "warning",
    ]
    told.meta["progressToken"] = 2
    second = await told.messages(
        "quiz", retry(first[-1], **{"elicitation-1": accept()}), questions=questions, slowly=True
    )
    assert [one["params"].get("progressToken", one["params"].get("level")) for one in second[:-1]] == [2, "warning"]
    plain = await quiet.messages(
        "quiz", retry(second[-1], **{"elicitation-2": accept()}), questions=questions, slowly=True
    )
    assert len(plain) == 1
    told.meta["io.modelcontextprotocol/logLevel"] = "error"
    del told.meta["progressToken"]
    assert len(await told.messages("quiz", questions=[_ROOTS])) == 1
    levels = [one["params"]["level"] for one in await quiet.said("asked") if one["method"] == "logging/setLevel"]
    assert levels[-2:] == ["info", "error"]


@pytest.mark.requirement("gateway:upward:cancel")
async def test_a_client_that_hangs_up_cancels_and_one_that_was_asked_does_not(one: Modern) -> None:
    asked = await one.call("quiz", questions=[_ROOTS])
    one.meta["progressToken"] = 1
    fields, body = wire.modern("tools/call", {"name": "do", "arguments": {"act": "never"}, "_meta": one.meta})
    headers = {**one.caller.bearer, **fields}
    async with one.caller.http.stream("POST", one.caller.url, headers=headers, content=body) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                break
    del one.meta["progressToken"]
    async with asyncio.timeout(120):
        while not any(told["method"] == "notifications/cancelled" for told in await one.said("heard")):
            pass
    done = await one.call("quiz", retry(asked, **{"roots-1": _FOLDER}), questions=[_ROOTS])
    assert wire.said(done) == [_FOLDER]
