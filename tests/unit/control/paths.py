"""Filling endpoints' paths and bodies for tests that walk over all of them."""

import itertools
from collections.abc import Mapping
from typing import Any, Final

from smcp.control import endpoint, routes

ALL: Final = routes.ENDPOINTS
GUARDED: Final = tuple(one for one in ALL if not isinstance(one.access, endpoint.Open))
TENANTS: Final = tuple(one for one in ALL if "tenant" in one.parameters)
BINARY: Final = tuple(one for one in ALL if issubclass(one.body, endpoint.Binary))
WRITING: Final = tuple(one for one in ALL if one.method != "GET" and one not in BINARY)
SPACE: Final = "notes"
ITEM: Final = "a key"
BUCKET: Final = "photos"
OBJECT: Final = "a/key"
USER: Final = "user-" + "0" * 26
"""Nobody."""
INVITATION: Final = "inv-" + "0" * 12
"""None."""
NO_CLIENT: Final = "client-00000000000000000000000000"
ROLE: Final = "reporter"
_FRESH: Final = itertools.count()


def name(one: endpoint.Endpoint) -> str:
    """For test ids and golden lines."""
    return f"{one.method} {one.path}"


def filled(one: endpoint.Endpoint, parts: Mapping[str, str]) -> str:
    """The path with `parts`; what a tenant's code keeps is named as in `world`, unless they say otherwise."""
    named = {
        "namespace": SPACE,
        "item": ITEM,
        "bucket": BUCKET,
        "object": OBJECT,
        "user": USER,
        "client": NO_CLIENT,
        "invitation": INVITATION,
        "role": ROLE,
    }
    named |= parts
    return one.path.format(**{part: named[part] for part in one.parameters})


def body(one: endpoint.Endpoint) -> dict[str, Any]:
    """A body that the endpoint takes; what it makes gets a new name each time."""
    if one.path == "/api/v1/tenants":
        return {"id": f"new-{next(_FRESH)}"}
    if one.path.endswith("/invitations"):
        return dict(one.body_example) | {"email": f"new-{next(_FRESH)}@example.org"}
    if one.path.endswith("/deployments"):
        return dict(one.body_example) | {"name": f"new-{next(_FRESH)}"}
    if one.path.endswith(("/rollback", "/restore")):
        return {}
    return dict(one.body_example)


def options(one: endpoint.Endpoint) -> dict[str, Any]:
    """What a client needs beside method and path."""
    if one in BINARY:
        return {"content": f"bytes {next(_FRESH)}".encode(), "headers": {"Content-Type": "application/octet-stream"}}
    return {"json": body(one)} if one.body_example else {}
