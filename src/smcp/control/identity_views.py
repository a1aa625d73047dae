"""What the API shows of people and OAuth clients: as `views`, whose rules hold here, too."""

from typing import Annotated

import msgspec
from msgspec import Meta

from smcp.control.views import Time


class User(msgspec.Struct, frozen=True):
    """A person's account."""

    id: str
    tenant: str
    email: str
    name: str
    roles: list[str]
    created: Time
    disabled: bool


class UserDetails(User, frozen=True):
    """A person's account, and how its owner signs in: that, and nothing of what with."""

    app: Annotated[bool, Meta(description="Whether an authenticator app is asked for after the password.")]
    recovery_codes: Annotated[int, Meta(description="How many are left.")]
    passkeys: Annotated[int, Meta(description="How many there are.")]
    sessions: Annotated[int, Meta(description="Open browser sessions.")]


class Visit(msgspec.Struct, frozen=True):
    """An open browser session of a person."""

    id: str
    created: Time
    seen: Annotated[float, Meta(description="Within a minute; seconds since the Unix epoch, UTC.")]
    methods: Annotated[
        list[str], Meta(description="What was shown: `password`, `totp`, `recovery`, `passkey`, `setup`.")
    ]
    address: str
    agent: Annotated[str, Meta(description="What the browser calls itself.")]


class Invitation(msgspec.Struct, frozen=True):
    """An invitation that waits, without its code, which is not stored."""

    id: str
    tenant: str
    email: Annotated[str, Meta(description="Empty for the set-up of a fresh platform: whoever holds the code says.")]
    name: str
    roles: list[str]
    created: Time
    expires: Time
    by: Annotated[str, Meta(description="The principal that invited.")]
    user: Annotated[str, Meta(description="The account that begins anew with it; empty for a new one.")]


class NewInvitation(msgspec.Struct, frozen=True):
    """A new invitation and, this once, its code."""

    invitation: Invitation
    code: Annotated[str, Meta(description="`smci_…`, for the page at `url`. Shown once; only a keyed hash is stored.")]
    url: str

    def __repr__(self) -> str:
        return f"NewInvitation(invitation={self.invitation!r}, code=…)"


class SigningKeys(msgspec.Struct, frozen=True):
    """What a rotation did to the keys that access tokens are signed with, or would do."""

    applied: Annotated[bool, Meta(description="False: nothing was changed.")]
    key: Annotated[str, Meta(description="The new key's id (`kid`); null where nothing was changed.")] | None
    kept: Annotated[list[str], Meta(description="Keys that verify until what they signed has ended.")]
    ended: Annotated[list[str], Meta(description="Keys that verify nothing any more.")]


class Client(msgspec.Struct, frozen=True):
    """An OAuth client without its secret, which is not stored."""

    id: Annotated[str, Meta(description="What it sends as `client_id`: an id, or the address of its document.")]
    ref: Annotated[str, Meta(description="What names it in paths of this API.")]
    tenant: str
    kind: Annotated[str, Meta(description="How it became known: administrator, built_in, dynamic or metadata.")]
    name: str
    host: Annotated[str, Meta(description="Where its answers go, or where its document is: for people.")]
    redirect_uris: list[str]
    auth_method: str
    jwks_uri: Annotated[str, Meta(description="Where its keys are read from, for private_key_jwt.")] | None
    grant_types: list[str]
    roles: Annotated[list[str], Meta(description="What it may do as itself (client_credentials).")]
    created: Time
    adopted: Annotated[float, Meta(description="When somebody first consented; seconds since the epoch.")] | None
    revoked: Time | None


class NewClient(msgspec.Struct, frozen=True):
    """A new OAuth client and, this once, its secret."""

    client: Client
    secret: Annotated[str, Meta(description="Shown once; only a keyed hash of it is stored.")] | None

    def __repr__(self) -> str:
        return f"NewClient(client={self.client!r}, secret=…)"
