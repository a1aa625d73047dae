"""The three builds of the fixture, hosted and alone."""

from collections.abc import Generator

import pytest

from support import everything
from support.clients import Endpoint
from support.everything import Build
from support.platform import Platform

KEY = "not-a-secret-but-needed"


@pytest.fixture(scope="session")
def builds(platform: Platform) -> dict[Build, Endpoint]:
    """All builds over stdio, hosted by one tenant; the key may only call."""
    platform.create_tenant("builds")
    admin, caller = platform.create_key("builds", "admin"), platform.create_key("builds")
    found: dict[Build, Endpoint] = {}
    build: Build
    for build in ("dual", "legacy", "modern"):
        url = platform.deploy("builds", f"pypi:{everything.NAME}", build, admin, everything.manifest(build))
        found[build] = Endpoint(url, caller)
    return found


@pytest.fixture(scope="module")
def alone() -> Generator[dict[Build, Endpoint]]:
    """All builds over streamable HTTP, without SMCP and behind a key."""
    with (
        everything.over_http(KEY, "dual") as dual,
        everything.over_http(KEY, "legacy") as legacy,
        everything.over_http(KEY, "modern") as modern,
    ):
        yield {"dual": Endpoint(dual, KEY), "legacy": Endpoint(legacy, KEY), "modern": Endpoint(modern, KEY)}
