"""An authorization request, read once: what is asked for, or who is told that it is not (OAuth 2.1, 4.1.1).

Until client and redirect URI are known to belong together nothing is sent anywhere: a person sees a page (`PageError`;
OAuth 2.1, 4.1.2.1). From then on the client is told, with `state` and `iss` (`RedirectError`; RFC 9207). All of it can
be done again with the same query: the pages do so at each step, and keep nothing of their own between them.

Only what is written here exists: response type `code`, response mode `query`, PKCE with S256 (OAuth 2.1, 7.6: there is
no downgrade to `plain`, because it is not read at all), no request objects.
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from smcp.access import policy, scopes
from smcp.identity.oauth import clients, forms, redirects, refusals, resources
from smcp.kernel import ids

MAX_STATE: Final = 4096
"""Characters of a state."""
LOGIN_REQUIRED: Final = "login_required"

# RFC 6749, A.5; RFC 7636, 4.2 (SHA-256 in base64url: 43 characters).
_STATE: Final = re.compile(r"[ -~]*")
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_THUMBPRINT: Final = _CHALLENGE  # RFC 7638 with SHA-256


class PageError(Exception):
    """The person is told and nobody else: the request leads nowhere that is known to be the client's."""

    def __init__(self, code: str, description: str, *, detail: str) -> None:
        """`description` holds nothing that the request said. `detail` is a word of a closed list, for the trail."""
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description
        self.detail = detail


class RedirectError(Exception):
    """The client is told, at `location`.

    Not at once where anybody can have made the client and this person never said yes to it: that would be a redirect
    to wherever they like (RFC 9700, 4.11.2). The pages see to it.
    """

    def __init__(
        self, code: str, description: str, location: str, *, client: clients.Client, redirect_uri: str, detail: str
    ) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description
        self.location = location
        self.client = client
        self.redirect_uri = redirect_uri
        self.detail = detail


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """An authorization request that may be asked of a person."""

    tenant: ids.TenantId
    client: clients.Client
    redirect_uri: str
    """One of the client's, as it was asked (of loopback ones with the port)."""
    server: str
    """The server that access is asked for, or `policy.API`."""
    resource: str
    """Its canonical address: the audience of the tokens."""
    scopes: tuple[str, ...]
    """Narrow ones first, all of them possible for the resource."""
    challenge: str
    """PKCE, S256."""
    jkt: str = ""
    """The DPoP key that the code is for (RFC 9449, 10); empty: none was named."""
    issuer: str
    state: str | None = None
    prompt: str = ""
    """What the client wishes (OpenID Connect Core, 3.1.2.1): `login` and `consent` ask the person once more."""

    @property
    def loopback(self) -> bool:
        """Do the answers go to a program on the person's machine, whichever listens there?"""
        return redirects.is_loopback(self.redirect_uri)

    @property
    def destination(self) -> str:
        """Where the answers go, for people."""
        return redirects.host(self.redirect_uri)

    @property
    def elsewhere(self) -> bool:
        """Do the answers go to another web site than the one that the client is named after?"""
        return self.redirect_uri.startswith("https://") and self.destination != self.client.host

    def approved(self, code: str) -> str:
        """Where the browser goes with an authorization code (RFC 6749, 4.1.2; RFC 9207)."""
        return _location(self.redirect_uri, [("code", code)], self.state, self.issuer)

    def refused(self, code: str = refusals.ACCESS_DENIED, description: str = "The person said no.") -> str:
        """Where the browser goes with a refusal (RFC 6749, 4.1.2.1)."""
        return _location(
            self.redirect_uri, [("error", code), ("error_description", description)], self.state, self.issuer
        )


class Authorizations:
    """Reads authorization requests."""

    def __init__(self, known: clients.Clients, addresses: resources.Resources) -> None:
        self._clients = known
        self._resources = addresses

    async def read(self, tenant: ids.TenantId, query: bytes, address: str = "") -> Request:
        """The request in `query` (as it stands in the URL, or in a form), from the network address `address`.

        Raises `PageError`, `RedirectError`, and `errors.Unavailable` where nothing can be known.
        """
        fields = _fields(query)
        client = await self._client(tenant, fields, address)
        uri = fields.get("redirect_uri", "")
        if not uri or not redirects.matches(client.redirect_uris, uri):
            raise PageError(
                refusals.INVALID_REQUEST,
                "The application wants the answer sent to an address that it did not register.",
                detail="redirect",
            )
        issuer = self._resources.issuer(tenant)
        state = fields.get("state")
        try:
            if state is not None and (len(state) > MAX_STATE or not _STATE.fullmatch(state)):
                state = None
                raise _request("state has at most 4096 printable ASCII characters.", "state")
            challenge = _checked(client, fields)
            server = await self._target(tenant, fields.get("resource"))
            wanted = wanted_scopes(server, fields.get("scope", ""))
            prompt = _prompt(fields.get("prompt", ""))
        except refusals.Refused as error:
            told = [("error", error.code), ("error_description", error.description)]
            where = _location(uri, told, state, issuer)
            raise RedirectError(
                error.code, error.description, where, client=client, redirect_uri=uri, detail=error.detail
            ) from error
        return Request(
            tenant=tenant,
            client=client,
            redirect_uri=uri,
            server=server,
            resource=self._resources.url(tenant, server),
            scopes=wanted,
            challenge=challenge,
            jkt=fields.get("dpop_jkt", ""),
            issuer=issuer,
            state=state,
            prompt=prompt,
        )

    async def _client(self, tenant: ids.TenantId, fields: Mapping[str, str], address: str) -> clients.Client:
        client_id = fields.get("client_id")
        if client_id is None:
            raise PageError(refusals.INVALID_REQUEST, "The request names no application.", detail="client")
        try:
            return await self._clients.find(tenant, client_id, address)
        except refusals.Refused as error:
            raise PageError(error.code, error.description, detail=error.detail) from error

    async def _target(self, tenant: ids.TenantId, resource: str | None) -> str:
        if resource is not None and " " in resource:
            raise refusals.Refused(
                refusals.INVALID_TARGET, "A token is for one resource: ask for one at a time.", detail="resource"
            )
        return await self._resources.target(tenant, resource)


