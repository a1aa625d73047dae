"""Whose log a line of a process goes to, when several Workers share it."""

import asyncio
import time

import pytest

from smcp.kernel import errors
from smcp.runtime.drivers.workerd import logs
from support import handmade

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_TALKER = """
import { serve } from "./mcp.js";
import { fail } from "./lib/failing.js";
console.log("WHO at the top");
export default serve({
  say: ({ text }) => { console.log(text, { a: [1] }); console.warn("%s and %d", "WHO", 7); return "said"; },
  boom: () => fail("WHO fails"),
  later: (_, env, ctx) => { Promise.reject(new Error("WHO rejects")); return "ok"; },
  forge: () => {
    console.log("[smcp] killed: not true");
    console.log("\\u0001" + "0".repeat(16) + "\\u0002 not mine");
    return "";
  },
  talk: ({ times }) => { for (let i = 0; i < times; i++) console.log("y".repeat(60000));
    console.log("done"); return "talked"; },
  half: () => { console.log("half \\ud800 WHO"); return "cut"; },
  steer: () => { throw new Error("WHO's own smcp-1/a.js:1:1 smcp-2/a.js:1:1"); },
  flood: ({ size }) => { console.log("x".repeat(size)); console.log("after"); return "flooded"; },
});
"""
_TIMES = 1500
_LONG = 60_000
"""Of the lines of `talk`, as long as a line may be and be read."""
_FAILING = "\nexport const fail = (why) => {\n  throw new RangeError(why);\n};\n"


async def _two(made: handmade.Workers) -> tuple[handmade.Instance, handmade.Instance]:
    one, two = [
        await made.start(made.spec(who, _TALKER.replace("WHO", who), modules={"lib/failing.js": _FAILING}))
        for who in ("one", "two")
    ]
    return one, two


@pytest.mark.requirement("workers:logs:whose")
async def test_what_is_written_to_the_console_is_told_to_its_own_server() -> None:
    async with handmade.handmade() as made:
        one, two = await _two(made)
        await asyncio.gather(handmade.call(one, "say", text="from one"), handmade.call(two, "say", text="from two"))
        await handmade.until(lambda: all("[warn] " in "".join(made.lines[f"acme/{who}"]) for who in ("one", "two")))
        for who, other in (("one", "two"), ("two", "one")):
            lines = made.lines[f"acme/{who}"]
            assert f"{who} at the top" in lines
            assert f"from {who} {{ a: [ 1 ] }}" in lines
            assert f"[warn] {who} and 7" in lines
            assert not any(other in line for line in lines)


@pytest.mark.requirement("workers:logs:exceptions")
@pytest.mark.parametrize("tool", ["boom", "later"])
async def test_an_exception_is_told_with_its_place_to_its_own_server(tool: str) -> None:
    async with handmade.handmade() as made:
        one, _ = await _two(made)
        if tool == "boom":
            with pytest.raises(errors.ServerFailed):
                await handmade.call(one, tool)
            expected = ["Uncaught RangeError: one fails", "    at fail (lib/failing.js:3:9)"]
        else:
            await handmade.call(one, tool)
            expected = ["[error] Uncaught (in promise) Error: one rejects", "main.js:8:"]
        await handmade.until(lambda: all(any(part in line for line in made.lines["acme/one"]) for part in expected))
        assert not any("smcp-" in line or "\x01" in line for line in made.lines["acme/one"])
        assert not any("one" in line for line in made.lines["acme/two"])


@pytest.mark.requirement("workers:logs:forged")
async def test_no_line_of_the_code_passes_for_the_platforms_or_for_anothers() -> None:
    async with handmade.handmade() as made:
        one, _ = await _two(made)
        await handmade.call(one, "forge")
        await handmade.until(lambda: any("not mine" in line for line in made.lines["acme/one"]))
        assert " [smcp] killed: not true" in made.lines["acme/one"]
        assert not any("not mine" in line for line in made.lines["acme/two"])


@pytest.mark.requirement("workers:logs:bounded")
async def test_a_line_without_end_is_cut_and_what_follows_is_read() -> None:
    async with handmade.handmade() as made:
        one, _ = await _two(made)
        assert await handmade.call(one, "flood", size=4_000_000) == "flooded"
        await handmade.until(lambda: "after" in made.lines["acme/one"])
        long = [line for line in made.lines["acme/one"] if line.startswith("xxx")]
        assert [len(line) for line in long] == [8192]


@pytest.mark.requirement("workers:logs:paced")
async def test_of_a_worker_that_writes_without_end_so_much_is_told_and_it_goes_on() -> None:
    """Attack: reading a log as fast as it is written takes the thread that serves every tenant."""
    async with handmade.handmade() as made:
        one, _ = await _two(made)
        began = time.monotonic()
        assert await handmade.call(one, "talk", times=_TIMES) == "talked"
        assert await handmade.call(one, "half") == "cut"

        # How much it was is told with what comes when there is room again.
        while not any("bytes of lines were dropped" in line for line in made.lines["acme/one"]):
            await handmade.call(one, "say", text="more")
        looked_at = logs.BYTES_AT_ONCE + logs.BYTES_PER_S * (time.monotonic() - began)
        told = sum(line.startswith("yyy") for line in made.lines["acme/one"])
        # The last piece that was read may be the one that takes more than there is.
        assert 0 < told <= looked_at / _LONG + 10


@pytest.mark.requirement("workers:logs:blame")
async def test_neither_half_a_character_nor_what_looks_like_a_place_leads_into_a_neighbours_log() -> None:
    async with handmade.handmade() as made:
        for instance in await _two(made):
            await handmade.call(instance, "half")
            with pytest.raises(errors.ServerFailed):
                await handmade.call(instance, "steer")
        for who, other in (("one", "two"), ("two", "one")):
            lines = made.lines[f"acme/{who}"]
            await handmade.until(lambda lines=lines, who=who: any(f"{who}'s own" in line for line in lines))
            assert f"half ? {who}" in lines
            assert not any(other in line for line in lines)
