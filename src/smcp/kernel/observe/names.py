"""The closed lists: metrics, the values of their labels, the boundaries of histograms."""

import enum
from typing import Final

import msgspec

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
DRIVER: Final = ("stdio",)
EGRESS_REASONS: Final = ("", "name", "address", "port", "network", "busy", "resolve", "connect")

# The boundaries that the MCP conventions ask for, with finer ones below 10 ms, where a gateway's own time lies.
CALL: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
START: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SESSION: Final = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 14400, 86400)
DEPLOY: Final = (1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1200)


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
    HTTP_REQUESTS = "smcp_http_requests_total"
    HTTP_IN = "smcp_http_received_bytes_total"
    HTTP_OUT = "smcp_http_sent_bytes_total"
    IN_FLIGHT = "smcp_requests_in_flight"
    AUTH_FAILURES = "smcp_auth_failures_total"
    ACCESS_REFUSED = "smcp_access_refused_total"
    RATE_LIMITED = "smcp_rate_limited_total"
    SESSIONS = "smcp_sessions_live"
    INSTANCES = "smcp_instances_live"
    INSTANCE_START = "smcp_instance_start_duration_seconds"
    DEPLOYS = "smcp_deploy_duration_seconds"
    VOLUMES = "smcp_volumes_open"
    VOLUME_SNAPSHOTS = "smcp_volume_snapshots_total"
    STORE_OPS = "smcp_store_operations_total"
    EGRESS = "smcp_egress_verdicts_total"
    AUDIT_QUEUE = "smcp_audit_queue_entries"
    BUILD = "smcp_build_info"
