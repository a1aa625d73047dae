"""DPoP (RFC 9449): a token that only works together with a fresh signature of its client's key.

| checked (4.3) | |
|---|---|
| one proof, three parts | `typ` is `dpop+jwt`, the header has `alg`, `jwk` and nothing else |
| `alg` | one of `ALGORITHMS`: asymmetric, and no RSA, which costs what its sender likes |
| `jwk` | a public key, and only the members that make it one |
| `htm`, `htu` | this request's method, and its address without query and fragment |
| `iat` | at most `Lifetimes.proof_s` away, and not before this process began to remember proofs |
| `jti` | not seen before with this key |
| `ath` | at resources: the digest of the very token that is shown with it |

A nonce is not asked for: what was seen is remembered for as long as a proof is good. There is room for `MOST` proofs of
a tenant, and for `MOST_OF_ONE` of each person or client in it, so that one of them takes nobody else's; where it is
used up, further ones are refused, never forgotten early.
"""

import collections
import hashlib
import urllib.parse
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from joserfc import errors as jose
from joserfc import jwk, jws

from smcp.identity import signing
from smcp.identity.oauth import lifetimes, opaque
from smcp.kernel import clock, crypto, errors, ids

ALGORITHMS: Final = ("ES256", "ES384")
MOST: Final = 20_000
"""Proofs that are remembered of one tenant."""
MOST_OF_ONE: Final = 2_000
"""Of one person or client, who may send more than they are let do: proofs are looked at before rates are."""
INVALID: Final = "invalid_dpop_proof"
"""The error code of RFC 9449, 5 and 7.1."""

_PORTS: Final = {"http": ":80", "https": ":443"}


class Shown(NamedTuple):
    """A proof, and the request that it came with."""

    text: str
    method: str
    authority: str
    """The Host header."""
    path: str

    def __repr__(self) -> str:
        return f"Shown({self.method} {self.path})"


class BadProof(Exception):
    """A proof proves nothing. The word says why, for the log and the audit trail."""

    def __init__(self, word: str) -> None:
        self.word = word
        super().__init__(word)


class _Public(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kty: Literal["EC"]
    crv: Literal["P-256", "P-384"]
    x: str
    y: str


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    typ: Literal["dpop+jwt"]
    alg: Literal["ES256", "ES384"]
    jwk: _Public


class _Claims(msgspec.Struct, frozen=True):
    jti: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    htm: str
    htu: str
    iat: float
    ath: str = ""


_CURVES: Final = {"ES256": "P-256", "ES384": "P-384"}


class Proofs:
    """Checks proofs, and remembers them."""

    def __init__(self, time: clock.Clock, lives: lifetimes.Lifetimes, public: str, scheme: str) -> None:
        """`public` is how clients reach the platform; `scheme` what this process speaks itself."""
        parts = urllib.parse.urlsplit(public)
        self._schemes = frozenset({scheme, parts.scheme})
        self._public = parts.netloc.lower()
        self._clock = time
        self._lives = lives
        self._began = time.now()
        self._seen: dict[ids.TenantId, _Seen] = {}

    def check(self, tenant: ids.TenantId, whose: str, shown: Shown, token: str | None) -> str:
        """The thumbprint of the key that signed the proof (RFC 7638). `token` is shown with it at a resource.

        `whose`: the person or client that what is shown with it is of.

        Raises `BadProof`, and `errors.RateLimited` where no more proofs can be remembered.
        """
        header = signing.read_part(shown.text, 0, _Header)
        claims = signing.read_part(shown.text, 1, _Claims)
        if header is None or claims is None:
            raise BadProof("malformed")
        key = _key(header)
        try:
            jws.deserialize_compact(shown.text, key, algorithms=[header.alg])
        except (jose.JoseError, ValueError, TypeError):
            raise BadProof("signature") from None
        if claims.htm != shown.method:
            raise BadProof("htm")
        if not self._here(claims.htu, shown):
            raise BadProof("htu")
        now = self._clock.now()
        if not max(now - self._lives.proof_s, self._began - 1.0) <= claims.iat <= now + self._lives.proof_s:
            raise BadProof("iat")
        if token is not None and not crypto.equal(claims.ath.encode(), opaque.fingerprint(token).encode()):
            raise BadProof("ath")
        thumbprint = key.thumbprint()
        self._seen.setdefault(tenant, _Seen()).add(whose, f"{thumbprint} {claims.jti}", now, 2 * self._lives.proof_s)
        return thumbprint

    def _here(self, htu: str, shown: Shown) -> bool:
        try:
            parts = urllib.parse.urlsplit(htu)
        except ValueError:
            return False
        if parts.scheme not in self._schemes or parts.path != shown.path:
            return False
        port = _PORTS[parts.scheme]
        # A proxy before us may say another Host than the client did.
        ours = {one.removesuffix(port) for one in (shown.authority.lower(), self._public)}
        return parts.netloc.lower().removesuffix(port) in ours


class _Seen:
    """The proofs of one tenant that are remembered."""

    def __init__(self) -> None:
        self._marks: collections.OrderedDict[bytes, tuple[float, str]] = collections.OrderedDict()
        """When each came, oldest first, and whose it is."""
        self._counts: collections.Counter[str] = collections.Counter()

    def add(self, whose: str, what: str, now: float, kept_s: float) -> None:
        """Remember one. `kept_s` is twice as long as a proof may be old: one from the future comes of age later.

        Raises `BadProof` for one that is there, `errors.RateLimited` where there is no room.
        """
        while self._marks and next(iter(self._marks.values()))[0] < now - kept_s:
            _, (_, owner) = self._marks.popitem(last=False)
            self._counts[owner] -= 1
            if not self._counts[owner]:
                del self._counts[owner]
        mark = hashlib.blake2b(what.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if mark in self._marks:
            raise BadProof("replay")
        if len(self._marks) >= MOST or self._counts[whose] >= MOST_OF_ONE:
            raise errors.RateLimited("Too many DPoP proofs in a minute.", retry_after=5.0)
        self._marks[mark] = now, whose
        self._counts[whose] += 1


def _key(header: _Header) -> jwk.ECKey:
    if header.jwk.crv != _CURVES[header.alg]:
        raise BadProof("algorithm")
    members: dict[str, Any] = msgspec.to_builtins(header.jwk)
    try:
        return jwk.ECKey.import_key(members)
    except (jose.JoseError, ValueError, TypeError):
        raise BadProof("key") from None
