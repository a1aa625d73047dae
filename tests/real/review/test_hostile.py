"""Hosted servers that mean harm, and people who lose their rights while something of theirs runs."""

import asyncio
import pathlib
from collections.abc import Generator

import pytest

from support import rude
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

_ODD = '[env]\nRUDE_VERSION = "Some Version, Ltd"\n'


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Generator[Platform]:
    """A platform that knows the rude server, with short patience."""
    wheels: pathlib.Path = tmp_path_factory.mktemp("wheels")
    rude.wheel(wheels)
    settings = {"SMCP_DEPLOY_WHEEL_DIRS": str(wheels), "SMCP_GATEWAY_HEARTBEAT_S": "0.5"}
    with Platform(tmp_path_factory.mktemp("rude"), settings) as running:
        running.create_tenant("acme")
        yield running


@pytest.mark.requirement("review:session:version")
async def test_a_server_that_answers_initialize_oddly_opens_a_session_all_the_same(platform: Platform) -> None:
    admin = platform.create_key("acme", "admin")
    url = platform.deploy("acme", f"pypi:{rude.NAME}", "odd", admin, _ODD)
    async with rude.client(platform.create_key("acme")) as http:
        session = await rude.opened(http, url)
        answer = await http.post(url, **rude.legacy("tools/call", session, name="ok"))
        assert answer.status_code == 200, answer.text
        assert "result" in answer.json()
