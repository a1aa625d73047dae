"""Secrets of a server: set, listed, given a new value, deleted. No answer ever holds a value."""

import base64
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from smcp.access.policy import Action
from smcp.audit import events
from smcp.control import views
from smcp.control.endpoint import Call, Nothing, endpoint
from smcp.deploy import secrets
from smcp.kernel import errors

_EXAMPLE: Final = {
    "name": "API_KEY",
    "version": 1,
    "kind": "env",
    "created": 1800000000.0,
    "by": "key-01kaq3v7q0zj1x5w9n2c8d4f6g",
}
_BODY: Final = {"value": "…", "kind": "env"}
_PATH: Final = "/api/v1/tenants/{tenant}/servers/{server}/secrets"
_LONGEST: Final = secrets.MAX_VALUE
_LONGEST_BASE64: Final = (_LONGEST + 2) // 3 * 4


class Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Paging by the names of secrets."""

    after: Annotated[
        str, Meta(max_length=128, pattern="^[A-Za-z0-9_]*$", description="The `next` of the page before.")
    ] = ""
    limit: Annotated[int, Meta(ge=1, le=1000, description="Most items in one answer.")] = 100


class SecretOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value, as text or in base64: one of the two."""

    value: Annotated[str, Meta(max_length=_LONGEST, description="The value, as text.")] | None = None
    value_base64: (
        Annotated[str, Meta(max_length=_LONGEST_BASE64, description="The value's bytes in base64 (RFC 4648, 4).")]
        | None
    ) = None
    kind: (
        Annotated[
            str,
            Meta(
                pattern="^(env|file)$",
                description="How the server gets it: `env`, a variable of that name, or `file`, `/run/secrets/NAME`. "
                "Left out: as before, or `env`.",
            ),
        ]
        | None
    ) = None

    def __repr__(self) -> str:
        return "SecretOrder(…)"


@endpoint("GET", _PATH, action=Action.SECRETS_LIST, answer_example={"items": [_EXAMPLE], "next": None})
async def index(call: Call[Nothing, Names]) -> views.Listing[views.Secret]:
    """List a server's secrets, without their values.

    By name. The list is empty for a server that does not exist: secrets can be set before it is deployed.
    """
    found = await call.services.secrets.list(call.tenant, call.server)
    return views.page([_view(one) for one in found], call.query, lambda one: one.name)


@endpoint(
    "PUT",
    f"{_PATH}/{{secret}}",
    action=Action.SECRETS_WRITE,
    raises=(errors.BadName,),
    body_example=_BODY,
    answer_example=_EXAMPLE,
)
async def set(call: Call[SecretOrder, Nothing]) -> views.Secret:
    """Set a secret of a server, whether it is deployed already or not.

    One more version, when the secret exists. Copies of the server that run are replaced: each ends when the calls that
    it has are answered, and new ones get the new value.
    """
    return await _write(call, events.SecretSet, existing=False)


@endpoint(
    "POST",
    f"{_PATH}/{{secret}}/rotate",
    action=Action.SECRETS_WRITE,
    raises=(errors.BadName,),
    body_example=_BODY,
    answer_example=_EXAMPLE | {"version": 2},
)
async def rotate(call: Call[SecretOrder, Nothing]) -> views.Secret:
    """Give a secret a new value. It must exist, so that a misspelt name makes no second one.

    Copies of the server are replaced as when it is set.
    """
    return await _write(call, events.SecretRotated, existing=True)


@endpoint("DELETE", f"{_PATH}/{{secret}}", action=Action.SECRETS_WRITE, raises=(errors.BadName,), status=204)
async def delete(call: Call[Nothing, Nothing]) -> None:
    """Delete a secret with all its versions. This can't be undone.

    Copies of the server are replaced as when it is set.
    """
    gone = await call.services.secrets.delete(call.tenant, call.server, call.path["secret"])
    call.changed(events.SecretDeleted, server=call.server, name=gone.name, version=gone.version)
    call.services.renew_server(call.tenant, call.server)


async def _write(call: Call[SecretOrder, Any], event: type[events.Event], *, existing: bool) -> views.Secret:
    made = await call.services.secrets.set(
        call.tenant,
        call.server,
        call.path["secret"],
        _value(call.body),
        by=call.principal.id,
        kind=msgspec.convert(call.body.kind, secrets.Kind | None),
        existing=existing,
    )
    call.changed(event, server=call.server, name=made.name, version=made.version)
    call.services.renew_server(call.tenant, call.server)
    return _view(made)


def _value(order: SecretOrder) -> bytes:
    if (order.value is None) == (order.value_base64 is None):
        raise errors.InvalidParams("Send either value or value_base64.")
    if order.value is not None:
        return order.value.encode()
    try:
        return base64.b64decode(order.value_base64 or "", validate=True)
    except ValueError:  # also for what is not ASCII, which is no binascii.Error
        # Without the cause, and without what was sent.
        raise errors.InvalidParams("In the body: value_base64 is not base64 (RFC 4648, section 4).") from None


def _view(one: secrets.Secret) -> views.Secret:
    return views.Secret(one.name, one.version, one.kind, one.created, one.by)


ENDPOINTS: Final = (index, set, rotate, delete)
