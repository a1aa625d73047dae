"""Who a client is that asks for tokens: nothing, a secret, or a signature (OAuth 2.1, 2.4; RFC 7523).

Each client has one method, that which it registered; another one is refused, also a right secret in the wrong place. A
request shows one proof (RFC 6749, 2.3). Every refusal is the same `invalid_client`, whether the client does not exist,
is revoked or did not prove itself; the reason goes to the trail.

| `private_key_jwt` | |
|---|---|
| algorithm | of `keysets.ALGORITHMS`; never `none` or a symmetric one (RFC 8725, 3.1) |
| header | `jku`, `jwk`, `x5u`, `x5c` and `crit` are refused, not ignored (RFC 8725, 3.10) |
| `iss`, `sub` | both the client id (RFC 7523, 3) |
| `aud` | the issuer or the token endpoint, alone: one that names somebody else too could be used there |
| `exp` | at most `LIFE_S` ahead |
| `jti` | required, and good once: kept until the assertion has ended |
| keys | those on record, or those at `jwks_uri` (`remote_keys`) |
"""

import base64
import binascii
import re
import urllib.parse
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from joserfc import errors as jose_errors
from joserfc import jwk, jws

from smcp.identity.oauth import clients, keysets, refusals, remote_keys, resources
from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids, jsonrpc
from smcp.stores import records, shares
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kv

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
METHODS: Final = tuple(sorted(one.value for one in clients.AuthMethod))
LIFE_S: Final = 600.0
"""How far ahead an assertion may end (seconds)."""
SKEW_S: Final = 30.0
"""How far clocks may differ (seconds)."""
_LONGEST: Final = 8192
_LONGEST_JTI: Final = 256
_LONGEST_CLAIMS: Final = 4096
_HEADER: Final = frozenset({"alg", "kid", "typ"})
_TYPES: Final = frozenset({"jwt", "client-authentication+jwt"})
_BASIC: Final = re.compile(r"basic +([A-Za-z0-9+/]+=*)", re.IGNORECASE)


class _Spent(msgspec.Struct, frozen=True):
    """An assertion that was used."""

    at: float


class _Proof(msgspec.Struct, frozen=True):
    """What a request shows."""

    client_id: str
    method: clients.AuthMethod
    secret: str = ""

    def __repr__(self) -> str:
        return f"_Proof({self.client_id!r}, {self.method.value!r})"