def _fields(query: bytes) -> Mapping[str, str]:
    try:
        return forms.parse(query)
    except refusals.Refused as error:
        # Nothing in it can be trusted to be what was meant, the redirect URI least of all.
        raise PageError(error.code, error.description, detail=error.detail) from error


def _checked(client: clients.Client, fields: Mapping[str, str]) -> str:
    """The code challenge of a request that is right so far. Raises `refusals.Refused`."""
    if "request" in fields:
        raise refusals.Refused(
            refusals.REQUEST_NOT_SUPPORTED, "Request objects are not read here: send parameters.", detail="request"
        )
    if "request_uri" in fields:
        raise refusals.Refused(
            refusals.REQUEST_URI_NOT_SUPPORTED, "Nothing is fetched here: send parameters.", detail="request"
        )
    kind = fields.get("response_type")
    if kind is None:
        raise _request("response_type is missing: send code.", "response_type")
    if kind != "code":
        raise refusals.Refused(
            refusals.UNSUPPORTED_RESPONSE_TYPE, "The only response type here is code.", detail="response_type"
        )
    if fields.get("response_mode", "query") != "query":
        raise _request("The only response mode here is query.", "response_mode")
    if clients.AUTHORIZATION_CODE not in client.grant_types:
        raise refusals.Refused(
            refusals.UNAUTHORIZED_CLIENT, "This client did not register for authorization codes.", detail="grant"
        )
    # RFC 7636, 4.3: who says no method means plain, which is refused like any other than S256.
    if fields.get("code_challenge_method") != "S256" or not _CHALLENGE.fullmatch(fields.get("code_challenge", "")):
        raise _request("PKCE is required: send code_challenge (43 characters) and code_challenge_method=S256.", "pkce")
    if "dpop_jkt" in fields and not _THUMBPRINT.fullmatch(fields["dpop_jkt"]):
        raise _request("dpop_jkt is the SHA-256 thumbprint of the DPoP key (43 characters).", "dpop")
    return fields["code_challenge"]


def wanted_scopes(server: str, asked: str) -> tuple[str, ...]:
    """What is asked for and possible at this resource, narrow ones first. Raises `refusals.Refused` (`invalid_scope`).

    Scopes that belong to the other kind of resource are left out, because clients ask for all that metadata names (RFC
    6749, 3.3: the answer to the token request says what was given). Who asks for none gets all of a server, since
    clients of MCP before 2025-11-25 know no scopes, and of the admin API the right to read.
    """
    # Over the admin API tools can be called, too, so all scopes mean something there.
    possible = tuple(scopes.WORDS) if server == policy.API else scopes.MCP
    wanted = scopes.parse(asked)
    if wanted is None or (wanted and not wanted & set(possible)):
        told = f"The scopes of this resource are: {' '.join(possible)}."
        raise refusals.Refused(refusals.INVALID_SCOPE, told, detail="scope")
    default = (scopes.API_READ,) if server == policy.API else possible
    return tuple(one for one in possible if one in wanted) or default


def _prompt(asked: str) -> str:
    wanted = set(asked.split(" ")) - {""}
    if "none" in wanted:
        # Consent is a person's: there is no way without a page.
        raise refusals.Refused(
            LOGIN_REQUIRED, "A person has to be asked: prompt=none is not possible.", detail="prompt"
        )
    return " ".join(sorted(wanted & {"login", "consent"}))


def _location(uri: str, told: list[tuple[str, str]], state: str | None, issuer: str) -> str:
    passed = [] if state is None else [("state", state)]
    return redirects.answer(uri, [*told, *passed, ("iss", issuer)])


def _request(description: str, detail: str) -> refusals.Refused:
    return refusals.Refused(refusals.INVALID_REQUEST, description, detail=detail)
