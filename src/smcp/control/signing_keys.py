"""What a tenant's tokens are signed with: replaced early, and after a leak at once."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from smcp.access.policy import Action
from smcp.audit import identity
from smcp.control import identity_views
from smcp.control.endpoint import Call, endpoint

_EXAMPLE: Final = {
    "applied": True,
    "key": "sig-01kaq3v7q0zj1x5w9n2c8d4f6g",
    "kept": ["sig-01kaf1t0zc8m3y5w9n2c8d4f6h"],
    "ended": [],
}


class SigningRotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the change to the new key goes."""

    end_now: Annotated[
        bool, Meta(description="Refuse what the keys before have signed from now on, as after a leak.")
    ] = False


class SigningRehearsal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether to change anything."""

    dry_run: Annotated[bool, Meta(description="Say which keys would stay and end; change nothing.")] = False


@endpoint(
    "POST",
    "/api/v1/tenants/{tenant}/signing-key/rotate",
    action=Action.SIGNING_ROTATE,
    platform=True,
    body_example={"end_now": False},
    answer_example=_EXAMPLE,
)
async def rotate(call: Call[SigningRotation, SigningRehearsal]) -> identity_views.SigningKeys:
    """Sign access tokens with a new key.

    A key is replaced by itself every 90 days. This replaces it now. The keys before stay in the key set, and what they
    signed stays good until it ends, an hour at most; with `end_now` it is refused from the next request on, and clients
    get new access tokens with their refresh tokens, which nothing is signed with. Nobody has to log in again.
    """
    signing, end_now = call.services.signing, call.body.end_now
    if call.query.dry_run:
        held = list(await signing.held(call.tenant))
        return identity_views.SigningKeys(False, None, [] if end_now else held, held if end_now else [])
    done = await signing.rotate(call.tenant, drop=end_now)
    call.changed(identity.SigningKeyRotated, key=done.key, ended=done.ended)
    return identity_views.SigningKeys(True, done.key, list(done.kept), list(done.ended))


ENDPOINTS: Final = (rotate,)
