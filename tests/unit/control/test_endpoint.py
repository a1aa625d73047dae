"""An endpoint without an action, without words or with a path that nobody parses does not import."""

import subprocess
import sys
from typing import Any

import pytest

from smcp.access import policy
from smcp.control import endpoint, routes, views


@pytest.mark.requirement("control:endpoint:action")
def test_an_endpoint_without_an_action_does_not_import() -> None:
    module = (
        "from smcp.control.endpoint import Call, Nothing, endpoint\n"
        "@endpoint('GET', '/x')\n"
        "async def show(call: Call[Nothing, Nothing]) -> None:\n"
        "    'Show.'\n"
    )
    done = subprocess.run([sys.executable, "-c", module], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "missing 1 required keyword-only argument: 'action'" in done.stderr


@pytest.mark.requirement("control:endpoint:action")
def test_every_endpoint_has_an_action_or_a_reason_for_none() -> None:
    for one in routes.ENDPOINTS:
        assert isinstance(one.access, policy.Action) or len(one.access.reason) > 20
    open_paths = {one.path for one in routes.ENDPOINTS if isinstance(one.access, endpoint.Open)}
    assert open_paths == {"/healthz", "/readyz", "/version", "/api/v1/openapi.json"}


@pytest.mark.requirement("control:endpoint:words")
def test_an_endpoint_without_words_does_not_import() -> None:
    async def show(call: endpoint.Call[endpoint.Nothing, endpoint.Nothing]) -> views.Health:
        return views.Health("ok")

    with pytest.raises(TypeError, match="docstring"):
        endpoint.endpoint("GET", "/x", action=policy.Action.TENANT_READ)(show)


@pytest.mark.requirement("control:endpoint:parameters")
def test_an_endpoint_with_a_parameter_that_nobody_parses_does_not_import() -> None:
    with pytest.raises(TypeError, match="no parser for file"):
        endpoint.endpoint("GET", "/x/{file}", action=policy.Action.TENANT_READ)


@pytest.mark.requirement("control:endpoint:parameters")
def test_no_two_endpoints_share_a_method_and_a_path() -> None:
    listed: list[Any] = [(one.method, one.path) for one in routes.ENDPOINTS]
    assert len(listed) == len(set(listed))