class ClientAuth:
    """Authenticates clients of all tenants."""

    def __init__(
        self,
        store: stores.Store,
        known: clients.Clients,
        remote: remote_keys.RemoteKeys,
        addresses: resources.Resources,
        clock: clocks.Clock,
        take: Callable[..., None],
    ) -> None:
        """`take` counts an assertion for a tenant and a name, before it is kept (`tenancy.attempts.Shares.take`)."""
        self._store = store
        self._take = take
        self._clients = known
        self._remote = remote
        self._resources = addresses
        self._clock = clock
        self._spent = records.Records(store, _Spent, ("oauth-assertion",), cached=1)
        self._strange = records.Records(store, _Spent, shares.prefix(shares.ASSERTION), cached=1)

    async def authenticate(
        self, tenant: ids.TenantId, authorization: str | None, form: Mapping[str, str], address: str = ""
    ) -> clients.Client:
        """The client that sends a request with this Authorization header and these parameters. `address` is where it
        comes from, for the rate of what is fetched for it.

        Raises `refusals.Refused`: `invalid_client` (401), or `invalid_request` for two proofs or an unreadable one;
        `errors.RateLimited` for a client with too many assertions, or whose keys can't be read for now;
        `errors.Unavailable`.
        """
        proof = _read(authorization, form)
        try:
            client = await self._clients.known(tenant, proof.client_id)
        except clients.UnknownClient as error:
            # The same steps as for a wrong secret: how long a refusal takes must not say which clients exist.
            self._clients.proves(None, proof.secret)
            raise refusals.client(error.detail, basic=authorization is not None) from None
        if proof.method is not client.auth_method:
            self._clients.proves(None, proof.secret)
            raise refusals.client("method", basic=authorization is not None)
        if proof.method is clients.AuthMethod.PRIVATE_KEY:
            await self._assertion(await self._current(client, address), proof.secret, address)
        elif proof.method is not clients.AuthMethod.NONE and not self._clients.proves(client, proof.secret):
            raise refusals.client("secret", basic=authorization is not None)
        return client

    async def _current(self, client: clients.Client, address: str) -> clients.Client:
        """The client with the keys that its document has now: those that were taken out of it count no more."""
        if client.kind is not clients.Kind.METADATA:
            return client
        try:
            return await self._clients.find(client.tenant, client.id, address)
        except clients.UnknownClient as error:
            raise refusals.client(error.detail) from None

    async def _assertion(self, client: clients.Client, assertion: str, address: str) -> None:
        """Raises `refusals.Refused` unless the client signed `assertion`, for us, just now and only once."""
        claims = await self._verified(client, assertion, address)
        now = self._clock.now()
        issuer = self._resources.issuer(client.tenant)
        audiences = (issuer, self._resources.endpoint(client.tenant, "token"))
        said: object = claims.get("aud")
        # A list of one is the same in another spelling (RFC 7519, 4.1.3).
        if said not in audiences and said not in [[one] for one in audiences]:
            raise refusals.client("audience")
        if claims.get("iss") != client.id or claims.get("sub") != client.id:
            raise refusals.client("subject")
        expires, begins, made = (_moment(claims, name) for name in ("exp", "nbf", "iat"))
        if expires is None or not now - SKEW_S < expires <= now + LIFE_S + SKEW_S:
            raise refusals.client("expired")
        if any(one is not None and one > now + SKEW_S for one in (begins, made)):
            raise refusals.client("early")
        jti: object = claims.get("jti")
        if not isinstance(jti, str) or not 0 < len(jti) <= _LONGEST_JTI:
            raise refusals.client("jti")
        # Each is a record. Behind the signature, so that nobody uses up another one's rate; those whom nobody here has
        # consented to have one between them, since anybody may register many.
        self._take(client.tenant, "strangers" if client.strange else client.id)
        await self._spend(client, jti, now, expires - now + 2 * SKEW_S)

    async def _verified(self, client: clients.Client, assertion: str, address: str) -> Mapping[str, Any]:
        """The claims that one of the client's keys signed."""
        kid = _kid(assertion)
        # A document may have none any more, while its client still is one that signs.
        keys = client.jwks if not client.jwks_uri else await self._remote.read(client, address)
        key = _named(keys, kid)
        if key is None and client.jwks_uri and kid is not None:
            # It may be a new one. Whoever names none can't say so (OpenID Connect Core, 10.1.1).
            keys = await self._remote.again(client, address)
            key = _named(keys, kid)
        if client.jwks_uri and not keys:
            raise refusals.client("keys")
        if key is None or not _signed(assertion, key):
            raise refusals.client("signature")
        return _claims(assertion.split(".")[1])

    async def _spend(self, client: clients.Client, jti: str, now: float, ttl: float) -> None:
        """Put on record that an assertion was used: of a stranger's client in the strangers' share.

        It must be in neither place, since somebody may have consented to the client meanwhile.
        """
        handle = self._store.tenant(client.tenant)
        place = (handle.private("oauth-assertion", f"{client.id} {jti}"),)
        here, there = (self._strange, self._spent) if client.strange else (self._spent, self._strange)
        try:
            await handle.kv.apply(
                [here.staged(place, _Spent(now), expect=kv.ABSENT, ttl=ttl), there.unstaged(place, expect=kv.ABSENT)]
            )
        except errors.Conflict:
            raise refusals.client("replay") from None
        except errors.QuotaExceeded:
            if not client.strange:
                raise
            raise errors.RateLimited(
                "Too many assertions of clients that nobody has approved. Have a person of this tenant approve yours, "
                "or retry in some minutes.",
                retry_after=60.0,
                detail="share",
            ) from None


