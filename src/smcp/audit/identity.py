"""Audit events of people, OAuth clients, consent, tokens and roles; `events.Event` has all of them."""

from typing import Annotated

from msgspec import Meta

from smcp.audit.fields import NO_DIGEST, Count, Digest, Entry, Id, Name, Word

Client = Annotated[str, Meta(pattern=r"\A[!-~]{0,512}\Z")]
"""An OAuth client's id: one that the platform made, or the public address of its metadata document."""
Scopes = tuple[Word, ...]


# --- people --------------------------------------------------------------------------------------------


class SignedIn(Entry, frozen=True, kw_only=True, tag="signed_in"):
    """A person signed in to the pages. `methods`: what they showed (`password`, `totp`, `passkey`, `setup`)."""

    methods: tuple[Word, ...]
    address: Digest = NO_DIGEST


class SignInFailed(Entry, frozen=True, kw_only=True, tag="sign_in_failed"):
    """Somebody did not get in. `why`: `unknown`, `closed`, `password`, `code`, `passkey`, `step` (a second step that is
    over, or nobody's), `invitation` or `held-off` (not looked at, after too many wrong ones: the first one only).
    `account`: a digest of the address that was typed, whether or not it exists."""

    why: Word
    account: Digest = NO_DIGEST
    address: Digest = NO_DIGEST


class CodesGuessed(Entry, frozen=True, kw_only=True, tag="codes_guessed"):
    """So many wrong codes in a row came behind an account's right password that only devices which it was used on may
    still show a code. Told once a row."""

    user: Id
    codes: Count


class SignedOut(Entry, frozen=True, kw_only=True, tag="signed_out"):
    """Browser sessions of a person ended. `why`: `asked`, `password`, `disabled` or `administrator`."""

    user: Id
    why: Word
    sessions: Count = 1


class UserInvited(Entry, frozen=True, kw_only=True, tag="user_invited"):
    """Somebody was invited to have an account."""

    invitation: Id
    roles: tuple[Word, ...]
    email: Digest = NO_DIGEST


class InvitationWithdrawn(Entry, frozen=True, kw_only=True, tag="invitation_withdrawn"):
    """An invitation was taken back before anybody used it."""

    invitation: Id


class InvitationRefused(Entry, frozen=True, kw_only=True, tag="invitation_refused"):
    """Somebody came with an invitation that its inviter could not make any more; it has ended. `why`: `inviter` (gone,
    closed, revoked or ended), `roles` (may not give these now) or `changed` (the roles give something else now)."""

    invitation: Id
    why: Word


class UserCreated(Entry, frozen=True, kw_only=True, tag="user_created"):
    """An account was made, from an invitation or by the first-run set-up."""

    user: Id
    roles: tuple[Word, ...]


class UserChanged(Entry, frozen=True, kw_only=True, tag="user_changed"):
    """An account has other roles, another name or another way in. `what`: a closed list of words."""

    user: Id
    what: Word
    roles: tuple[Word, ...] = ()


class UserDisabled(Entry, frozen=True, kw_only=True, tag="user_disabled"):
    """An account was closed: its sessions and tokens ended with it."""

    user: Id


class UserEnabled(Entry, frozen=True, kw_only=True, tag="user_enabled"):
    """A closed account was opened again; what ended stays ended."""

    user: Id


# --- clients and consent -------------------------------------------------------------------------------


class ClientRegistered(Entry, frozen=True, kw_only=True, tag="client_registered"):
    """An OAuth client became known. `how`: `dynamic` (RFC 7591), `metadata` (its document) or `administrator`; or
    describes itself otherwise: `amended` (RFC 7592)."""

    client: Client
    how: Word


class ClientRevoked(Entry, frozen=True, kw_only=True, tag="client_revoked"):
    """An OAuth client may not be used any more; its tokens ended with it."""

    client: Client


class ConsentGiven(Entry, frozen=True, kw_only=True, tag="consent_given"):
    """A person let a client act for them."""

    client: Client
    server: Name
    scopes: Scopes


class ConsentDenied(Entry, frozen=True, kw_only=True, tag="consent_denied"):
    """A person did not let a client act for them."""

    client: Client
    server: Name = ""


class GrantRevoked(Entry, frozen=True, kw_only=True, tag="grant_revoked"):
    """What a person had let a client do ended. `why`: `asked`, `client`, `reuse`, `room`, `user` or
    `administrator`."""

    grant: Id
    client: Client
    why: Word


# --- tokens --------------------------------------------------------------------------------------------


class TokenIssued(Entry, frozen=True, kw_only=True, tag="token_issued"):
    """An access token was made. `how`: the grant type."""

    grant: Id
    client: Client
    how: Word
    server: Name = ""
    scopes: Scopes = ()


class TokenRefused(Entry, frozen=True, kw_only=True, tag="token_refused"):
    """The authorization server refused a request. `why`: its OAuth error code, `detail`: a word of a closed list."""

    why: Word
    detail: Word = ""
    client: Client = ""
    address: Digest = NO_DIGEST


class TokenRevoked(Entry, frozen=True, kw_only=True, tag="token_revoked"):
    """A client gave a token back (RFC 7009)."""

    grant: Id
    client: Client


class SigningKeyRotated(Entry, frozen=True, kw_only=True, tag="signing_key_rotated"):
    """Tokens are signed with another key; the one before still verifies until its tokens have ended, unless it is among
    `ended`: somebody wanted it to end at once."""

    key: Id
    ended: tuple[Id, ...] = ()


# --- roles and keys ------------------------------------------------------------------------------------


class RoleDefined(Entry, frozen=True, kw_only=True, tag="role_defined"):
    """A role of the tenant's own was made or replaced."""

    role: Name
    grants: Count


class RoleDeleted(Entry, frozen=True, kw_only=True, tag="role_deleted"):
    """A role of the tenant's own was removed: it grants nothing from now on."""

    role: Name


class KeyRotated(Entry, frozen=True, kw_only=True, tag="key_rotated"):
    """An API key got a successor; it ends at `ends` by itself."""

    key: Id
    successor: Id
    ends: float


class KeyEnding(Entry, frozen=True, kw_only=True, tag="key_ending"):
    """An API key that is in use ends soon, and has no successor. Told once."""

    key: Id
    ends: float


Event = (
    SignedIn
    | SignInFailed
    | CodesGuessed
    | SignedOut
    | UserInvited
    | InvitationWithdrawn
    | InvitationRefused
    | UserCreated
    | UserChanged
    | UserDisabled
    | UserEnabled
    | ClientRegistered
    | ClientRevoked
    | ConsentGiven
    | ConsentDenied
    | GrantRevoked
    | TokenIssued
    | TokenRefused
    | TokenRevoked
    | SigningKeyRotated
    | RoleDefined
    | RoleDeleted
    | KeyRotated
    | KeyEnding
)
