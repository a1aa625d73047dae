"""What is spoken by hand is spoken on the platform's event loop, and on the plain one."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test of this directory runs on both."""
    made: dict[str, Any] = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return made
