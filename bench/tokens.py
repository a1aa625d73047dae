"""What it takes to tell who is calling: an access token beside an API key, each as a request meets it.

| way | |
|---|---|
| warm | asked again by a connection that has asked before: what every call but the first pays |
| warm, after a change | something else in the store was written meanwhile |
| known | verified before, met on a new connection |

In this process, on a real store in a directory; nothing else is running.
"""

import pathlib
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import uvloop

from bench import figures
from smcp.access import policy
from smcp.identity import authenticator
from smcp.identity.authn import api_key, base
from smcp.identity.oauth import lifetimes
from smcp.kernel import clock
from support import storage, tokens

_TOPIC: Final = "who a credential is of, time of this process"
_KEY: Final = figures.BARE
"""The API key is what a token is compared with."""
_TOKEN: Final = "access token"
_BATCH: Final = 100


class Plan(NamedTuple):
    """Rounds, and questions in each of every way."""

    rounds: int
    questions: int


def measure(plan: Plan, found: figures.Figures) -> None:
    """Add the figures, key and token in turns. Raises RuntimeError when an answer was wrong."""
    with tempfile.TemporaryDirectory(prefix="smcp-bench-") as directory:
        uvloop.run(_measure(plan, found, pathlib.Path(directory)))


async def _measure(plan: Plan, found: figures.Figures, directory: pathlib.Path) -> None:
    async with storage.opened(directory) as store, tokens.around(store, lifetimes.Lifetimes()) as room:
        keys = api_key.ApiKeys(
            store, room.tenants.active, clock.SystemClock(), room.roles, tenant_served=room.tenants.served
        )
        issued = await keys.create(tokens.ACME, [policy.Role.MCP_USER], "", expires_in_s=None)
        held = await room.log_in()
        both: dict[str, tuple[base.Method, str, str]] = {
            _KEY: (keys, issued.text, issued.key.id),
            _TOKEN: (room.made.method, held.access, room.user.id),
        }
        for how, (method, text, who) in both.items():
            asked = authenticator.Authenticator((method,))
            if (await asked.authenticate(f"Bearer {text}")).id != who:
                raise RuntimeError(f"{how}: another principal")
        await keys.close()
        for _ in range(plan.rounds):
            for how, (method, text, _) in both.items():
                await _round(found, room, how, authenticator.Authenticator((method,)), f"Bearer {text}", plan)
        await keys.close()


async def _round(
    found: figures.Figures,
    room: tokens.Room,
    how: str,
    asked: authenticator.Authenticator,
    header: str,
    plan: Plan,
) -> None:
    recall = asked.recall(header)
    if recall is None or recall() is None:
        raise RuntimeError(f"{how}: memory does not know it")
    found.add(_TOPIC, "warm", how, "us", _each(recall, plan.questions))
    changed: list[float] = []
    for number in range(max(10, plan.questions // 100)):
        await room.store.tenant(tokens.ACME).kv.put(("bench",), str(number).encode())
        before = time.perf_counter()
        who = recall()
        changed.append((time.perf_counter() - before) * 1e6)
        if who is None:
            raise RuntimeError(f"{how}: another record ended it")
    found.add(_TOPIC, "warm, after a change", how, "us", changed)
    found.add(_TOPIC, "known", how, "us", await _awaited(lambda: asked.authenticate(header), plan.questions // 10))


def _each(ask: Callable[[], policy.Principal | None], number: int) -> list[float]:
    """Microseconds of one, over batches: one alone is shorter than looking at the clock."""
    taken: list[float] = []
    for _ in range(max(1, number // _BATCH)):
        before = time.perf_counter()
        for _ in range(_BATCH):
            ask()
        taken.append((time.perf_counter() - before) / _BATCH * 1e6)
    return taken


async def _awaited(ask: Callable[[], Awaitable[policy.Principal]], number: int) -> list[float]:
    taken: list[float] = []
    for _ in range(max(10, number)):
        before = time.perf_counter()
        await ask()
        taken.append((time.perf_counter() - before) * 1e6)
    return taken
