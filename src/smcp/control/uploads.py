"""Uploads: a folder or a bundle, sent before it is deployed."""

from typing import Final

from smcp.access.policy import Action
from smcp.audit import events
from smcp.control import views
from smcp.control.endpoint import Binary, Call, Nothing, endpoint


@endpoint(
    "POST",
    "/api/v1/tenants/{tenant}/uploads",
    action=Action.SERVER_DEPLOY,
    status=201,
    answer_example={
        "source": "upload:sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
        "bytes": 20480,
    },
)
async def store(call: Call[Binary, Nothing]) -> views.Upload:
    """Send a folder or a bundle.

    The body is a tar, tar.gz or zip archive of a project with its lock file, or an .mcpb bundle, as
    application/octet-stream. It is kept sealed for a day; deploy it by the `source` in the answer. What it holds is
    looked at when it is deployed.
    """
    stored = await call.services.uploads.store(call.tenant, call.body.chunks)
    call.changed(events.UploadStored, digest=stored.source.digest, bytes=stored.bytes)
    return views.Upload(str(stored.source), stored.bytes)


ENDPOINTS: Final = (store,)
