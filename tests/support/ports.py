"""Ports for programs that must be told theirs before they listen."""

import contextlib
import random
import socket
from typing import Final

_FROM, _TO = 10_000, 30_000
"""Below what systems hand out by themselves: nobody gets one of these in between who has not asked for it."""
_ANY: Final = random.SystemRandom()


def free() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that nobody else is handed before it is taken."""
    for port in _ANY.sample(range(_FROM, _TO), 1000):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a thousand ports are taken")
