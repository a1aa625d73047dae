"""Passwords: argon2id, in threads of their own, never on the event loop.

Parameters are the second recommended option of RFC 9106, section 4 (64 MiB, three passes, four lanes), which is above
OWASP's least ones. A hash with others is made anew at the next sign-in. There are two threads and a bounded number of
attempts that wait for them: memory is bounded by them (128 MiB), and a flood of attempts is refused rather than queued.
Attempts from devices that are known find room for longer than others.

Where there is no account, or an account without a password, a decoy is verified: that takes the same time.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import os
import secrets
import threading
import unicodedata
from collections.abc import Callable
from typing import Final, TypeVar

import argon2
from argon2 import exceptions, profiles

from smcp.kernel import errors

MIN: Final = 15
"""Characters of a password that is the only way of signing in (NIST SP 800-63B-4, 3.1.1.2)."""
MAX: Final = 256

_THREADS: Final = 2
_NICER: Final = 10
"""So much less do the threads, and the lanes that they start, count than the event loop where processors are few."""
_WAITING: Final = 24
_WAITING_KNOWN: Final = 48
_PATIENCE_S: Final = 20.0
_LEAST_DISTINCT: Final = 5
_RUNS: Final = (
    "01234567890123456789",
    "abcdefghijklmnopqrstuvwxyz",
    "qwertyuiopasdfghjklzxcvbnm",
    "qwertzuiopasdfghjklyxcvbnm",
    "passwordpasswordpassword",
    "letmeinletmeinletmein",
    "correcthorsebatterystaple",
)

_T = TypeVar("_T")


class Passwords:
    """Hashes and verifies."""

    def __init__(self, parameters: argon2.Parameters = profiles.RFC_9106_LOW_MEMORY) -> None:
        """`parameters` other than the default are for showing that older hashes are renewed."""
        self._hasher = argon2.PasswordHasher.from_parameters(parameters)
        self._threads = concurrent.futures.ThreadPoolExecutor(
            _THREADS, thread_name_prefix="argon2", initializer=_step_back
        )
        self._inside = 0
        self._decoy: asyncio.Future[str] | None = None

    async def close(self) -> None:
        """End the threads, after what they work on. Idempotent."""
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """What is kept of a password (PHC string format). Raises `errors.RateLimited`, `errors.Unavailable`."""
        return await self._apart(functools.partial(self._hasher.hash, _spelt(password)), known=True)

    async def verify(self, kept: str | None, password: str, *, known: bool = False) -> bool:
        """Is this the password that `kept` was made of? None: it is not, and that takes as long to say.

        Raises `errors.RateLimited` when too many are being asked, `errors.Unavailable` when it takes too long.
        """
        against = kept or await self.against_nobody()
        right = await self._apart(functools.partial(self._right, against, _spelt(password)), known=known)
        return right and bool(kept)

    def stale(self, kept: str) -> bool:
        """Was it made with other parameters than today's?"""
        return self._hasher.check_needs_rehash(kept)

    def _right(self, kept: str, password: str) -> bool:
        try:
            return self._hasher.verify(kept, password)
        except exceptions.VerifyMismatchError:
            return False

    async def against_nobody(self) -> str:
        """The decoy, made once: the hash of a password that nobody knows."""
        if self._decoy is None or (self._decoy.done() and self._decoy.exception() is not None):
            self._decoy = asyncio.ensure_future(self.hash(secrets.token_urlsafe(24)))
        return await asyncio.shield(self._decoy)

    async def _apart(self, work: Callable[[], _T], *, known: bool) -> _T:
        if self._inside >= (_WAITING_KNOWN if known else _WAITING):
            raise errors.RateLimited("Too many people are signing in at this moment. Wait a little and retry.")
        self._inside += 1
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TimeoutError as error:
            raise errors.Unavailable(detail="argon2 took too long") from error
        finally:
            self._inside -= 1


def _step_back() -> None:
    """Two hashes are eight busy threads: on two processors the event loop would wait for its turn among them."""
    here = threading.get_native_id()  # on Linux, niceness is a thread's own, and its children's
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, here, min(19, os.getpriority(os.PRIO_PROCESS, here) + _NICER))


def check(password: str, *about: str) -> None:
    """Raises `errors.InvalidParams` for a password that is too short, too long or among the first to be guessed.

    `about`: what is known of its owner (address, name). Length is what counts, not kinds of characters (NIST SP
    800-63B-4, 3.1.1.2).
    """
    spelt = _spelt(password)
    if not MIN <= len(spelt) <= MAX:
        raise errors.InvalidParams(
            f"A password has {MIN} to {MAX} characters. Four words that nobody would put together are a good one."
        )
    plain = "".join(spelt.lower().split())
    known = {word for text in about for word in (text.lower(), text.lower().partition("@")[0]) if len(word) > 3}
    left = plain
    for word in sorted(known, key=len, reverse=True):
        left = left.replace("".join(word.split()), "")
    common = any(plain in run + run or plain[::-1] in run + run for run in _RUNS)
    if common or len(set(plain)) < _LEAST_DISTINCT or len(left) < MIN // 2:
        raise errors.InvalidParams("This password is among the first that somebody would try. Choose another one.")


def _spelt(password: str) -> str:
    """One spelling of what looks the same, whatever keyboard it was typed on (NIST SP 800-63B-4, 3.1.1.2)."""
    if len(password) > MAX:
        raise errors.InvalidParams(f"A password has {MIN} to {MAX} characters.")
    return unicodedata.normalize("NFKC", password)
