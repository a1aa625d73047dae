"""The target for what a legacy server writes in the calls of a modern client, which may wait for it.

Around an input stand two calls that may be asked in and one that may not. Whatever the server writes, nothing is
raised, what is passed on is a message each, an answer to each question is one of ours, and in the end nothing is held.
"""

import asyncio
import contextlib
import json
import random
from typing import Any, Final

from fuzz import grammar
from fuzz.engine import Target
from smcp.gateway import living, parked, parkedruns, parkedseal
from smcp.kernel import errors, ids, jsonrpc
from smcp.protocol import upward
from smcp.runtime import budgets, calls, driver, spool
from smcp.runtime.drivers import stdio

_BUDGET: Final = 1 << 20
_LIMITS: Final = driver.Limits(
    stop_grace_s=1.0, max_message_bytes=1 << 18, stream_buffer=16, tenant_buffer_bytes=_BUDGET
)
_KEY: Final = (ids.TenantId("acme"), "ann")
_DECLARED: Final[jsonrpc.Json] = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
_runner = asyncio.Runner()


def _requests() -> list[jsonrpc.Message]:
    meta = {"progressToken": 7, "io.modelcontextprotocol/logLevel": "info"}
    made: list[Any] = [
        {"id": 1, "method": "tools/call", "params": {"name": "a", "_meta": meta}},
        {"id": 2, "method": "resources/read", "params": {"uri": "a:b", "_meta": {}}},
        {"id": 3, "method": "tools/list", "params": {"_meta": meta}},
    ]
    return [jsonrpc.parse(json.dumps({"jsonrpc": "2.0", **one}).encode(), max_depth=8) for one in made]


_REQUESTS: Final = _requests()


def _made(dice: random.Random) -> bytes:
    lines: list[bytes] = []
    for number in range(dice.randrange(1, 12)):
        params: Any = {"message": "m", "mode": dice.choice(("form", "url", grammar.value(dice, 1)))}
        params["_meta"] = {upward.INPUT_KEY: dice.choice(("k", "elicitation-1", grammar.text(dice), 1))}
        params[dice.choice(("task", "tools", "uri", "level", "requestId", "progressToken", "x"))] = dice.choice(
            (number, 1, 2, grammar.value(dice, 2))
        )
        tree: Any = {"jsonrpc": "2.0", "params": dice.choice((params, params, params, grammar.value(dice, 2)))}
        kind = dice.randrange(5)
        if kind < 2:
            tree |= {"id": dice.choice((number, str(number), grammar.value(dice, 1)))}
            tree["method"] = dice.choice((*upward.QUESTIONS, "ping", grammar.text(dice)))
        elif kind < 4:
            name = dice.choice(("message", "progress", "cancelled", "resources/updated", grammar.text(dice)))
            tree["method"] = f"notifications/{name}"
        else:
            tree = {"jsonrpc": "2.0", "id": dice.randrange(5), "result": grammar.value(dice)}
        lines.append(grammar.mutated(dice, grammar.spelled(dice, tree).replace(b"\n", b" ")))
    return b"\n".join([*lines, b""])


class _Table:
    """One session alone."""

    def now(self) -> float:
        return 0.0

    def lost(self, session: living.Session) -> None: ...

    def note(self, session: living.Session) -> None: ...


def _check(data: bytes) -> None:
    _runner.run(_heard(data))


async def _heard(data: bytes) -> None:
    budget = budgets.Budget(_BUDGET)
    written: list[Any] = []
    table = parked.Parked(parkedseal.Seals(lambda _tenant, _purpose: bytes(32)))
    session = living.Session(_Table(), _KEY, ids.ServerName("files"), "name", "d", "2025-11-25", 0.0)
    child = stdio.StdioInstance(_LIMITS, lambda _: None, lambda _: None, modern=False, budget=budget, spools=_none)
    child.owner = session
    child.calls = calls.Calls(
        modern=False,
        write=lambda message: written.append(json.loads(message)),
        stray=session.stray,
        limit=_LIMITS.stream_buffer,
        budget=budget,
    )
    private = parkedruns.Private(table, session, child, _DECLARED, {"capabilities": {"logging": {}}})
    runs: list[parkedruns.Run] = []
    for message in _REQUESTS:
        run = parkedruns.Run(private, message)
        private.enter(run)
        run.attach(message)
        run.ready(message)
        runs.append(run)
    runs[0].detach()  # it waits, and what comes for it is heard by nobody
    for line in data.split(b"\n"):
        with contextlib.suppress(errors.ParseError):
            child.calls.received(line)
        for run in runs[1:]:
            assert run.call is not None
            while run.call.frames:
                out = private.heard(run, run.call.take())
                if out is not None:
                    assert not jsonrpc.frame(out).id, "a question is passed on as it came"
    for run in runs:
        asked = {key: (one.method, one.params) for key, one in run.questions.items()}
        assert len(asked) <= parkedruns.OPEN
        json.loads(upward.required(asked, "state", private.info))
        run.end("over")
    private.close()
    child.calls.close(errors.ServerFailed("gone"))
    assert session.busy == 0
    assert budget.take(_BUDGET), "bytes are counted that nobody holds"
    assert table.room(_KEY[0], parked.TENANT_BYTES), "questions are counted that nobody holds"


def _none() -> spool.Spool:
    raise AssertionError("nothing here is large enough for the disk")


TARGETS: Final = (Target("waiting", _made, _check),)
