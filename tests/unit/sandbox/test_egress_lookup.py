"""The host's name system, asked in threads."""

import asyncio
import time

import pytest

from smcp.sandbox.egress import lookup


@pytest.mark.requirement("sandbox:egress:dialled-is-checked")
async def test_a_name_becomes_addresses_and_never_names() -> None:
    made = lookup.Lookup()
    assert set(await made.addresses("localhost", 443)) <= {"127.0.0.1", "::1"}
    assert await made.addresses("192.0.2.7", 443) == ["192.0.2.7"]


@pytest.mark.requirement("sandbox:egress:bounded")
async def test_a_failed_lookup_raises_and_gives_its_place_back() -> None:
    made = lookup.Lookup(at_once=1)
    for _ in range(3):
        with pytest.raises((OSError, UnicodeError)):
            await made.addresses("a" * 64 + ".example", 443)
    assert await made.addresses("192.0.2.7", 443) == ["192.0.2.7"]


@pytest.mark.requirement("sandbox:egress:bounded")
async def test_a_lookup_that_nobody_waits_for_gives_its_place_back() -> None:
    made = lookup.Lookup(at_once=1)
    for _ in range(3):
        waiting = asyncio.create_task(made.addresses("localhost", 443))
        await asyncio.sleep(0)
        waiting.cancel()
    assert await asyncio.wait_for(made.addresses("192.0.2.7", 443), 60) == ["192.0.2.7"]


@pytest.mark.requirement("sandbox:egress:closed")
def test_a_loop_that_is_closed_before_the_answer_is_no_error() -> None:
    async def leave() -> None:
        waiting = asyncio.create_task(lookup.Lookup().addresses("localhost", 443))
        await asyncio.sleep(0)
        waiting.cancel()

    began = time.monotonic()
    asyncio.run(leave())
    assert time.monotonic() - began < 60
