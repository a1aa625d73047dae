"""Egress is tested on the loop that the platform runs on."""

import asyncio
from collections.abc import Callable, Generator, Mapping

import pytest
import uvloop

from support import netcell


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The hook of pytest-asyncio; for the tests of this directory."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def site() -> Generator[int]:
    """The port of a website on this machine's loopback."""
    with netcell.website() as port:
        yield port
