"""The credential of a request: a key as it is, or a login's access token, renewed when it ends."""

import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Final

import httpx2

from smcp.cli import failures, profiles

if TYPE_CHECKING:
    from smcp.cli import oauth

AHEAD_S: Final = 60
"""An access token with less than these seconds left is renewed before it is used: a body that is sent piece by piece
can't be sent twice."""


def bearer(http: httpx2.Client, chosen: profiles.Chosen, known: profiles.Profiles | None) -> httpx2.Auth:
    """The authentication of requests with `chosen`; new tokens go to `known`, and are asked for over `http`."""
    if chosen.tokens is None or known is None:
        return Fixed(chosen.key if chosen.tokens is None else chosen.tokens.access)
    from smcp.cli import oauth

    return Renewed(chosen, known, oauth.Issuer(http, chosen.url, chosen.tenant))


class Fixed(httpx2.Auth):
    """A key, or a token that nobody renews."""

    def __init__(self, text: str) -> None:
        self._text = text

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._text}"
        yield request


class Renewed(httpx2.Auth):
    """A login's tokens (RFC 6750, 2.1; renewed as OAuth 2.1, 4.3 says)."""

    def __init__(
        self,
        chosen: profiles.Chosen,
        known: profiles.Profiles,
        issuer: "oauth.Issuer",
        now: Callable[[], float] = time.time,
    ) -> None:
        if chosen.tokens is None:
            raise failures.Failure("profiles", f"{chosen.source} holds no login.")
        self._chosen, self._tokens = chosen, chosen.tokens
        self._known = known
        self._issuer = issuer
        self._now = now

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        renewed = self._tokens.expires - self._now() < AHEAD_S
        if renewed:
            self._renew()
        request.headers["Authorization"] = f"Bearer {self._tokens.access}"
        answer = yield request
        # Refused before its time: the platform's clock or keys are others now, or another command renewed it. Once.
        if answer.status_code == 401 and not renewed and isinstance(request.stream, httpx2.ByteStream):
            self._renew()
            request.headers["Authorization"] = f"Bearer {self._tokens.access}"
            yield request

    def _renew(self) -> None:
        self._tokens = self._known.renew(self._chosen, self._tokens, self._issuer.refresh)
