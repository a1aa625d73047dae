"""Volumes of servers: shown, saved now, taken back to an earlier state, deleted. Their content is not shown here."""

import functools
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from smcp.access.policy import Action
from smcp.audit import events
from smcp.control import views
from smcp.control.endpoint import Call, Nothing, endpoint
from smcp.kernel import errors
from smcp.sandbox.volumes import snapshots

_SNAPSHOT: Final = {
    "id": "snap-01kaq3v7q0zj1x5w9n2c8d4f6g",
    "time": 1800000000.0,
    "bytes": 40960,
    "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "note": "",
}
_EXAMPLE: Final = {
    "server": "notes",
    "path": "/data",
    "size_bytes": 67108864,
    "used_bytes": 40960,
    "open": True,
    "unsaved": None,
    "snapshots": [_SNAPSHOT],
}
_PATH: Final = "/api/v1/tenants/{tenant}/servers/{server}/volume"


class RestoreFrom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to go back to."""

    snapshot: (
        Annotated[
            str, Meta(max_length=64, description="A snapshot's id; left out: the newest that holds something else.")
        ]
        | None
    ) = None


@endpoint("GET", _PATH, action=Action.VOLUME_READ, answer_example=_EXAMPLE)
async def show(call: Call[Nothing, Nothing]) -> views.Volume:
    """Show a server's volume and its snapshots."""
    return await _view(call)


@endpoint(
    "POST",
    f"{_PATH}/snapshots",
    action=Action.VOLUME_SNAPSHOT,
    raises=(errors.QuotaExceeded, errors.ServerFailed, errors.SandboxMissing),
    answer_example=_SNAPSHOT | {"note": "asked for"},
)
async def snapshot(call: Call[Nothing, Nothing]) -> views.Snapshot:
    """Take a snapshot of a server's volume now.

    The newest one is answered. It is a new one only if something has changed since the last.
    """
    await call.services.versions.server(call.tenant, call.server)
    made = await call.services.volumes.snapshot(call.tenant, call.server)
    call.changed(events.VolumeSaved, server=call.server, snapshot=made.id)
    return _snapshot(made)


@endpoint(
    "POST",
    f"{_PATH}/restore",
    action=Action.VOLUME_RESTORE,
    raises=(errors.Conflict, errors.TamperedData, errors.QuotaExceeded, errors.ServerFailed, errors.SandboxMissing),
    body_example={"snapshot": "snap-01kaq3v7q0zj1x5w9n2c8d4f6g"},
    answer_example=_SNAPSHOT | {"note": "restored from snap-01kaq3v7q0zj1x5w9n2c8d4f6g"},
)
async def restore(call: Call[RestoreFrom, Nothing]) -> views.Snapshot:
    """Take a server's volume back to an earlier snapshot.

    Its copies end, with their sessions; what they had changed is stored first. The state that was asked for then
    becomes the newest snapshot, and the next request starts a copy with it: nothing of the history is lost.
    """
    await call.services.versions.server(call.tenant, call.server)
    target = call.body.snapshot or await _before(call)
    stop = functools.partial(call.services.stop_server, call.tenant, call.server)
    made = await call.services.volumes.restore(call.tenant, call.server, target, stop)
    call.changed(events.VolumeRestored, server=call.server, snapshot=made.id, source=target)
    return _snapshot(made)


@endpoint("DELETE", _PATH, action=Action.VOLUME_DELETE, raises=(errors.Conflict,), status=204)
async def delete(call: Call[Nothing, Nothing]) -> None:
    """Delete a server's volume with all its snapshots. This can't be undone.

    Its copies end, with their sessions; the next one begins with an empty volume.
    """
    await call.services.versions.server(call.tenant, call.server)
    stop = functools.partial(call.services.stop_server, call.tenant, call.server)
    if not await call.services.volumes.delete(call.tenant, call.server, stop):
        raise errors.NotFound("The server has no volume, or nothing was ever kept of it.")
    call.changed(events.VolumeDeleted, server=call.server)


async def _before(call: Call[Any, Any]) -> str:
    state = await call.services.volumes.state(call.tenant, call.server)
    kept = list(state.history.snapshots) if state.history else []
    older = [one.id for one in kept if one.digest != kept[-1].digest]
    if not older:
        raise errors.Conflict("There is no earlier state to go back to.")
    return older[-1]


async def _view(call: Call[Any, Any]) -> views.Volume:
    _, live = await call.services.versions.live(call.tenant, call.server)
    wanted = live.manifest.volume
    state = await call.services.volumes.state(call.tenant, call.server)
    if wanted is None and state.history is None:
        raise errors.NotFound("The server has no volume. 'volume' in its manifest asks for one.")
    kept = [_snapshot(one) for one in reversed(state.history.snapshots if state.history else ())]
    return views.Volume(
        server=call.server,
        path=wanted.path if wanted else None,
        size_bytes=state.size_bytes or (wanted.size_bytes if wanted else None),
        used_bytes=kept[0].bytes if kept else 0,
        open=state.open,
        unsaved=state.unsaved or None,
        snapshots=kept,
    )


def _snapshot(one: snapshots.Snapshot) -> views.Snapshot:
    return views.Snapshot(one.id, one.time, one.bytes, one.digest, one.note)


ENDPOINTS: Final = (show, snapshot, restore, delete)
