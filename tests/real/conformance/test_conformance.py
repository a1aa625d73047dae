"""The official conformance suite through SMCP: the fixture hosted over stdio, an API key on every request."""

import pytest

from support import conformance
from support.clients import Endpoint

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

# What is reached, exactly: a change in either direction is looked at.
REACHED: dict[conformance.Revision, int] = {"2025-06-18": 27, "2025-11-25": 30, "2026-07-28": 37}


@pytest.mark.requirement("mcp:suite:legacy", "mcp:suite:modern")
@pytest.mark.parametrize(("revision", "required"), [("2025-06-18", 27), ("2025-11-25", 30), ("2026-07-28", 37)])
def test_a_hosted_server_passes_the_official_suite(
    fixture_endpoint: Endpoint, revision: conformance.Revision, required: int
) -> None:
    outcome = conformance.run(fixture_endpoint.url, fixture_endpoint.key, revision)
    print(outcome.table())
    assert (outcome.passed, outcome.required) == (REACHED[revision], required), outcome.table()
