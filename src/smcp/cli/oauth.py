"""The command line as an OAuth client (RFC 8252: a native application) of one tenant's authorization server.

It is the client `smcp-cli`, which every tenant knows: a public client that nobody has to register and whose answers go
to this machine only. Everything the server says is looked at before it is used: the issuer is the one that was asked
for (RFC 8414, 3.3), its endpoints are of the platform's own origin, and what came back from the browser belongs to this
login (`state`) and to this issuer (RFC 9207).
"""

import base64
import hashlib
import re
import secrets
import time
import urllib.parse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from smcp.cli import failures, profiles

if TYPE_CHECKING:
    import httpx2

CLIENT_ID: Final = "smcp-cli"
"""Known to every tenant (`identity.oauth.clients`)."""
CALLBACK: Final = "/callback"
"""Registered as `http://127.0.0.1/callback`; the port is whatever is free (RFC 8252, 7.3)."""
EVERYTHING: Final = "api:admin mcp:call"
"""What a login asks for; the person's roles still say what it may do."""
READING: Final = "api:read mcp:read"
_CODE: Final = "authorization_code"
_DEVICE: Final = "urn:ietf:params:oauth:grant-type:device_code"
_SLOWER_S: Final = 5.0
"""RFC 8628, 3.5: `slow_down` adds these seconds to the interval."""
_ASK_S: Final = 5.0
"""RFC 8628, 3.2: the interval where the server names none."""
_LONGEST_S: Final = 1800.0
# What may be handed to a browser: a plain address. Nothing that a shell or another program reads as something else.
_ADDRESS: Final = re.compile(r"https?://[A-Za-z0-9.\-_~:/\[\]?&=%+]+", re.ASCII)
_ENDPOINTS: Final = ("authorization_endpoint", "token_endpoint", "revocation_endpoint", "device_authorization_endpoint")


class Attempt(NamedTuple):
    """One login through the browser, from its start to its code."""

    address: str
    """Where the person goes."""
    redirect: str
    state: str
    verifier: str

    def __repr__(self) -> str:
        return f"Attempt(redirect={self.redirect!r}, hidden)"


class Device(NamedTuple):
    """One login through another machine's browser (RFC 8628, 3.2)."""

    device_code: str
    user_code: str
    verification_uri: str
    complete: str
    expires_in: float
    interval: float

    def __repr__(self) -> str:
        return f"Device(verification_uri={self.verification_uri!r}, hidden)"


