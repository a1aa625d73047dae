"""Observation: structured logs, a closed list of metrics, a closed list of spans.

Names follow OpenTelemetry's semantic conventions for MCP where those exist (`mcp.server.operation.duration` becomes
`mcp_server_operation_duration_seconds`), else they begin with `smcp_`. Label values are closed sets: a caller can
never make a new time series. A tenant is no label, because tenants are not bounded; the audit trail and the
logs tell tenants apart.

The lists are in `names`, what each metric means in `definitions`. Others read everything through this package:
`observe.Metric`, `observe.Metrics`, `observe.Traces`.
"""

from smcp.kernel.observe.definitions import DEFINITIONS as DEFINITIONS
from smcp.kernel.observe.logs import Logger as Logger
from smcp.kernel.observe.logs import configure as configure
from smcp.kernel.observe.logs import logger as logger
from smcp.kernel.observe.logs import redacted as redacted
from smcp.kernel.observe.metrics import CONTENT_TYPE as CONTENT_TYPE
from smcp.kernel.observe.metrics import Metrics as Metrics
from smcp.kernel.observe.names import DECISIONS as DECISIONS
from smcp.kernel.observe.names import DRIVERS as DRIVERS
from smcp.kernel.observe.names import EGRESS_REASONS as EGRESS_REASONS
from smcp.kernel.observe.names import INSTANCE_STATES as INSTANCE_STATES
from smcp.kernel.observe.names import METHODS as METHODS
from smcp.kernel.observe.names import OTHER as OTHER
from smcp.kernel.observe.names import REPEATED as REPEATED
from smcp.kernel.observe.names import VERSIONS as VERSIONS
from smcp.kernel.observe.names import Definition as Definition
from smcp.kernel.observe.names import Kind as Kind
from smcp.kernel.observe.names import Metric as Metric
from smcp.kernel.observe.series import Counter as Counter
from smcp.kernel.observe.series import Gauge as Gauge
from smcp.kernel.observe.series import Histogram as Histogram
from smcp.kernel.observe.spans import KINDS as KINDS
from smcp.kernel.observe.spans import Request as Request
from smcp.kernel.observe.spans import Span as Span
from smcp.kernel.observe.spans import Traces as Traces
