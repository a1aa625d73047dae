"""The official conformance suite through SMCP, at the fixture that is a Worker: a folder that is deployed."""

import pathlib
from collections.abc import Generator

import pytest

from support import suite, workers
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

_TENANT = "suite-worker"


@pytest.fixture(scope="module")
def worker(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Generator[Endpoint]:
    """The Worker, deployed; ended with the module, because the suite's clients never end their sessions."""
    folder: pathlib.Path = workers.project("everything", tmp_path_factory.mktemp("worker"))
    with workers.Site(platform, _TENANT) as site:
        yield site.deploy(folder)


@pytest.mark.requirement("workers:suite:legacy", "workers:suite:modern")
@pytest.mark.parametrize("run", suite.WORKER, ids=suite.name)
def test_a_worker_passes_the_suite_of_both_eras(worker: Endpoint, run: suite.Run) -> None:
    suite.holds(run, worker, "worker")
