"""What is known of an OAuth client, and how it is named: the record, and what a client says of itself."""

import enum
import hashlib
import re
from typing import Final

import msgspec

from smcp.identity.oauth import redirects
from smcp.kernel import ids

REF: Final = re.compile(r"(?:client|document)-[0-9a-z]{1,40}|smcp-cli")
"""How clients are named where a URL can't stand (`ref`)."""


class Kind(enum.StrEnum):
    """How a client became known."""

    ADMINISTRATOR = "administrator"
    BUILT_IN = "built_in"
    DYNAMIC = "dynamic"
    METADATA = "metadata"


class AuthMethod(enum.StrEnum):
    """How a client proves who it is (RFC 7591, 2; RFC 7523, 2.2; OpenID Connect Core, 9)."""

    BASIC = "client_secret_basic"
    NONE = "none"
    POST = "client_secret_post"
    PRIVATE_KEY = "private_key_jwt"


AUTHORIZATION_CODE: Final = "authorization_code"
REFRESH_TOKEN: Final = "refresh_token"  # noqa: S105 - a grant type
CLIENT_CREDENTIALS: Final = "client_credentials"
DEVICE_CODE: Final = "urn:ietf:params:oauth:grant-type:device_code"


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """One OAuth client of one tenant. `repr` holds no secret: only a digest is kept, and it is left out."""

    id: str
    """`client-…`, or the https address of its metadata document."""
    tenant: ids.TenantId
    kind: Kind
    name: str
    """For people: its own words, without characters that could pass for others. Escape it all the same."""
    host: str
    """For people: what can be known of who it is. The host of its document, or where its answers go."""
    uri: str = ""
    """Its home page, if it says one (https)."""
    redirect_uris: tuple[str, ...] = ()
    auth_method: AuthMethod = AuthMethod.NONE
    grant_types: tuple[str, ...] = (AUTHORIZATION_CODE, REFRESH_TOKEN)
    native: bool = True
    """An application on somebody's machine (RFC 8252), not a web site."""
    scope: str = ""
    """The scopes that it registered for, as it wrote them; empty: it did not say."""
    roles: tuple[str, ...] = ()
    """What it may do as itself (`client_credentials`); only administrators give roles."""
    jwks: str = ""
    """Its public keys (RFC 7517), for `private_key_jwt`."""
    jwks_uri: str = ""
    """Or where they are."""
    secret_digest: bytes = b""
    manage_digest: bytes = b""
    """Of the registration access token (RFC 7592)."""
    verified: bool = False
    """Was it made by an administrator, or is `host` proved by the document's own address?"""
    created: float = 0.0
    adopted: float | None = None
    """When somebody first consented (epoch seconds): from then on it is the tenant's own."""
    used: float = 0.0
    """When somebody last consented (epoch seconds), to the hour."""
    read: float = 0.0
    """When its document was last read (epoch seconds)."""
    revoked: float | None = None
    epoch: int = 0
    """Grows when what was issued to it ends: its secret or keys were replaced, or it was revoked. Not when other keys
    stand at its `jwks_uri`: they change there as a matter of course."""

    def __repr__(self) -> str:
        return f"Client({self.id!r}, tenant={self.tenant!r}, kind={self.kind.value!r})"

    @property
    def strange(self) -> bool:
        """Has nobody of the tenant vouched for it?"""
        return self.kind is Kind.DYNAMIC and self.adopted is None

    @property
    def keys(self) -> tuple[str, str]:
        """What it proves itself with, where it signs: keys, or where they are."""
        return self.jwks, self.jwks_uri

    @property
    def confidential(self) -> bool:
        """Does it prove who it is?"""
        return self.auth_method is not AuthMethod.NONE


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What a client said of itself, checked."""

    name: str
    """Empty: it did not say."""
    uri: str
    redirect_uris: tuple[str, ...]
    auth_method: AuthMethod
    grant_types: tuple[str, ...]
    native: bool
    scope: str
    jwks: str
    jwks_uri: str

    def of(self, client: Client) -> Client:
        """`client` as it says to be now; what it does not say of itself stays."""
        return msgspec.structs.replace(
            client,
            name=self.name or client.host,
            uri=self.uri,
            redirect_uris=self.redirect_uris,
            auth_method=self.auth_method,
            grant_types=self.grant_types,
            native=self.native,
            scope=self.scope,
            jwks=self.jwks,
            jwks_uri=self.jwks_uri,
        )

    @property
    def host(self) -> str:
        """Where its answers go, for people; empty where it has none."""
        return redirects.host(self.redirect_uris[0]) if self.redirect_uris else ""


class Issued(msgspec.Struct, frozen=True):
    """A client that was just made, and what is shown this once."""

    client: Client
    secret: str = ""
    """Empty for a client without one."""
    manage: str = ""
    """The registration access token (RFC 7592); empty for clients of administrators."""

    def __repr__(self) -> str:
        return f"Issued({self.client!r})"


CLI: Final = "smcp-cli"
"""The client id of `smcp login`."""


def cli(tenant: ids.TenantId) -> Client:
    """The client that `smcp login` is: nobody has to register it."""
    return Client(
        id=CLI,
        tenant=tenant,
        kind=Kind.BUILT_IN,
        name="SMCP command line",
        host="smcp login",
        redirect_uris=("http://127.0.0.1/callback",),
        grant_types=(AUTHORIZATION_CODE, DEVICE_CODE, REFRESH_TOKEN),
        verified=True,
    )


def ref(client_id: str) -> str:
    """How a client is named where a URL can't stand: its id, or `document-…` for one with a metadata document."""
    if not client_id.startswith("https://"):
        return client_id
    digest = hashlib.sha256(client_id.encode("utf-8", "surrogatepass")).digest()
    return f"document-{ids.base32(int.from_bytes(digest[:20], 'big'), 32)}"
