"""Two tenants on one platform: whatever one sends, nothing of the other comes back, not even that it exists."""

import asyncio
import json
from collections.abc import Callable, Generator
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from smcp.gateway import route
from support import wire, words
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_CALLS = 2000
_METHODS = sorted({*route.ACTIONS, "tools/call", "tasks/get", "tasks/cancel", "x/unknown"})
_TARGETS = [
    "do",
    "tool",
    "acme-tool",
    "file:///acme",
    "acme/tool",
    "../acme/tool",
    "smcp://acme/tool",
    "tenants/acme",
    "",
]


def _shape(answer: httpx2.Response) -> tuple[int, str, str]:
    """All of an answer that a client can tell apart, without the request's own ids."""
    fields = {
        name: value
        for name, value in answer.headers.items()
        if name not in ("smcp-request-id", "date", "content-length", "ratelimit")
    }
    return answer.status_code, json.dumps(fields, sort_keys=True), answer.text


@pytest.fixture(scope="module")
def victim(gate: Gate) -> str:
    """A session of acme's."""
    fields, body = wire.legacy(None, "initialize", wire.hello())
    sent = {**fields, "authorization": f"Bearer {gate.acme.key}"}
    return str(httpx2.post(gate.acme.url, headers=sent, content=body, timeout=120.0).headers["mcp-session-id"])


@pytest.fixture(scope="module")
def one_client() -> Generator[httpx2.Client]:
    """A client for many requests: to make one, with the machine's certificates, takes longer than to ask."""
    with httpx2.Client(timeout=120.0, verify=False) as client:  # plain HTTP: see Platform.api
        yield client


@pytest.mark.requirement("gateway:isolation:concealed")
@given(
    method=st.sampled_from(_METHODS),
    target=st.sampled_from(_TARGETS),
    cursor=st.none() | st.sampled_from(["acme", "0", "eyJhIjoxfQ=="]),
    modern=st.booleans(),
    session=st.sampled_from(["none", "theirs", "made-up"]),
    verb=st.sampled_from(["POST", "POST", "POST", "GET", "DELETE"]),
)
@hypothesis_settings(deadline=None, max_examples=150)
def test_another_tenants_server_is_answered_as_one_that_does_not_exist(
    gate: Gate,
    one_client: httpx2.Client,
    victim: str,
    method: str,
    target: str,
    cursor: str | None,
    modern: bool,
    session: str,
    verb: str,
) -> None:
    params: dict[str, Any] = {
        "name": target,
        "uri": target,
        "taskId": target,
        "requestId": 1,
        "arguments": {"act": "echo"},
    }
    params |= {} if cursor is None else {"cursor": cursor}
    shown = {"none": None, "theirs": victim, "made-up": "A" * len(victim)}[session]
    fields, body = wire.modern(method, params) if modern else wire.legacy(shown, method, params)
    if shown is not None:
        fields["mcp-session-id"] = shown
    sent = {**fields, "authorization": f"Bearer {gate.umbra.key}"}
    seen: list[tuple[int, str, str]] = []
    for url in (gate.acme.url, gate.acme.url.replace("/tool/", "/none/"), gate.acme.url.replace("acme", "nobody")):
        answer = one_client.request(verb, url, headers=sent, content=body if verb == "POST" else None)
        seen.append(_shape(answer))
        assert answer.status_code >= 400
        assert not words.stands("acme", answer.text)
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.requirement("gateway:isolation:concealed")
@pytest.mark.parametrize("form", ["acme", "umbra", "platform", "nobody"])
def test_a_key_that_names_another_tenant_is_no_key(gate: Gate, one_client: httpx2.Client, form: str) -> None:
    secret = gate.umbra.key.rpartition("_")[2]
    fields, body = wire.modern("tools/list")
    crafted = [
        f"smcp_{form}_{secret[:-1]}{'y' if secret.endswith('x') else 'x'}",
        f"smcp_{form}_{secret.upper()}",
        f"smcp_{form}_",
        f"smcp__{form}_{secret}",
    ]
    for key in [*crafted, *([] if form == "umbra" else [f"smcp_{form}_{secret}"])]:
        answer = one_client.post(gate.acme.url, headers={**fields, "authorization": f"Bearer {key}"}, content=body)
        assert answer.status_code == 401


@pytest.mark.requirement("gateway:isolation:crossed")
@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_thousands_of_concurrent_calls_with_equal_ids_and_tokens_never_cross(
    gate: Gate, caller: Callable[[Endpoint], wire.Caller], era: str
) -> None:
    # CVE-2026-25536: acme's two keys share a copy of the server in the modern era; umbra has its own.
    callers = [
        (caller(gate.acme), "acme-tool"),
        (caller(gate.colleague), "acme-tool"),
        (caller(gate.umbra), "umbra-tool"),
    ]
    sessions = [await one.open() if era == "legacy" else None for one, _ in callers]
    room = asyncio.Semaphore(48)

    async def ask(who: int, number: int) -> None:
        one, canary = callers[who]
        mine = f"{who}-{number}-{canary}"
        # Every client counts its ids and tokens from 0, as SDKs do.
        params = wire.call("echo", token=number % 10, text=mine)
        fields, body = (
            wire.modern("tools/call", params, number)
            if era == "modern"
            else wire.legacy(sessions[who], "tools/call", params, number)
        )
        async with room:
            answer = await one.send(fields, body)
        found = wire.messages(answer)
        assert [one["params"]["message"] for one in found[:-1]] in ([mine], []), found
        assert [one["params"]["progressToken"] for one in found[:-1]] in ([number % 10], [])
        assert found[-1]["id"] == number
        assert wire.said(found[-1]) == {**wire.said(found[-1]), "text": mine, "canary": canary}

    # In the legacy era a token that is used again while it is in use is the client's own mistake: one after another.
    share = _CALLS // len(callers)
    for begin in range(0, share, 10 if era == "legacy" else share):
        count = min(10 if era == "legacy" else share, share - begin)
        await asyncio.gather(*(ask(who, begin + n) for n in range(count) for who in range(len(callers))))


@pytest.mark.requirement("gateway:isolation:progress")
async def test_progress_of_shared_copies_reaches_the_one_who_asked(
    gate: Gate, caller: Callable[[Endpoint], wire.Caller]
) -> None:
    one, two = caller(gate.acme), caller(gate.colleague)
    asking = [
        one.modern("tools/call", wire.call("steps", token="t", count=5)),
        two.modern("tools/call", wire.call("steps", token="t", count=7)),
        two.modern("tools/call", wire.call("steps", count=9)),
    ]
    found = [wire.messages(answer) for answer in await asyncio.gather(*asking)]
    assert [[m["params"]["progress"] for m in f[:-1]] for f in found] == [[*range(5)], [*range(7)], []]
    assert {m["params"]["progressToken"] for f in found for m in f[:-1]} == {"t"}