class Issuer:
    """The authorization server of one tenant."""

    def __init__(self, http: "httpx2.Client", url: str, tenant: str) -> None:
        """`http` has the platform's address `url` as its base; its own credential is never sent here."""
        self._http = http
        self._url = url.rstrip("/")
        self._tenant = tenant
        self.name: Final = f"{self._url}/t/{tenant}"
        self._known: dict[str, str] = {}

    def discover(self) -> dict[str, str]:
        """Its endpoints by their names (RFC 8414). Raises `Failure` where there is none, or it is another's."""
        if not self._known:
            where = f"/.well-known/oauth-authorization-server/t/{urllib.parse.quote(self._tenant, safe='')}"
            status, document = self._answer(self._http.get(where, auth=_nobody()))
            if status != 200:
                raise self._none(status)
            found = document.get("issuer")
            if found != self.name:
                raise failures.Failure(
                    "issuer",
                    f"The platform at {self._url} calls itself {str(found)[:200]!r}, not {self.name!r}.",
                    hint="Log in with the address that it calls itself by, if you trust that one.",
                    exit_code=failures.Exit.UNREACHABLE,
                )
            self._known = {name: self._endpoint(name, document) for name in _ENDPOINTS if name in document}
        return self._known

    def begin(self, redirect: str, scope: str) -> Attempt:
        """A login that comes back to `redirect` (OAuth 2.1, 4.1.1; PKCE S256, RFC 7636; RFC 8707)."""
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(64)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": CLIENT_ID,
            "redirect_uri": redirect,
            "scope": scope,
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "resource": self._resource,
        }
        address = f"{self._known_endpoint('authorization_endpoint')}?{urllib.parse.urlencode(asked)}"
        return Attempt(_plain(address), redirect, state, verifier)

    def finish(self, attempt: Attempt, came: dict[str, str]) -> profiles.Tokens:
        """The tokens for what the browser brought back (`came`: the query of the redirect)."""
        if not secrets.compare_digest(came.get("state", "").encode(), attempt.state.encode()):
            raise _refused("The answer belongs to another login.", "Start again: smcp login")
        if came.get("iss") != self.name:  # before the code goes anywhere (RFC 9207, 2.4)
            raise _refused("The answer came from another authorization server.", "Start again: smcp login")
        if "error" in came:
            raise _declined(came)
        return self._tokens(
            {
                "grant_type": _CODE,
                "code": came.get("code", ""),
                "redirect_uri": attempt.redirect,
                "code_verifier": attempt.verifier,
                "resource": self._resource,
            }
        )

    def refresh(self, spent: profiles.Tokens) -> profiles.Tokens:
        """New tokens for old ones (OAuth 2.1, 4.3)."""
        return self._tokens({"grant_type": "refresh_token", "refresh_token": spent.refresh, "resource": self._resource})

    def ask_device(self, scope: str) -> Device:
        """A code for the person to type elsewhere (RFC 8628, 3.1)."""
        asked = {"scope": scope, "resource": self._resource}
        status, told = self._post("device_authorization_endpoint", asked)
        if status != 200:
            raise self._failed(told)
        try:
            return Device(
                str(told["device_code"]),
                str(told["user_code"]),
                _plain(str(told["verification_uri"])),
                _plain(str(told.get("verification_uri_complete") or told["verification_uri"])),
                min(float(told["expires_in"]), _LONGEST_S),
                max(1.0, min(float(told.get("interval", _ASK_S)), _LONGEST_S)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._odd("the device authorization") from error

    def wait_for_device(
        self, device: Device, wait: Callable[[float], object], now: Callable[[], float] = time.monotonic
    ) -> profiles.Tokens:
        """The tokens, once the person has agreed (RFC 8628, 3.4 and 3.5). `wait` waits seconds."""
        interval, until = device.interval, now() + device.expires_in
        while True:
            wait(interval)
            status, told = self._post("token_endpoint", {"grant_type": _DEVICE, "device_code": device.device_code})
            if status == 200:
                return self._read(told)
            error = told.get("error")
            if error == "slow_down":
                interval += _SLOWER_S
            elif error == "expired_token" or now() >= until:
                raise _refused("Nobody entered the code in time.", "Start again: smcp login --device")
            elif error == "access_denied":
                raise _declined({"error": "access_denied"})
            elif error != "authorization_pending":
                raise self._failed(told)

    def revoke(self, tokens: profiles.Tokens) -> None:
        """End the login: with the refresh token its whole family and its access tokens (RFC 7009)."""
        status, told = self._post("revocation_endpoint", {"token": tokens.refresh, "token_type_hint": "refresh_token"})
        if status != 200:
            raise self._failed(told)

    @property
    def _resource(self) -> str:
        return f"{self._url}/api/v1"

    def _tokens(self, asked: dict[str, str]) -> profiles.Tokens:
        status, told = self._post("token_endpoint", asked)
        if status != 200:
            raise self._failed(told)
        return self._read(told)

    def _read(self, told: dict[str, Any]) -> profiles.Tokens:
        access, refresh, seconds = told.get("access_token"), told.get("refresh_token"), told.get("expires_in")
        if not (isinstance(access, str) and isinstance(refresh, str) and isinstance(seconds, int)):
            raise self._odd("the tokens")
        if str(told.get("token_type")).lower() != "bearer":
            raise self._odd("the tokens")
        return profiles.Tokens(access, refresh, int(time.time()) + seconds)

    def _post(self, endpoint: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        where = self._known_endpoint(endpoint)
        return self._answer(self._http.post(where, data={"client_id": CLIENT_ID, **form}, auth=_nobody()))

    def _answer(self, answer: "httpx2.Response") -> tuple[int, dict[str, Any]]:
        try:
            told: Any = answer.json() if answer.content else {}
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise self._none(answer.status_code)
        return answer.status_code, told  # pyright: ignore[reportUnknownVariableType] - JSON

    def _known_endpoint(self, name: str) -> str:
        found = self.discover().get(name)
        if found is None:
            raise self._odd(f"its metadata, which has no {name},")
        return found

    def _endpoint(self, name: str, document: dict[str, Any]) -> str:
        """An address of the document. One of another origin is not followed: it would get codes and tokens."""
        address = _plain(str(document[name]))
        if not address.startswith(f"{self._url}/"):
            raise self._odd(f"its metadata ({name})")
        return address

    def _none(self, status: int) -> failures.Failure:
        return failures.Failure(
            "no_issuer",
            f"There is nobody to log in with at {self.name} (it answered {status}).",
            hint="Check the address and the tenant: smcp login URL --tenant NAME",
            exit_code=failures.Exit.NOT_FOUND,
        )

    def _odd(self, what: str) -> failures.Failure:
        return failures.Failure(
            "not_smcp",
            f"{self.name} answered with something unexpected in {what}".rstrip(",") + ".",
            hint="Is it an SMCP platform, of a version that fits this command line?",
            exit_code=failures.Exit.UNREACHABLE,
        )

    def _failed(self, told: dict[str, Any]) -> failures.Failure:
        error = str(told.get("error") or "failed")[:100]
        if error == "invalid_grant":
            return _refused(
                "This login has ended or was revoked.", f"Log in again: smcp login {self._url} --tenant {self._tenant}"
            )
        words = str(told.get("error_description") or "The platform refused.")[:500]
        return failures.Failure(error, words, exit_code=failures.Exit.REFUSED)


def _nobody() -> "httpx2.Auth":
    """No credential in the header: the issuer must not see the admin API's."""
    import httpx2

    return httpx2.Auth()


def _plain(address: str) -> str:
    """`address`, if it can be handed to a browser. Raises `Failure` (CVE-2025-6514: an address became a command)."""
    if _ADDRESS.fullmatch(address) is None:
        raise failures.Failure(
            "not_smcp",
            "The platform named an address that is not a plain http or https address; it was not opened.",
            hint="Do not log in there.",
            exit_code=failures.Exit.UNREACHABLE,
        )
    return address


def _declined(came: dict[str, str]) -> failures.Failure:
    words = {"access_denied": "The login was declined."}.get(came["error"])
    told = words or f"The platform refused the login: {came.get('error_description') or came['error']}"[:500]
    return _refused(told, "Start again: smcp login")


def _refused(message: str, hint: str) -> failures.Failure:
    return failures.Failure("login_refused", message, hint=hint, exit_code=failures.Exit.REFUSED)
