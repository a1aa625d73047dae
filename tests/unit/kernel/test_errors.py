"""One tree of errors: three voices that never mix."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.kernel import errors


def _tree(root: type[errors.SmcpError] = errors.SmcpError) -> list[type[errors.SmcpError]]:
    return [root, *(found for child in root.__subclasses__() for found in _tree(child))]


@pytest.mark.requirement("kernel:errors:voices")
def test_every_class_has_a_code_of_its_own_and_a_public_text() -> None:
    codes = [one.code for one in _tree()]
    assert len(codes) == len(set(codes))
    for one in _tree():
        assert one.code.replace("_", "").isalnum()
        assert one.code == one.code.lower()
        assert one.text.endswith(".")
        assert one.__doc__


@pytest.mark.requirement("kernel:errors:voices")
@pytest.mark.parametrize("kind", _tree(), ids=lambda one: one.__name__)
def test_the_private_detail_stays_out_of_what_callers_read(kind: type[errors.SmcpError]) -> None:
    error = kind(detail="row 7 of the store")
    assert "row 7" not in error.public
    assert "row 7" not in repr(error)
    assert "row 7" not in str(error.data)
    assert "row 7" in str(error)
    assert error.code in str(error)


@pytest.mark.requirement("kernel:errors:codes")
@pytest.mark.parametrize("kind", _tree(), ids=lambda one: one.__name__)
def test_statuses_and_json_rpc_codes_are_from_the_ranges_that_the_specifications_give(
    kind: type[errors.SmcpError],
) -> None:
    standard = {-32700, -32600, -32601, -32602, -32603}
    specified = {-32020, -32021, -32022}
    assert kind.rpc_code in standard | specified or -32019 <= kind.rpc_code <= -32000
    assert 400 <= kind.http_status <= 599
    # JSON-RPC's own words for "the caller's fault" never go with "our fault", nor the reverse.
    assert (kind.rpc_code == -32603) == (kind.http_status == 500)


@pytest.mark.requirement("kernel:errors:retry")
@given(st.floats(min_value=0, max_value=86_400, allow_nan=False))
def test_the_wait_is_whole_seconds_and_never_too_short(seconds: float) -> None:
    error = errors.RateLimited(retry_after=seconds)
    headers = dict(error.headers)
    wait = int(headers["Retry-After"])
    assert wait >= 1
    assert seconds - 0.001 <= wait <= seconds + 1.001
    assert error.data == {"retryAfter": wait}
