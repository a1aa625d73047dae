"""Access tokens that live for five seconds, and a hundred windows of one client that all notice it at once."""

import asyncio
import pathlib

import httpx2
import pytest

from smcp.identity.oauth import lifetimes
from support import byoauth, shortlived, visitors

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_WINDOWS = 100
_ROUNDS = 2
_LIVES = lifetimes.Lifetimes(access_s=5.0, grace_s=60.0)
"""The grace: longer than a slow machine takes for a round."""
_TRIES = 10
_TOGETHER = 4
"""Windows that may try once more at the same time. All hundred of them, on a slow machine, would each wait for the
others between its token and its use, longer than the token lives."""
_EMAIL = "ada@acme.example"


class _Window:
    """One window of a client: it keeps what it got last, and refreshes when it is refused."""

    def __init__(self, issuer: byoauth.Issuer, client: str, pair: byoauth.Pair, turn: asyncio.Semaphore) -> None:
        self._issuer = issuer
        self._client = client
        self._turn = turn
        self.pair = pair

    async def status(self) -> int:
        """What its access token gets."""
        url = f"{self._issuer.base_url}/api/v1/whoami"
        answer = await self._issuer.http.get(url, headers={"Authorization": f"Bearer {self.pair.access}"})
        return answer.status_code

    async def ended(self) -> None:
        """Returns when its access token works no more."""
        for _ in range(600):
            if await self.status() == 401:
                return
            await asyncio.sleep(0.1)  # nobody tells a client
        raise AssertionError("it has not ended")

    async def go_on(self) -> None:
        """Refresh until a token works: a slow machine may have let one end before it was used."""
        if await self._refreshed():
            return
        async with self._turn:
            for _ in range(_TRIES):
                if await self._refreshed():
                    return
        raise AssertionError("no token worked")

    async def _refreshed(self) -> bool:
        """Does the token work that it gets now?"""
        self.pair = byoauth.pair(await self._issuer.refresh(self._client, self.pair.refresh))
        return await self.status() == 200


async def _login(issuer: byoauth.Issuer, running: shortlived.Running) -> tuple[str, byoauth.Pair]:
    bearer = {"Authorization": f"Bearer {running.key}"}
    api, http = f"{running.base_url}/api/v1", issuer.http
    assert (await http.post(f"{api}/tenants", json={"id": "acme"}, headers=bearer)).status_code == 201
    order = {"email": _EMAIL, "roles": ["admin"]}
    made = await http.post(f"{api}/tenants/acme/invitations", json=order, headers=bearer)
    client = str((await issuer.register())["client_id"])
    attempt = issuer.begin(client, api, scope="api:read")
    async with visitors.Visitor(running.base_url, "acme", _EMAIL) as ada:
        await ada.join(made.json()["code"])
        came = await ada.agree(attempt.address)
    return client, byoauth.pair(await issuer.redeem(attempt, came["code"]))


@pytest.mark.requirement("oauth:proof:brief-tokens")
async def test_with_five_second_tokens_a_hundred_racing_refreshes_lose_no_login_and_a_copy_ends_it(
    tmp_path: pathlib.Path,
) -> None:
    with shortlived.opened(tmp_path / "data", _LIVES) as running:
        limits = httpx2.Limits(max_connections=_WINDOWS)
        async with httpx2.AsyncClient(timeout=120.0, trust_env=False, limits=limits) as http:
            issuer = byoauth.Issuer(http, running.base_url, "acme")
            client, first = await _login(issuer, running)
            assert first.said["expires_in"] == 5
            turn = asyncio.Semaphore(_TOGETHER)
            windows = [_Window(issuer, client, first, turn) for _ in range(_WINDOWS)]
            for _ in range(_ROUNDS):
                await windows[0].ended()
                await asyncio.gather(*(window.go_on() for window in windows))
                assert first.access not in {window.pair.access for window in windows}
            # Who stole the first refresh token comes when its time to race is over. All that followed from it ends.
            await asyncio.sleep(_LIVES.grace_s + 1.0)
            await windows[0].go_on()
            assert byoauth.refusal(await issuer.refresh(client, first.refresh)) == "invalid_grant"
            assert {await window.status() for window in windows[:3]} == {401}
            for window in (windows[0], windows[-1]):
                assert byoauth.refusal(await issuer.refresh(client, window.pair.refresh)) == "invalid_grant"
