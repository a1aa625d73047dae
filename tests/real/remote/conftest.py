"""One platform that may reach this machine's own network, and the builds of the fixture elsewhere on it."""

from collections.abc import Generator

import pytest

from support import elsewhere
from support.elsewhere import Elsewhere
from support.platform import Platform

_SETTINGS = {
    **elsewhere.SETTINGS,
    "SMCP_EGRESS_HOSTS": "inner.example.com=10.1.2.3,mixed.example.com=127.0.0.1,mixed.example.com=10.1.2.3",
    # Some servers say nothing at all when they are asked who they are: each of them costs a deployment this long.
    "SMCP_RUNTIME_START_TIMEOUT_S": "40",
}


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Generator[Platform]:
    """The platform, running."""
    with Platform(tmp_path_factory.mktemp("remote"), _SETTINGS) as platform:
        yield platform


@pytest.fixture(scope="session")
def remotes(opened: Platform) -> Generator[Elsewhere]:
    """The builds, each deployed when it is first asked for."""
    with Elsewhere(opened) as found:
        yield found
