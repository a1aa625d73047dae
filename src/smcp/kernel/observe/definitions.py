"""What each metric counts. docs/reference/metrics.md is written from this table, and a test compares the two."""

from collections.abc import Mapping
from typing import Final

from smcp.kernel.observe import names
from smcp.kernel.observe.names import Definition, Kind, Metric

DEFINITIONS: Final[Mapping[Metric, Definition]] = {
    Metric.OPERATION_DURATION: Definition(
        Kind.HISTOGRAM,
        "seconds",
        "Time from the whole request read to the last byte of its answer handed on, per MCP method.",
        (("mcp_method_name", names.METHODS), ("mcp_protocol_version", names.VERSIONS), ("error_type", ("", "error"))),
        names.CALL,
    ),
    Metric.SESSION_DURATION: Definition(
        Kind.HISTOGRAM, "seconds", "Life of a legacy session, from initialize to its end.", (), names.SESSION
    ),
    Metric.HTTP_DURATION: Definition(
        Kind.HISTOGRAM,
        "seconds",
        "Time from the header fields read to the last byte of the answer handed on; an event stream counts whole."
        " Without a status code: the client hung up first.",
        (
            ("surface", names.SURFACE),
            ("http_request_method", names.VERBS),
            ("http_response_status_code", ("", *names.STATUS_CODES)),
        ),
        names.HTTP,
    ),
    Metric.HTTP_ACTIVE: Definition(
        Kind.GAUGE,
        "requests",
        "HTTP requests that are being answered, open event streams included.",
        (("surface", names.SURFACE),),
    ),
    Metric.HTTP_REQUESTS: Definition(
        Kind.COUNTER,
        "requests",
        "HTTP requests answered, by surface and status class.",
        (("surface", names.SURFACE), ("status", names.STATUS)),
    ),
    Metric.HTTP_IN: Definition(Kind.COUNTER, "bytes", "Bytes of request bodies read.", (("surface", names.SURFACE),)),
    Metric.HTTP_OUT: Definition(Kind.COUNTER, "bytes", "Bytes of answer bodies sent.", (("surface", names.SURFACE),)),
    Metric.IN_FLIGHT: Definition(Kind.GAUGE, "requests", "MCP requests that have not been answered yet."),
    Metric.AUTH_FAILURES: Definition(
        Kind.COUNTER,
        "requests",
        "Requests refused for want of a valid credential.",
        (("surface", names.SURFACE),),
    ),
    Metric.ACCESS_REFUSED: Definition(
        Kind.COUNTER,
        "requests",
        "Decisions that refused: `deny` answers 403, `step_up` 403 with the scope to ask for, `conceal` 404.",
        (("surface", names.SURFACE), ("decision", names.DECISIONS)),
    ),
    Metric.ERRORS: Definition(
        Kind.COUNTER,
        "errors",
        "Requests that ended with an error, by its code; `rpc_error`: the hosted server's own answer was one.",
        (("surface", names.SURFACE), ("error_type", names.ERRORS)),
    ),
    Metric.CALLS_REPEATED: Definition(
        Kind.COUNTER,
        "calls",
        "Calls that were repeated since their copy of the hosted server ended: `answered`, `lost` with the second copy,"
        " too, or `failed`: there was no other copy, or nobody waited any longer.",
        (("outcome", names.REPEATED),),
    ),
    Metric.INVALID: Definition(
        Kind.COUNTER,
        "messages",
        "Messages that were not valid for their version of MCP or for a tool's schema, by who sent them.",
        (("sender", ("client", "server")),),
    ),
    Metric.CACHE_LOOKUPS: Definition(
        Kind.COUNTER,
        "requests",
        "Lists and reads that were looked for among the answers that are kept, by whether they were there.",
        (("result", ("hit", "miss")),),
    ),
    Metric.CACHE_BYTES: Definition(
        Kind.GAUGE,
        "bytes",
        "Answers that are kept for who asks the same, of all tenants.",
    ),
    Metric.RATE_LIMITED: Definition(
        Kind.COUNTER,
        "requests",
        "Requests answered 429: by the platform's own rate, a caller's rate, concurrency, or an address without a"
        " valid credential.",
        (("limit", ("platform", "rate", "concurrency", "unauthenticated")),),
    ),
    Metric.LIMIT_CROSSINGS: Definition(
        Kind.COUNTER,
        "crossings",
        "Times that some tenant came to 80 % of a limit of its plan (`warning`) or to the limit (`reached`).",
        (("limit", names.PLAN_LIMITS), ("state", ("warning", "reached"))),
    ),
    Metric.SESSIONS: Definition(Kind.GAUGE, "sessions", "Legacy sessions that have not ended."),
    Metric.INSTANCES: Definition(
        Kind.GAUGE,
        "instances",
        "Copies of hosted servers: `serving`, `spare` (started ahead, used by nobody yet), `starting`, `ending`.",
        (("driver", names.DRIVERS), ("state", names.INSTANCE_STATES)),
    ),
    Metric.INSTANCE_START: Definition(
        Kind.HISTOGRAM,
        "seconds",
        "Time to start a copy of a hosted server, sandbox included.",
        (("driver", names.DRIVERS), ("outcome", names.OUTCOME)),
        names.START,
    ),
    Metric.INSTANCE_WAITS: Definition(
        Kind.HISTOGRAM,
        "seconds",
        "Time that a request waited for its copy, where none was running: one was started, or a spare was there.",
        (("source", ("start", "spare")),),
        names.START,
    ),
    Metric.INSTANCE_CRASHES: Definition(
        Kind.COUNTER, "instances", "Copies that ended without being told to, or did not answer after their start."
    ),
    Metric.INSTANCES_SILENT: Definition(
        Kind.COUNTER, "instances", "Copies that were replaced because they did not answer any more."
    ),
    Metric.SPARES: Definition(
        Kind.COUNTER,
        "instances",
        "Copies started ahead, by what became of them.",
        (("outcome", ("used", "unused")),),
    ),
    Metric.START_QUEUE: Definition(
        Kind.GAUGE, "requests", "Starts of copies that wait for a turn, because others are under way."
    ),
    Metric.BREAKERS: Definition(
        Kind.GAUGE,
        "deployments",
        "Deployments whose copies keep ending, so that starts wait: breakers open or half open.",
    ),
    Metric.DEPLOYS: Definition(
        Kind.HISTOGRAM,
        "seconds",
        "Time of a deployment, from its request to live or failed.",
        (("outcome", names.OUTCOME),),
        names.DEPLOY,
    ),
    Metric.VOLUMES: Definition(Kind.GAUGE, "volumes", "Volumes that are in memory, because a server uses them."),
    Metric.VOLUME_SNAPSHOTS: Definition(
        Kind.COUNTER,
        "snapshots",
        "Snapshots of volumes: stored, left out because nothing had changed, or failed and tried again.",
        (("outcome", ("stored", "unchanged", "failed")),),
    ),
    Metric.STORE_OPS: Definition(
        Kind.COUNTER,
        "operations",
        "Calls of the storage interfaces by tenants' handles.",
        (("interface", names.INTERFACE),),
    ),
    Metric.STORE_FAILURES: Definition(
        Kind.COUNTER,
        "operations",
        "Calls of the storage interfaces that failed; one that lost a race for a revision counts too.",
        (("interface", names.INTERFACE),),
    ),
    Metric.STORE_DURATION: Definition(
        Kind.HISTOGRAM,
        "seconds",
        "Time of a call of the storage interfaces, sealing and waiting for its turn included.",
        (("interface", names.INTERFACE),),
        names.STORE,
    ),
    Metric.STORE_SILENCE: Definition(
        Kind.GAUGE,
        "seconds",
        "Time since the store last answered its heartbeat, which is due twice a second; above 2 requests are refused.",
    ),
    Metric.EGRESS: Definition(
        Kind.COUNTER,
        "verdicts",
        "What hosted servers asked of the network: `allowed` (connected), `refused` (name, address, port or network not"
        " allowed, too many connections at once: `busy`, or the tenant's bytes of the day used up: `quota`), `failed`"
        " (the host was not found or not reached).",
        (("verdict", ("allowed", "refused", "failed")), ("reason", names.EGRESS_REASONS)),
    ),
    Metric.USAGE_WAITING: Definition(
        Kind.GAUGE, "seconds", "Age of the oldest usage that is in memory only: what a crash now would lose."
    ),
    Metric.USAGE_FAILURES: Definition(
        Kind.COUNTER,
        "attempts",
        "Attempts to write usage that failed and are made again: `commit` into the log, `fold` into the hours.",
        (("step", ("commit", "fold")),),
    ),
    Metric.AUDIT_QUEUE: Definition(Kind.GAUGE, "entries", "Audit entries that wait to be written."),
    Metric.AUDIT_CAPACITY: Definition(
        Kind.GAUGE, "entries", "Audit entries that may wait; then requests are refused. A tenant may fill a quarter."
    ),
    Metric.AUDIT_FAILING: Definition(
        Kind.GAUGE, "trails", "Tenants whose audit trail can't be written now; their requests are refused."
    ),
    Metric.DISK_FREE: Definition(Kind.GAUGE, "bytes", "Free space where the data directory lies."),
    Metric.DISK_SIZE: Definition(Kind.GAUGE, "bytes", "Space in all where the data directory lies."),
    Metric.LOOP_LAG: Definition(
        Kind.HISTOGRAM,
        "seconds",
        "How late the event loop came back to a timer, asked ten times a second: what blocks it delays every request.",
        (),
        names.LAG,
    ),
    Metric.TLS_EXPIRY: Definition(
        Kind.GAUGE,
        "seconds",
        "When the certificate in use ends, in seconds since 1970; 0 where the platform speaks no TLS itself.",
    ),
    Metric.TLS_LOADS: Definition(
        Kind.COUNTER,
        "certificates",
        "Certificates taken into use (the one at the start too), or refused, in which case the one before stays.",
        (("outcome", ("loaded", "refused")),),
    ),
    Metric.BUILD: Definition(Kind.GAUGE, "1", "Always 1; the label carries the version.", (("version", ()),)),
}
