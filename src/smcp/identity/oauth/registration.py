"""What a client says of itself (RFC 7591, 2): the one reading for clients that register and for documents.

Members that nobody knows here are ignored, as RFC 7591 asks; those that are known must be right. Of what a client names
only its keys are fetched (`jwks_uri`), and those not here: no logo, no policy.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from smcp.identity.oauth import clients, fetched, keysets, redirects, refusals

MAX_NAME: Final = 80
"""Characters of a name; more are cut off."""
_MAX_URI: Final = 512
_MAX_SCOPE: Final = 512
_SCOPE: Final = re.compile(r"[!#-\[\]-~]+(?: [!#-\[\]-~]+)*")
_URI: Final = re.compile(r"https://[a-z0-9.-]+(?::[0-9]{1,5})?(?:/[!-~]*)?", re.IGNORECASE)
_OWN_GRANTS: Final = frozenset({clients.AUTHORIZATION_CODE, clients.REFRESH_TOKEN, clients.DEVICE_CODE})
"""What a client may give itself; `client_credentials` is an administrator's to give."""


def read(said: Mapping[str, Any], *, secrets: bool) -> clients.Metadata:
    """The metadata in a JSON object. `secrets`: may it have a secret (not from a document that anybody reads)?

    Raises `refusals.Refused`: `invalid_client_metadata` or `invalid_redirect_uri` (RFC 7591, 3.2.2).
    """
    grants = _grants(said)
    method = _method(said, secrets=secrets)
    uris = _redirects(said, grants)
    jwks, jwks_uri = _keys(said, method)
    responses = said.get("response_types")
    if responses is not None and responses not in (["code"], []):
        raise _wrong("the only response type here is code")
    return clients.Metadata(
        name=name(said.get("client_name", "")),
        uri=_uri(said.get("client_uri", "")),
        redirect_uris=uris,
        auth_method=method,
        grant_types=grants,
        native=_native(said, uris),
        scope=_scope(said.get("scope", "")),
        jwks=jwks,
        jwks_uri=jwks_uri,
    )


def name(text: object) -> str:
    """A name that can be shown to people: one line, without characters that are not seen or turn the line around.

    Letters that look like others stay (no list of them is complete): pages show the host beside every name.
    """
    if not isinstance(text, str):
        raise _wrong("client_name is text")
    plain = unicodedata.normalize("NFKC", text[: 8 * MAX_NAME])
    seen = "".join(" " if one.isspace() else one for one in plain if one.isspace() or _visible(one))
    # Once more: a mark that stood behind something invisible belongs to the letter before that now.
    return unicodedata.normalize("NFKC", " ".join(seen.split()))[:MAX_NAME].strip()


def _visible(one: str) -> bool:
    # Cc, Cf (zero-width and bidirectional), Cs, Co, Cn, and combining marks stacked on whatever is around them.
    return unicodedata.category(one)[0] != "C" and unicodedata.category(one) not in ("Me", "Zl", "Zp")


def shown(client: clients.Client) -> dict[str, Any]:
    """What the client is registered as, in RFC 7591's words (3.2.1); without secrets."""
    told: dict[str, Any] = {
        "client_id": client.id,
        "client_id_issued_at": int(client.created),
        "client_name": client.name,
        "redirect_uris": list(client.redirect_uris),
        "token_endpoint_auth_method": client.auth_method.value,
        "grant_types": list(client.grant_types),
        "response_types": ["code"] if clients.AUTHORIZATION_CODE in client.grant_types else [],
        "application_type": "native" if client.native else "web",
    }
    if client.uri:
        told["client_uri"] = client.uri
    if client.scope:
        told["scope"] = client.scope
    if client.jwks:
        told["jwks"] = msgspec.json.decode(client.jwks)
    if client.jwks_uri:
        told["jwks_uri"] = client.jwks_uri
    return told


