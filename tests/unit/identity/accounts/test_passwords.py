"""Passwords: how they are kept, what is refused, and that the event loop goes on meanwhile."""

import asyncio
import os
import threading

import argon2
import pytest
from argon2 import profiles

from smcp.identity.accounts import passwords
from smcp.kernel import errors
from support import humans


@pytest.mark.requirement("oauth:people:argon2-parameters")
async def test_a_password_is_kept_as_argon2id_with_the_recommended_parameters() -> None:
    hashing = passwords.Passwords()
    kept = await hashing.hash(humans.PASSWORD)
    await hashing.close()
    assert argon2.extract_parameters(kept) == profiles.RFC_9106_LOW_MEMORY
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert humans.PASSWORD not in kept


@pytest.mark.requirement("oauth:people:argon2-apart")
async def test_the_event_loop_goes_on_while_passwords_are_verified() -> None:
    hashing = passwords.Passwords()
    await hashing.against_nobody()
    turns, seen = 0, set[str]()
    asked = [asyncio.ensure_future(hashing.verify(None, humans.PASSWORD)) for _ in range(4)]
    while not all(one.done() for one in asked):
        turns += 1
        seen |= {thread.name for thread in threading.enumerate() if thread.name.startswith("argon2")}
        await asyncio.sleep(0)
    await hashing.close()
    # Held, it would turn a few times: once for each that is handed over and comes back.
    assert turns > 100
    assert 1 <= len(seen) <= 2
    assert [one.result() for one in asked] == [False] * 4


@pytest.mark.requirement("oauth:people:argon2-apart")
async def test_the_event_loop_goes_first_where_processors_are_few() -> None:
    hashing = passwords.Passwords(humans.CHEAP)
    await hashing.against_nobody()
    workers = [thread.native_id for thread in threading.enumerate() if thread.name.startswith("argon2")]
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    seen = [os.getpriority(os.PRIO_PROCESS, worker) for worker in workers if worker is not None]
    await hashing.close()
    assert seen == [min(19, own + 10)] * len(workers)
    assert seen


@pytest.mark.requirement("oauth:people:argon2-bounded")
async def test_a_flood_of_attempts_is_refused_and_known_devices_still_find_room() -> None:
    hashing = passwords.Passwords(humans.CHEAP)
    await hashing.against_nobody()
    kept = await hashing.hash(humans.PASSWORD)
    flood = [asyncio.ensure_future(hashing.verify(kept, "x" * 20)) for _ in range(500)]
    owner = asyncio.ensure_future(hashing.verify(kept, humans.PASSWORD, known=True))
    said = await asyncio.gather(*flood, return_exceptions=True)
    refused = [one for one in said if isinstance(one, errors.RateLimited)]
    assert len(refused) == 500 - 24
    assert [one for one in said if not isinstance(one, errors.RateLimited)] == [False] * 24
    assert await owner
    # Afterwards there is room again.
    assert await hashing.verify(kept, humans.PASSWORD)
    await hashing.close()


@pytest.mark.requirement("oauth:people:password-rules")
def test_a_password_is_long_and_not_among_the_first_to_be_guessed() -> None:
    for good in (humans.PASSWORD, humans.OTHER, "ein überaus langes Wort", "x7GhtRplQzmWvBn"):
        passwords.check(good, "ada@acme.example", "Ada Lovelace")
    for bad in (
        "short",
        "x" * 300,
        "aaaaaaaaaaaaaaaaaaaa",
        "12345678901234567",
        "qwertyuiopasdfgh",
        "passwordpassword",
        "ada@acme.example",
        "Ada Lovelace Ada Lovelace",
        "correct horse battery staple",
    ):
        with pytest.raises(errors.InvalidParams):
            passwords.check(bad, "ada@acme.example", "Ada Lovelace")


@pytest.mark.requirement("oauth:people:password-rules")
async def test_what_looks_the_same_is_the_same_password() -> None:
    hashing = passwords.Passwords(humans.CHEAP)
    kept = await hashing.hash("caf\u00e9 au lait avec sucre")
    assert await hashing.verify(kept, "cafe\u0301 au lait avec sucre")
    await hashing.close()
