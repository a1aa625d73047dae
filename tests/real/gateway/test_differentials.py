"""One request, two readers: what one form of it may not do, no other form of it may; and what tells them apart."""

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest

from support import wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

Make = Callable[[Endpoint], wire.Caller]
_CALL = {"name": "do", "arguments": {"act": "echo", "text": "x"}}


def _forms(body: bytes) -> dict[str, bytes]:
    """Other forms of a tools/call: some are the same JSON, others are none."""
    listing = body.replace(b"tools/call", b"tools/list")
    return {
        "bom": b"\xef\xbb\xbf" + body,
        "utf-16": body.decode().encode("utf-16"),
        "utf-16-be": body.decode().encode("utf-16-be"),
        "utf-32": body.decode().encode("utf-32"),
        "overlong": body.replace(b"tools/call", b"tools\xc0\xafcall"),
        "gzip": gzip.compress(body),
        "escape": body.replace(b"tools/call", b"tools\\u002fcall"),
        "solidus": body.replace(b"tools/call", b"tools\\/call"),
        "escaped-key": body.replace(b'"method"', b'"\\u006dethod"'),
        "space": b" \t\r\n" + body.replace(b":", b" : ").replace(b",", b" ,\n") + b"\n ",
        "other-space": b"\xc2\xa0" + body,
        "form-feed": b"\x0c" + body,
        "null-end": body + b"\x00",
        "two": body + b"\n" + listing,
        "two-reversed": listing + b"\n" + body,
        "comment": body.replace(b"{", b"{/*x*/", 1),
        "trailing-comma": body[:-1] + b",}",
        "single-quotes": body.replace(b'"', b"'"),
        "first-method": body.replace(b'"method"', b'"method": "tools/list", "method"'),
        "last-method": body[:-1] + b', "method": "tools/list"}',
        "escaped-double": body[:-1] + b', "\\u006dethod": "tools/list"}',
        "upper-key": body.replace(b'"method"', b'"Method"'),
        "both-cases": body.replace(b'"method"', b'"method": "tools/list", "Method"'),
        "null-in-key": body.replace(b'"method"', b'"method\\u0000"'),
        "method-case": body.replace(b"tools/call", b"Tools/Call"),
        "method-space": body.replace(b"tools/call", b"tools/call "),
        "method-wide": body.replace(b"tools/call", "tools\uff0fcall".encode()),
        "method-list": body.replace(b'"tools/call"', b'["tools/call"]'),
        "array": b"[" + body + b"]",
        "string": json.dumps(body.decode()).encode(),
    }


_SAME = {"escape", "solidus", "escaped-key", "space"}
_NAMES = sorted(_forms(b""))


@pytest.mark.requirement("gateway:attacks:differentials")
@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("form", _NAMES)
async def test_another_form_of_a_body_is_decided_as_the_plain_one_or_is_none(
    gate: Gate, caller: Make, era: str, form: str
) -> None:
    user, reader = caller(gate.acme), caller(gate.reader)
    for one, status in ((user, 200), (reader, 403)):
        session = await one.open() if era == "legacy" else None
        fields, body = (
            wire.modern("tools/call", _CALL) if session is None else wire.legacy(session, "tools/call", _CALL)
        )
        plain, other = await one.send(fields, body), await one.send(fields, _forms(body)[form])
        assert plain.status_code == status
        if form in _SAME:
            assert other.status_code == status
        elif form in ("method-case", "method-space", "method-wide"):
            # Another method, of which nothing is known: it needs the right to call, and the server has none such.
            assert other.status_code in (400, 403) if status == 403 or era == "modern" else 200
            assert "error" in other.json()
        elif form == "both-cases" and era == "legacy":
            # What is decided on is what is carried out: the other member is nobody's, and goes nowhere.
            assert list(other.json()["result"]["tools"][0]) == ["name", "description", "inputSchema"]
        else:
            assert other.status_code == 400, other.text
            assert "result" not in other.json()


@pytest.mark.requirement("gateway:attacks:differentials")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("content-encoding", "gzip"),
        ("content-type", "application/json; charset=utf-16"),
        ("content-type", "application/json; charset=utf-7"),
        ("x-http-method-override", "GET"),
        ("x-original-url", "/t/acme/second/mcp"),
        ("x-rewrite-url", "/t/acme/second/mcp"),
        ("x-forwarded-prefix", "/t/acme/second"),
        ("x-forwarded-host", "evil.example"),
        ("forwarded", "host=evil.example;proto=https"),
        ("x-tenant", "umbra"),
        ("x-forwarded-user", "key-1"),
        ("x-smcp-principal", "key-1"),
        ("mcp-tenant", "umbra"),
    ],
)
async def test_a_field_that_other_software_obeys_changes_nothing(acme: wire.Caller, name: str, value: str) -> None:
    fields, body = wire.modern("tools/call", _CALL)
    answer = await acme.send({**fields, name: value}, body)
    assert answer.status_code == 200
    assert wire.said(answer.json())["canary"] == "acme-tool"


_LIES: list[tuple[dict[str, str], str]] = [
    ({"mcp-method": "tools/list"}, "mcp-method"),
    ({"mcp-method": "TOOLS/CALL"}, "mcp-method"),
    ({"mcp-method": "tools/call, tools/list"}, "mcp-method"),
    ({"mcp-method": ""}, "mcp-method"),
    ({"mcp-name": "done"}, "mcp-name"),
    ({"mcp-name": "DO"}, "mcp-name"),
    ({"mcp-name": "do, do"}, "mcp-name"),
    ({"mcp-name": "=?base64?ZG9uZQ==?="}, "mcp-name"),
    ({"mcp-name": "=?base64?!?="}, "mcp-name"),
]


