"""Egress is tested on the loop that the platform runs on."""

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The hook of pytest-asyncio; for the tests of this directory."""
    return {"uvloop": uvloop.new_event_loop}
