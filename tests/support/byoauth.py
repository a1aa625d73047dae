"""An OAuth client of bytes: it sends exactly what a test says, right or wrong."""

import base64
import hashlib
import json
import secrets
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2

LOOPBACK: Final = "http://127.0.0.1:7777/callback"
SCOPES: Final = "mcp:read mcp:call"


@dataclass(frozen=True)
class Attempt:
    """One authorization request."""

    address: str
    client: str
    redirect: str
    resource: str | None
    verifier: str = field(repr=False)
    state: str = field(repr=False)


@dataclass(frozen=True)
class Pair:
    """What a token endpoint gave."""

    access: str = field(repr=False)
    refresh: str = field(repr=False)
    said: dict[str, Any] = field(repr=False)


class Issuer:
    """The authorization server of one tenant, spoken to over one connection pool."""

    def __init__(self, http: httpx2.AsyncClient, base_url: str, tenant: str) -> None:
        self.http = http
        self.base_url = base_url
        self.tenant = tenant
        self.name = f"{base_url}/t/{tenant}"

    def at(self, endpoint: str) -> str:
        """The address of one of its endpoints."""
        return f"{self.base_url}/oauth/{self.tenant}/{endpoint}"

    async def register(self, **said: Any) -> dict[str, Any]:
        """A new public client (RFC 7591); fails when it is refused."""
        order = {"redirect_uris": [LOOPBACK], "client_name": "By hand", "token_endpoint_auth_method": "none", **said}
        answer = await self.http.post(self.at("register"), json=order)
        assert answer.status_code == 201, f"{answer.status_code} {answer.text}"
        return dict(answer.json())

    def begin(
        self,
        client: str,
        resource: str | None,
        *,
        redirect: str = LOOPBACK,
        scope: str | None = SCOPES,
        **changed: str | None,
    ) -> Attempt:
        """An authorization request; `changed` fields are put in, or with None left out."""
        verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(16)
        asked: dict[str, str | None] = {
            "response_type": "code",
            "client_id": client,
            "redirect_uri": redirect,
            "scope": scope,
            "state": state,
            "code_challenge": challenge(verifier),
            "code_challenge_method": "S256",
            "resource": resource,
            **changed,
        }
        query = urllib.parse.urlencode({name: value for name, value in asked.items() if value is not None})
        return Attempt(f"{self.at('authorize')}?{query}", client, redirect, resource, verifier, state)

    async def redeem(self, attempt: Attempt, code: str, **changed: str | None) -> httpx2.Response:
        """Ask for the tokens of a code."""
        form: dict[str, str | None] = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": attempt.redirect,
            "client_id": attempt.client,
            "code_verifier": attempt.verifier,
            "resource": attempt.resource,
        }
        return await self.send("token", {**form, **changed})

    async def refresh(self, client: str, refresh: str, **changed: str | None) -> httpx2.Response:
        """Ask for new tokens."""
        form: dict[str, str | None] = {"grant_type": "refresh_token", "refresh_token": refresh, "client_id": client}
        return await self.send("token", {**form, **changed})

    async def revoke(self, client: str, token: str) -> httpx2.Response:
        """Revoke a token (RFC 7009)."""
        return await self.send("revoke", {"client_id": client, "token": token})

    async def send(self, endpoint: str, form: dict[str, str | None], **headers: str) -> httpx2.Response:
        """POST a form."""
        data = {name: value for name, value in form.items() if value is not None}
        return await self.http.post(self.at(endpoint), data=data, headers=headers)


def pair(answer: httpx2.Response) -> Pair:
    """The tokens in an answer; fails when it is a refusal."""
    assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
    said: dict[str, Any] = answer.json()
    assert said["token_type"].lower() in ("bearer", "dpop")
    assert answer.headers["cache-control"] == "no-store"  # RFC 6749, 5.1
    return Pair(said["access_token"], said.get("refresh_token", ""), said)


def refusal(answer: httpx2.Response) -> str:
    """The code of a refusal (RFC 6749, 5.2); fails when it is none."""
    assert 400 <= answer.status_code < 500, f"{answer.status_code} {answer.text}"
    said = answer.json()
    assert isinstance(said["error"], str), said
    return str(said["error"])


def challenge(verifier: str) -> str:
    """RFC 7636, 4.2."""
    return encoded(hashlib.sha256(verifier.encode()).digest())


def encoded(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a JWT, unverified."""

    def read(part: str) -> dict[str, Any]:
        return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))

    header, claims, _ = token.split(".")
    return read(header), read(claims)
