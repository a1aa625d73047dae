"""A tenant's audit trail: read and verified."""

from typing import Final

import msgspec

from smcp.access.policy import Action
from smcp.audit import events
from smcp.control import views
from smcp.control.endpoint import Call, Nothing, Positions, endpoint


@endpoint(
    "GET",
    "/api/v1/tenants/{tenant}/audit",
    action=Action.AUDIT_READ,
    platform=True,
    answer_example={
        "items": [
            {
                "position": 1001,
                "time": 1800000000.0,
                "event": {"event": "server_stopped", "tenant": "acme", "actor": "key-4f6g01kaq3v7", "server": "time"},
            }
        ],
        "next": None,
    },
)
async def index(call: Call[Nothing, Positions]) -> views.Listing[views.AuditEntry]:
    """Read the audit trail.

    Oldest first. Reading is itself an entry. `next` is null when there is nothing newer yet; the last entry's
    `position` continues from there later.
    """
    page = call.query
    found = await call.services.trail.query(call.tenant, after=page.after, limit=page.limit)
    call.changed(events.AuditRead)
    items = [views.AuditEntry(one.position, one.time, msgspec.to_builtins(one.event)) for one in found]
    return views.Listing(items, items[-1].position if len(items) == page.limit else None)


@endpoint(
    "POST",
    "/api/v1/tenants/{tenant}/audit/verify",
    action=Action.AUDIT_VERIFY,
    platform=True,
    answer_example={"ok": True, "entries": 42, "checkpoints": 1, "problem": None, "position": None},
)
async def verify(call: Call[Nothing, Nothing]) -> views.AuditReport:
    """Verify the audit trail's hash chain.

    `ok` is false when an entry was changed, removed or reordered; `position` and `problem` tell where and what.
    """
    report = await call.services.trail.verify(call.tenant)
    call.changed(
        events.AuditVerified,
        outcome="ok" if report.ok else "failed",
        entries=report.entries,
        checkpoints=report.checkpoints,
        position=report.position,
    )
    return views.AuditReport(report.ok, report.entries, report.checkpoints, report.problem, report.position)


ENDPOINTS: Final = (index, verify)
