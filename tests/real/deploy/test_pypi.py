"""A real package from the configured package index, once for the module."""

import asyncio
import os
import pathlib

import pytest

from smcp.deploy import deployer, versions
from support import workshop

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def deployed(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[deployer.Operation, versions.Deployment, list[str]]:
    """mcp-server-time, deployed, and the last lines of `mcp-server-time --help` in its sandbox."""

    async def made() -> tuple[deployer.Operation, versions.Deployment, list[str]]:
        data = tmp_path_factory.mktemp("pypi")
        cache = pathlib.Path(os.environ.get("SMCP_TEST_PIP_CACHE") or data / "pip-cache")
        async with workshop.opened(data, environ=os.environ, pip_cache=cache) as shop:
            operation = await shop.deploy("pypi:mcp-server-time", "time", 'args = ["--help"]')
            assert operation.error is None, operation
            _, deployment = await shop.versions.live(workshop.ACME, "time")
            outcome = await shop.run(deployment)
            return operation, deployment, list(outcome.tail)

    return asyncio.run(made())


@pytest.mark.requirement("deploy:deploy:pypi")
def test_an_unmodified_server_from_the_index_runs(
    deployed: tuple[deployer.Operation, versions.Deployment, list[str]],
) -> None:
    operation, deployment, said = deployed
    assert operation.state == "succeeded"
    assert deployment.argv == ("/app/venv/bin/mcp-server-time", "--help")
    assert any("--local-timezone" in line for line in said)


@pytest.mark.requirement("deploy:lock:complete")
def test_the_lock_names_every_package_with_its_digest(
    deployed: tuple[deployer.Operation, versions.Deployment, list[str]],
) -> None:
    _, deployment, _ = deployed
    names = [one.name for one in deployment.lock]
    assert names == sorted(set(names))
    assert {"mcp-server-time", "mcp", "pydantic"} <= set(names)
    assert all(len(one.sha256) == 64 and one.version for one in deployment.lock)
    mine = next(one for one in deployment.lock if one.name == "mcp-server-time")
    assert deployment.source == f"pypi:mcp-server-time=={mine.version}"
