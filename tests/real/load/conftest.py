"""Platforms under load: each test file says what its own may take."""

import contextlib
import pathlib
from collections.abc import Callable, Generator, Mapping

import pytest

from support import wire
from support.platform import Platform

# Room in the plan, so that a test meets only the limit that it is about; no copy that nobody asked for.
_ROOM = {
    "SMCP_LIMITS_PLATFORM_PER_SECOND": "1000000",
    "SMCP_LIMITS_TENANT_PER_MINUTE": "10000000",
    "SMCP_LIMITS_PRINCIPAL_PER_MINUTE": "10000000",
    "SMCP_LIMITS_TENANT_CONCURRENCY": "4000",
    "SMCP_LIMITS_PRINCIPAL_CONCURRENCY": "4000",
    "SMCP_LIMITS_STANDARD": "session_per_minute=10000000,spares=0",
}

Running = Callable[[Mapping[str, str]], contextlib.AbstractContextManager[Platform]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Running:
    """Starts a platform with settings of the test's own, that finds the scripted server."""
    shelf: pathlib.Path = tmp_path_factory.mktemp("wheels")
    wire.wheel(shelf)

    @contextlib.contextmanager
    def start(environ: Mapping[str, str]) -> Generator[Platform]:
        settings = {**_ROOM, "SMCP_DEPLOY_WHEEL_DIRS": str(shelf), **environ}
        with Platform(tmp_path_factory.mktemp("load"), settings) as platform:
            yield platform

    return start