def _read(authorization: str | None, form: Mapping[str, str]) -> _Proof:
    """The one proof that a request shows."""
    asserted = "client_assertion" in form or "client_assertion_type" in form
    shown = [authorization is not None, asserted, "client_secret" in form]
    if sum(shown) > 1:
        raise _request("Send one proof of who the client is, not several.")
    said = form.get("client_id")
    if authorization is not None:
        proof = _basic(authorization)
    elif asserted:
        proof = _asserted(form)
    elif said is None:
        raise refusals.client("absent")
    elif "client_secret" in form:
        proof = _Proof(said, clients.AuthMethod.POST, form["client_secret"])
    else:
        proof = _Proof(said, clients.AuthMethod.NONE)
    if said is not None and said != proof.client_id:
        raise _request("client_id names another client than the proof.")
    return proof


def _basic(authorization: str) -> _Proof:
    """RFC 6749, 2.3.1: id and secret are form-urlencoded before they become user and password."""
    found = _BASIC.fullmatch(authorization.strip(" "))
    try:
        text = base64.b64decode(found[1], validate=True).decode("ascii") if found and len(found[1]) <= _LONGEST else ""
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    user, colon, password = text.partition(":")
    if not colon:
        raise refusals.client("malformed", basic=True)
    return _Proof(urllib.parse.unquote_plus(user), clients.AuthMethod.BASIC, urllib.parse.unquote_plus(password))


def _asserted(form: Mapping[str, str]) -> _Proof:
    assertion = form.get("client_assertion", "")
    if form.get("client_assertion_type") != ASSERTION_TYPE or not assertion.isascii() or len(assertion) > _LONGEST:
        raise refusals.client("malformed")
    # Only who it says to be: nothing of it is believed before the signature was checked with that client's keys.
    subject: object = _claims(assertion.split(".")[1] if assertion.count(".") == 2 else "").get("sub")
    if not isinstance(subject, str):
        raise refusals.client("malformed")
    return _Proof(subject, clients.AuthMethod.PRIVATE_KEY, assertion)


def _kid(assertion: str) -> object:
    """Which key signed an assertion, as its header says; None where it does not."""
    head = _claims(assertion.split(".")[0])
    kind = head.get("typ", "JWT")
    if not head.keys() <= _HEADER or not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise refusals.client("header")
    if head.get("alg") not in keysets.ALGORITHMS:
        raise refusals.client("algorithm")
    return head.get("kid")


def _named(text: str, kid: object) -> jwk.Key | None:
    """The key of a set that is tried: one at most. Of several each has a name (`keysets.checked`), and the signature
    has to say it."""
    keys = keysets.read(text).keys if text else []
    named = [key for key in keys if key.dict_value.get("kid", kid) == kid or (kid is None and len(keys) == 1)]
    return named[0] if len(named) == 1 else None


def _signed(assertion: str, key: jwk.Key) -> bool:
    try:
        with warnings.catch_warnings():
            # EdDSA has a newer name (RFC 9864), which few clients write so far.
            warnings.simplefilter("ignore", jose_errors.SecurityWarning)
            jws.deserialize_compact(assertion, key, algorithms=list(keysets.ALGORITHMS))
    except (jose_errors.JoseError, ValueError, TypeError):
        return False
    return True


def _claims(part: str) -> dict[str, Any]:
    """A part of a JWT, read strictly: a member that comes twice has two readings."""
    if not 0 < len(part) <= _LONGEST_CLAIMS:
        raise refusals.client("malformed")
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        found: object = jsonrpc.strict_json(data, max_depth=4)
    except (binascii.Error, errors.SmcpError):
        raise refusals.client("malformed") from None
    if not isinstance(found, dict):
        raise refusals.client("malformed")
    return found  # pyright: ignore[reportUnknownVariableType] - keys of JSON objects are text


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    said: object = claims.get(name)
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, int | float):
        raise refusals.client("malformed")
    return float(said)


def _request(description: str) -> refusals.Refused:
    return refusals.Refused(refusals.INVALID_REQUEST, description, detail="client")
