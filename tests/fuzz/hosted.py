"""Targets for what a hosted server sends: its frames among calls in flight, and its pipe split anywhere.

An input is what the server writes to its standard output. Around it stand three clients' calls, which must each end:
answered, or failed when the server is gone.
"""

import asyncio
import contextlib
import json
import random
from typing import Any, Final

import pytest

from fuzz import grammar, reference
from fuzz.engine import Target
from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras
from smcp.runtime import budgets, calls, driver, spool
from smcp.runtime.drivers import stdio

_BUDGET: Final = 1 << 20
_LIMITS: Final = driver.Limits(
    stop_grace_s=1.0, max_message_bytes=1 << 18, stream_buffer=16, tenant_buffer_bytes=_BUDGET
)
_runner = asyncio.Runner()


def _requests() -> list[jsonrpc.Message]:
    meta = {"progressToken": 1, eras.META_LOG_LEVEL: "debug"}
    made: list[Any] = [
        {"id": "one", "method": "tools/call", "params": {"name": "a", "_meta": meta}},
        {"id": 1, "method": "subscriptions/listen", "params": {"_meta": {"progressToken": "two"}}},
        {"id": "1", "method": "resources/read", "params": {"uri": "a:b"}},
    ]
    return [jsonrpc.parse(json.dumps({"jsonrpc": "2.0", **one}).encode(), max_depth=8) for one in made]


_REQUESTS: Final = _requests()


def _made(dice: random.Random) -> bytes:
    lines: list[bytes] = []
    for _ in range(dice.randrange(1, 8)):
        tree: Any = {"jsonrpc": "2.0"}
        kind = dice.randrange(6)
        if kind == 0:
            tree |= {"id": dice.randrange(5), "result": grammar.value(dice)}
        elif kind == 1:
            tree |= {"id": dice.randrange(5), "error": dice.choice(({"code": 1, "message": ""}, grammar.value(dice)))}
        elif kind == 2:
            token = dice.choice((1, 2, "two", grammar.value(dice, 1)))
            tree |= {"method": "notifications/progress", "params": {"progressToken": token, "progress": 1}}
        elif kind == 3:
            meta = {eras.META_SUBSCRIPTION: dice.choice((1, 2, 3, "1", grammar.value(dice, 1)))}
            name = dice.choice(("resources/updated", "message", "cancelled", "tools/list_changed", grammar.text(dice)))
            tree |= {"method": f"notifications/{name}", "params": {"_meta": meta, "requestId": dice.randrange(4)}}
        elif kind == 4:
            tree |= {
                "id": grammar.value(dice, 1),
                "method": dice.choice(("sampling/createMessage", "ping", grammar.text(dice))),
            }
        else:
            tree = grammar.message(dice)
        lines.append(grammar.mutated(dice, grammar.spelled(dice, tree).replace(b"\n", b" ")))
    return b"\n".join([*lines, b""])


def _calls(data: bytes) -> None:
    for modern in (True, False):
        _runner.run(_answered(data, modern=modern))


async def _answered(data: bytes, *, modern: bool) -> None:
    budget = budgets.Budget(_BUDGET)
    strays: list[bytes] = []
    pipe = calls.Calls(
        modern=modern,
        write=json.loads,
        stray=lambda message, _: strays.append(message),
        limit=_LIMITS.stream_buffer,
        budget=budget,
    )
    open_ = [pipe.send(one)[1] for one in _REQUESTS]
    for line in data.split(b"\n"):
        with contextlib.suppress(errors.ParseError):
            pipe.received(line)
    pipe.close(errors.ServerFailed("gone"))
    for sent, call in zip(_REQUESTS, open_, strict=True):
        assert call.done
        assert (call.failure is None) == bool(call.response)
        if call.response:
            tree = json.loads(call.response)
            assert reference.same(tree["id"], json.loads(sent.id)), "the answer names another request"
            assert ("result" in tree) != ("error" in tree)
        for message in call.frames:
            jsonrpc.frame(message)
        call.release()
    for message in strays:
        jsonrpc.frame(message)
    assert len(pipe) == 0
    assert budget.take(_BUDGET), "bytes are counted that nobody holds"


def _lines(data: bytes) -> None:
    dice = random.Random(data)
    whole = _at_once([data])
    assert _at_once(grammar.pieces(dice, data)) == whole
    assert _at_once([data[at : at + 1] for at in range(min(len(data), 4000))]) == whole or len(data) > 4000


def _at_once(pieces: list[bytes]) -> list[object]:
    """What `_written` finds while the clock stands still: so many wrong lines are borne in each second."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_runner.get_loop(), "time", lambda: 1.0)
        return _runner.run(_written(pieces))


async def _written(pieces: list[bytes]) -> list[object]:
    """What became of the calls and of the server's log, when its output came in `pieces`."""
    said: list[str] = []
    budget = budgets.Budget(_BUDGET)
    child = stdio.StdioInstance(_LIMITS, said.append, lambda _: None, modern=True, budget=budget, spools=_none)
    child.calls = calls.Calls(modern=True, write=json.loads, stray=_nobody, limit=16, budget=budget)
    open_ = [child.calls.send(one)[1] for one in _REQUESTS]
    pipe = stdio._Pipes(child)  # pyright: ignore[reportPrivateUsage] - fed without a process
    for piece in pieces:
        pipe.stdout(piece)
    pipe.stdout(b"\n")
    child.calls.close(errors.ServerFailed("gone"))
    found: list[object] = [said]
    for call in open_:
        assert call.done
        found.append((call.response, list(call.frames), str(call.failure)))
        call.release()
    assert budget.take(_BUDGET), "bytes are counted that nobody holds"
    return found


def _nobody(_: bytes, method: str) -> None:
    pass


def _none() -> spool.Spool:
    raise AssertionError("nothing here is large enough for the disk")


TARGETS: Final = (Target("calls", _made, _calls), Target("lines", _made, _lines))