def _grants(said: Mapping[str, Any]) -> tuple[str, ...]:
    found = _texts(said.get("grant_types", [clients.AUTHORIZATION_CODE, clients.REFRESH_TOKEN]), "grant_types")
    if not found or not set(found) <= _OWN_GRANTS:
        known = ", ".join(sorted(_OWN_GRANTS))
        raise _wrong(f"grant_types has one or more of {known}; client_credentials is given by administrators")
    if set(found) == {clients.REFRESH_TOKEN}:
        raise _wrong("a refresh token comes from another grant, which grant_types does not have")
    return tuple(dict.fromkeys(found))


def _method(said: Mapping[str, Any], *, secrets: bool) -> clients.AuthMethod:
    # RFC 7591, 2: what a client that says nothing has. In a document there can be no secret.
    default = clients.AuthMethod.BASIC if secrets else clients.AuthMethod.NONE
    possible = [one for one in clients.AuthMethod if secrets or one in _WITHOUT_SECRET]
    found: object = said.get("token_endpoint_auth_method", default)
    if not isinstance(found, str) or found not in possible:
        raise _wrong("token_endpoint_auth_method is one of " + ", ".join(sorted(possible)))
    return clients.AuthMethod(found)


def _keys(said: Mapping[str, Any], method: clients.AuthMethod) -> tuple[str, str]:
    """The keys, or where they are (RFC 7591, 2: not both); nothing of either where the method needs none."""
    keys, uri = said.get("jwks"), said.get("jwks_uri")
    if keys is not None and uri is not None:
        raise _wrong("jwks and jwks_uri are not sent together")
    if (method is clients.AuthMethod.PRIVATE_KEY) != (keys is not None or uri is not None):
        raise _wrong("jwks or jwks_uri goes with private_key_jwt, and private_key_jwt with one of them")
    if uri is not None and not (isinstance(uri, str) and fetched.plain(uri)):
        raise _wrong("jwks_uri is an https URL in lower case, with a path and without user, query or fragment")
    return "" if keys is None else keysets.checked(keys), uri or ""


_WITHOUT_SECRET: Final = (clients.AuthMethod.NONE, clients.AuthMethod.PRIVATE_KEY)


def _redirects(said: Mapping[str, Any], grants: tuple[str, ...]) -> tuple[str, ...]:
    found = _texts(said.get("redirect_uris", []), "redirect_uris")
    if clients.AUTHORIZATION_CODE not in grants and not found:
        return ()
    return redirects.check_all(found)


def _native(said: Mapping[str, Any], uris: tuple[str, ...]) -> bool:
    """OpenID Connect Dynamic Client Registration, 2: `web` clients have https URIs of hosts that are not loopback.

    Who says nothing is what its URIs say: MCP clients before 2026-07-28 leave it out.
    """
    local = any(not uri.startswith("https://") for uri in uris)
    kind = said.get("application_type")
    if kind is None:
        return local
    if kind not in ("native", "web"):
        raise _wrong("application_type is native or web")
    if kind == "web" and local:
        raise refusals.Refused(
            refusals.INVALID_REDIRECT_URI,
            "A web client has https redirect URIs only; one on a person's machine says application_type native.",
            detail="redirect",
        )
    return kind == "native"


def _uri(text: object) -> str:
    if not isinstance(text, str) or len(text) > _MAX_URI:
        raise _wrong(f"client_uri is a URL of at most {_MAX_URI} characters")
    # A link that people would follow: any other than https is not shown, and is no reason to refuse a client.
    return text if _URI.fullmatch(text) else ""


def _scope(text: object) -> str:
    if not isinstance(text, str) or len(text) > _MAX_SCOPE or (text and not _SCOPE.fullmatch(text)):
        raise _wrong("scope is words with one space between them (RFC 6749, 3.3)")
    return text


def _texts(found: object, what: str) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(one, str) for one in cast("list[Any]", found)):
        raise _wrong(f"{what} is a list of texts")
    if len(cast("list[Any]", found)) > redirects.MOST:
        raise _wrong(f"{what} has at most {redirects.MOST} members")
    return cast("list[str]", found)


def _wrong(why: str) -> refusals.Refused:
    told = f"The client metadata is not taken: {why}."
    return refusals.Refused(refusals.INVALID_CLIENT_METADATA, told, detail="metadata")
