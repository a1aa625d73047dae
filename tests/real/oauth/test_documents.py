"""schemathesis over both documents: no 5xx, nothing that the document does not say, no success without a credential."""

import asyncio
import pathlib
import subprocess
import sys
from collections.abc import Generator

import httpx2
import pytest

from support import byoauth, idp
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(1500)]

_PROGRAM = pathlib.Path(sys.executable).with_name("schemathesis")
_RUN_S = 1200.0
_CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance,ignored_auth"
)
_FREE = {
    "SMCP_LIMITS_UNAUTHENTICATED_PER_MINUTE": "1000000",
    "SMCP_GATEWAY_BODY_TIMEOUT_S": "2",
}


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Generator[Platform]:
    """A platform of its own: what is sent to it at random may suspend, revoke and delete."""
    with Platform(tmp_path_factory.mktemp("documents"), _FREE) as running:
        running.create_tenant("acme")
        yield running


def _run(platform: Platform, document: str, folder: pathlib.Path, *options: str, token: str = "") -> None:
    config = folder / "schemathesis.toml"
    # The credential is in a file, not in argv.
    shown = f'headers = {{ Authorization = "Bearer {token}" }}\n' if token else ""
    # A tenant that there is, so that more than its absence is answered.
    config.write_text(f'{shown}parameters = {{ "path.tenant" = "acme" }}\n')
    done = subprocess.run(
        [
            *(_PROGRAM, f"--config-file={config}", "run", f"{platform.base_url}{document}", "--checks", _CHECKS),
            *("--workers", "1", "--seed", "8", "--no-color", "--warnings", "off"),
            *("--suppress-health-check", "all", "--request-timeout", "120", "--generation-deterministic"),
            *options,
        ],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_RUN_S,
        check=False,
    )
    print(done.stdout[-3000:])
    assert done.returncode == 0, f"{done.stdout[-12000:]}{done.stderr[-2000:]}\n{platform.story()[-3000:]}"
    assert "Traceback" not in platform.log.read_text("utf-8")


@pytest.mark.requirement("oauth:proof:documents")
def test_the_oauth_document_holds(lonely: Platform, tmp_path: pathlib.Path) -> None:
    _run(lonely, "/oauth/openapi.json", tmp_path, "--phases", "examples,coverage,fuzzing", "--max-examples", "10")


@pytest.mark.requirement("oauth:proof:documents")
def test_the_admin_document_holds_for_a_person_with_a_token(lonely: Platform, tmp_path: pathlib.Path) -> None:
    token = asyncio.run(_token(lonely))
    _run(
        lonely,
        "/api/v1/openapi.json",
        tmp_path,
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        "5",
        token=token,
    )


async def _token(platform: Platform) -> str:
    async with (
        httpx2.AsyncClient(timeout=60.0) as http,
        await idp.invite(platform, "acme", "ada@acme.example", "admin") as person,
    ):
        issuer = byoauth.Issuer(http, platform.base_url, "acme")
        client = str((await issuer.register(client_name="schemathesis"))["client_id"])
        attempt = issuer.begin(client, f"{platform.base_url}/api/v1", scope="api:admin mcp:call")
        return byoauth.pair(await issuer.redeem(attempt, (await person.agree(attempt.address))["code"])).access