@pytest.mark.requirement("gateway:attacks:headers")
@pytest.mark.parametrize(("lie", "named"), _LIES)
async def test_a_header_that_differs_from_the_body_is_refused_before_anything_is_decided(
    gate: Gate, caller: Make, lie: dict[str, str], named: str
) -> None:
    for one in (caller(gate.acme), caller(gate.reader)):
        fields, body = wire.modern("tools/call", _CALL, "lie")
        answer = await one.send({**fields, **lie}, body)
        told = answer.json()
        # Also to who may not call at all: 403 would say that one of the two had been judged.
        assert (answer.status_code, told["id"], told["error"]["code"]) == (400, "lie", -32020)
        assert named in told["error"]["message"].lower()


@pytest.mark.requirement("gateway:attacks:headers")
async def test_a_header_that_comes_twice_is_refused_though_one_of_them_is_right(gate: Gate) -> None:
    host, port = wire.address(gate.platform.base_url)
    fields, body = wire.modern("tools/call", _CALL)
    doubles = [("mcp-method", "tools/list"), ("mcp-method", "tools/call"), ("mcp-name", "other"), ("Mcp-Name", "do")]
    doubles += [("mcp-protocol-version", "2025-11-25"), ("MCP-Protocol-Version", "2026-07-28")]
    for double in doubles:
        for order in ([*fields.items(), double], [double, *fields.items()]):
            bearer = ("authorization", f"Bearer {gate.acme.key}")
            sent = [("host", f"{host}:{port}"), bearer, *order, ("content-length", str(len(body)))]
            answer = await wire.raw(gate.platform.base_url, wire.request("POST", "/t/acme/tool/mcp", sent, body))
            assert answer.status == 400, (double, answer)
            assert b"acme-tool" not in answer.body


@pytest.mark.requirement("gateway:attacks:trail")
async def test_a_session_shown_by_somebody_else_is_in_the_trail_and_the_caller_learns_nothing(
    gate: Gate, caller: Make
) -> None:
    # CVE-2026-52869: whatever the verb, and also where another tenant shows it at its own server.
    mine, colleague, umbra, second = (
        caller(gate.acme),
        caller(gate.colleague),
        caller(gate.umbra),
        caller(gate.second),
    )
    session = await mine.open()
    wanted = {"foreign": 0, "unknown": 0}
    shown: list[tuple[wire.Caller, str, str]] = [
        (colleague, session, "foreign"),
        (second, session, "foreign"),
        (colleague, "A" * len(session), "unknown"),
    ]
    answers: set[tuple[int, bytes]] = set()
    for one, told, why in shown:
        for verb in ("POST", "GET", "DELETE"):
            fields, body = wire.legacy(told, "tools/call", wire.call("echo"))
            sent = {**one.bearer, **fields}
            answer = await one.http.request(verb, one.url, headers=sent, content=body if verb == "POST" else None)
            answers.add((answer.status_code, answer.content if verb != "POST" else b""))
            wanted[why] += 1
    assert {status for status, _ in answers} == {404}
    assert len(answers) == 2  # with and without the id of a request, whoever asks for whatever
    assert (await umbra.legacy(session, "tools/list")).status_code == 404
    found: dict[str, int] = {}
    entries: list[dict[str, Any]] = []
    for _ in range(600):
        entries = _trail(gate, "acme", gate.admin)
        found = {why: sum(one.get("why") == why for one in entries) for why in wanted}
        if all(found[why] >= wanted[why] for why in wanted):
            break
        await _later()
    assert all(found[why] >= wanted[why] for why in wanted), found
    assert session not in json.dumps(entries)
    assert (await mine.legacy(session, "tools/list")).status_code == 200


def _trail(gate: Gate, tenant: str, key: str) -> list[dict[str, Any]]:
    items = gate.platform.audit(tenant, key=key)
    return [one["event"] for one in items if one["event"]["event"] == "session_refused"]


async def _later() -> None:
    await asyncio.sleep(0.1)  # entries are written in batches, and nobody outside is told


@pytest.mark.requirement("gateway:attacks:tasks")
@pytest.mark.parametrize("manifest", ['era = "modern"\n', 'era = "modern"\nshare = "principal"\n'])
async def test_a_task_is_the_callers_own_on_a_server_that_offers_tasks_whatever_its_manifest_shares(
    gate: Gate, caller: Make, manifest: str
) -> None:
    # CVE-2026-52870: names of tasks are the server's, and this one's can be guessed.
    name = "tasks" if "share" not in manifest else "tasks-apart"
    env = '[env]\nTASKS = "yes"\nCANARY = "tasks"\n'
    url = gate.platform.deploy("acme", f"pypi:{wire.SCRIPTED}", name, gate.admin, manifest + env)
    mine, colleague = caller(Endpoint(url, gate.acme.key)), caller(Endpoint(url, gate.colleague.key))
    begun = wire.messages(await mine.modern("tools/call", wire.call("begin")))[-1]["result"]
    assert begun == {"resultType": "task", "taskId": "task-1"}
    for method in ("tasks/get", "tasks/cancel"):
        told = await colleague.modern(method, begun)
        made_up = await colleague.modern(method, {"taskId": "task-77"})
        assert told.json()["error"] == made_up.json()["error"]
        assert told.status_code == made_up.status_code
        assert "canary" not in told.text
        assert wire.messages(await mine.modern(method, begun))[-1]["result"]["canary"] == "tasks"
