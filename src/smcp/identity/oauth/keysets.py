"""Public keys of clients (RFC 7517), for `private_key_jwt`: checked once, when they are registered or were fetched."""

import base64
import contextlib
from typing import Any, Final, cast

import msgspec
from joserfc import errors as jose_errors
from joserfc import jwk

from smcp.identity.oauth import refusals
from smcp.kernel import errors, jsonrpc

MOST: Final = 8
"""Keys of a client. Where there are several, each has a name (kid), and a signature says which one made it."""
ALGORITHMS: Final = ("ES256", "ES384", "Ed25519", "EdDSA", "PS256", "RS256")
"""Asymmetric ones only: `none` and the HS family are no proof of a private key (RFC 8725, 3.1)."""
_LONGEST: Final = 16_384
_CURVES: Final = {"EC": ("P-256", "P-384"), "OKP": ("Ed25519",)}
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_KEPT: Final = ("kty", "kid", "use", "alg", "crv", "x", "y", "n", "e")
_RSA_BITS: Final = (2048, 4096)
_EXPONENT: Final = "AQAB"
"""65537 (RFC 8017): with a large one, looking at a signature would cost as much as making thousands."""
_LONGEST_KID: Final = 256
_DEPTH: Final = 8


class _ForeignError(refusals.Refused):
    """A key that is for something else."""


def checked(said: object) -> str:
    """The key set in `said` (of JSON) as text, without members that nobody reads.

    Raises `refusals.Refused` (`invalid_client_metadata`).
    """
    return _text([_key(one) for one in _members(said)])


def published(body: bytes) -> str:
    """The same of a key set that stands at an address. Others read such a one, too, so keys for something else are left
    out (RFC 7517, 5). Where one is private, weak or unreadable, no key counts, so that whoever published it notices.

    Raises `refusals.Refused`.
    """
    try:
        said: object = jsonrpc.strict_json(body, max_depth=_DEPTH)
    except errors.SmcpError as error:
        raise _wrong("it is not JSON that everybody reads alike") from error
    kept: list[dict[str, str]] = []
    for one in _members(said):
        with contextlib.suppress(_ForeignError):
            kept.append(_key(one))
    return _text(kept)


def _members(said: object) -> list[object]:
    keys: object = cast("dict[str, Any]", said).get("keys") if isinstance(said, dict) else None
    if not isinstance(keys, list) or not 0 < len(cast("list[Any]", keys)) <= MOST:
        raise _wrong(f"it has from 1 to {MOST} keys")
    return cast("list[object]", keys)


def _text(kept: list[dict[str, str]]) -> str:
    if not kept:
        raise _wrong("none of its keys is for signatures of " + ", ".join(ALGORITHMS))
    if len(kept) > 1 and len({one.get("kid", "") for one in kept} - {""}) < len(kept):
        raise _wrong("several keys have a kid each, which tells them apart")
    text = msgspec.json.encode({"keys": kept}).decode()
    if len(text) > _LONGEST:
        raise _wrong("it is too large")
    return text


def read(text: str) -> jwk.KeySet:
    """The keys that `checked` made text of."""
    return jwk.KeySet.import_key_set(msgspec.json.decode(text))


def _key(said: object) -> dict[str, str]:
    if not isinstance(said, dict):
        raise _wrong("a key is an object")
    members = cast("dict[str, Any]", said)
    if _PRIVATE & members.keys():
        raise _wrong("a private or symmetric key was sent: nobody else may have it. Make another one")
    kept = {name: members[name] for name in _KEPT if name in members}
    if not all(isinstance(value, str) for value in kept.values()) or len(kept.get("kid", "")) > _LONGEST_KID:
        raise _wrong("a member of a key is not text")
    if kept.get("use", "sig") != "sig" or kept.get("alg", ALGORITHMS[0]) not in ALGORITHMS:
        raise _wrong("a key is for something else than signatures of " + ", ".join(ALGORITHMS), _ForeignError)
    kind = kept.get("kty")
    if kind not in ("EC", "OKP", "RSA") or (kind in _CURVES and kept.get("crv") not in _CURVES[kind]):
        raise _wrong("a key is RSA, or of P-256, P-384 or Ed25519", _ForeignError)
    sized = _RSA_BITS[0] <= _bits(kept.get("n", "")) <= _RSA_BITS[1]
    if kind == "RSA" and not (sized and kept.get("e") == _EXPONENT):
        raise _wrong("an RSA key has from 2048 to 4096 bits and the exponent 65537")
    try:
        # The numbers are looked at only when the key is made of them: a point has to be on its curve.
        _ = cast("Any", jwk.import_key(cast("dict[str, str | list[str]]", kept))).public_key
    except (jose_errors.JoseError, ValueError, TypeError) as error:
        raise _wrong("a key can't be read") from error
    return kept


def _bits(number: str) -> int:
    """Of a number in base64url (RFC 7518, 2); 0 for what is none."""
    try:
        data = base64.b64decode(number + "=" * (-len(number) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return 0
    return int.from_bytes(data, "big").bit_length()


def _wrong(why: str, kind: type[refusals.Refused] = refusals.Refused) -> refusals.Refused:
    told = f"The key set in jwks is not taken: {why}."
    return kind(refusals.INVALID_CLIENT_METADATA, told, detail="metadata")
