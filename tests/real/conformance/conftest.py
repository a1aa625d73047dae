"""The three builds of the fixture, without SMCP."""

from collections.abc import Generator

import pytest

from support import everything
from support.clients import Endpoint
from support.everything import Build

KEY = "not-a-secret-but-needed"


@pytest.fixture(scope="module")
def alone() -> Generator[dict[Build, Endpoint]]:
    """All builds over streamable HTTP and behind a key."""
    with (
        everything.over_http(KEY, "dual") as dual,
        everything.over_http(KEY, "legacy") as legacy,
        everything.over_http(KEY, "modern") as modern,
    ):
        yield {"dual": Endpoint(dual, KEY), "legacy": Endpoint(legacy, KEY), "modern": Endpoint(modern, KEY)}
