"""The closed lists: metrics, the values of their labels, the boundaries of histograms."""

import enum
from typing import Final

import msgspec

from smcp.kernel import errors

OTHER: Final = "_OTHER"
"""The label value for everything outside of a closed set (OpenTelemetry's own word for it)."""

METHODS: Final = (
    *("initialize", "ping", "server/discover", "tools/list", "tools/call", "prompts/list", "prompts/get"),
    *("resources/list", "resources/templates/list", "resources/read", "resources/subscribe"),
    *("resources/unsubscribe", "subscriptions/listen", "completion/complete", "logging/setLevel"),
    *("notifications/initialized", "notifications/cancelled", "notifications/progress"),
    *("notifications/roots/list_changed", OTHER),
)
VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28", OTHER)
STATUS: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")
SURFACE: Final = ("gateway", "control", "web", "ops")
OUTCOME: Final = ("succeeded", "failed")
DRIVERS: Final = ("stdio", "worker", "remote")
INTERFACE: Final = ("kv", "log", "objects")
VERBS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", OTHER)


def _family(error: type[errors.SmcpError]) -> frozenset[type[errors.SmcpError]]:
    return frozenset({error}).union(*map(_family, error.__subclasses__()))


_TREE: Final = _family(errors.SmcpError)
ERRORS: Final = (*sorted({error.code for error in _TREE}), "rpc_error", "client_gone", OTHER)
"""Our own wire codes; an error answer of a hosted server; a client that hung up."""
STATUS_CODES: Final = (
    *sorted({"200", "201", "202", "204", "304", "307"}.union(str(error.http_status) for error in _TREE)),
    OTHER,
)
INSTANCE_STATES: Final = ("serving", "spare", "starting", "ending")
DECISIONS: Final = ("deny", "step_up", "conceal")
"""How `access.policy.decide` refuses."""

REPEATED: Final = ("answered", "lost", "failed")
EGRESS_REASONS: Final = ("", "name", "address", "port", "network", "busy", "quota", "resolve", "connect")

PLAN_LIMITS: Final = (
    *("tenant_per_minute", "principal_per_minute", "session_per_minute", "tenant_concurrency", "principal_concurrency"),
    *("principal_sessions", "instances", "spares", "memory_bytes", "storage_bytes", "storage_keys"),
    *("egress_bytes_per_day", "deployments_kept"),
)
"""As `tenancy.plans` names them."""

# The boundaries that the MCP conventions ask for, with finer ones below 10 ms, where a gateway's own time lies.
CALL: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
START: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SESSION: Final = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 14400, 86400)
DEPLOY: Final = (1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1200)
# OpenTelemetry's advice for http.server.request.duration; finer below 5 ms, and longer for calls that wait.
HTTP: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 300)
STORE: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
LAG: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Kind(enum.Enum):
    """How a metric behaves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Definition(msgspec.Struct, frozen=True):
    """One metric: what it counts, in which unit, told apart by which labels."""

    kind: Kind
    unit: str
    help: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    buckets: tuple[float, ...] = ()


class Metric(enum.Enum):
    """Every metric that exists; the value is its name as scraped."""

    OPERATION_DURATION = "mcp_server_operation_duration_seconds"
    SESSION_DURATION = "mcp_server_session_duration_seconds"
    HTTP_DURATION = "http_server_request_duration_seconds"
    HTTP_ACTIVE = "http_server_active_requests"
    HTTP_REQUESTS = "smcp_http_requests_total"
    HTTP_IN = "smcp_http_received_bytes_total"
    HTTP_OUT = "smcp_http_sent_bytes_total"
    IN_FLIGHT = "smcp_requests_in_flight"
    AUTH_FAILURES = "smcp_auth_failures_total"
    ACCESS_REFUSED = "smcp_access_refused_total"
    ERRORS = "smcp_errors_total"
    CALLS_REPEATED = "smcp_calls_repeated_total"
    INVALID = "smcp_invalid_messages_total"
    CACHE_LOOKUPS = "smcp_cache_lookups_total"
    CACHE_BYTES = "smcp_cache_bytes"
    RATE_LIMITED = "smcp_rate_limited_total"
    LIMIT_CROSSINGS = "smcp_limit_crossings_total"
    SESSIONS = "smcp_sessions_live"
    INSTANCES = "smcp_instances_live"
    INSTANCE_START = "smcp_instance_start_duration_seconds"
    INSTANCE_WAITS = "smcp_instance_wait_duration_seconds"
    INSTANCE_CRASHES = "smcp_instance_crashes_total"
    INSTANCES_SILENT = "smcp_instances_silent_total"
    SPARES = "smcp_spares_total"
    START_QUEUE = "smcp_start_queue_requests"
    BREAKERS = "smcp_breakers_open"
    DEPLOYS = "smcp_deploy_duration_seconds"
    VOLUMES = "smcp_volumes_open"
    VOLUME_SNAPSHOTS = "smcp_volume_snapshots_total"
    STORE_OPS = "smcp_store_operations_total"
    STORE_FAILURES = "smcp_store_failures_total"
    STORE_DURATION = "smcp_store_operation_duration_seconds"
    STORE_SILENCE = "smcp_store_silence_seconds"
    EGRESS = "smcp_egress_verdicts_total"
    USAGE_WAITING = "smcp_usage_waiting_seconds"
    USAGE_FAILURES = "smcp_usage_failures_total"
    AUDIT_QUEUE = "smcp_audit_queue_entries"
    AUDIT_CAPACITY = "smcp_audit_queue_capacity_entries"
    AUDIT_FAILING = "smcp_audit_failing_trails"
    DISK_FREE = "smcp_disk_free_bytes"
    DISK_SIZE = "smcp_disk_size_bytes"
    LOOP_LAG = "smcp_event_loop_lag_seconds"
    TLS_EXPIRY = "smcp_tls_certificate_expiry_timestamp_seconds"
    TLS_LOADS = "smcp_tls_certificate_loads_total"
    BUILD = "smcp_build_info"
