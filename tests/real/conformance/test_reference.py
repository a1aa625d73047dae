"""The yardstick itself: what the fixture reaches without SMCP in front, behind a key that every request needs.

What fails here can't be asked of SMCP; what passes here and fails through SMCP is SMCP's fault.
"""

import pytest

from support import conformance, everything

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

_KEY = "not-a-secret-but-needed"


@pytest.mark.requirement("mcp:suite:yardstick")
@pytest.mark.parametrize(("revision", "required"), [("2025-06-18", 27), ("2025-11-25", 30), ("2026-07-28", 37)])
def test_the_fixture_alone_passes_every_required_scenario(revision: conformance.Revision, required: int) -> None:
    with everything.over_http(_KEY) as url:
        outcome = conformance.run(url, _KEY, revision)
    assert (outcome.passed, outcome.required, outcome.failures) == (required, required, {}), outcome.table()


@pytest.mark.requirement("mcp:suite:yardstick")
def test_the_suite_fails_where_the_key_is_refused() -> None:
    with everything.over_http(_KEY) as url:
        outcome = conformance.run(url, "another-key", "2025-11-25")
    assert outcome.passed == 0, outcome.table()
