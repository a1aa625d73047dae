"""One tree of errors with three voices.

Each class carries a *wire code* (stable, documented in docs/reference/errors.md), the HTTP status and the
JSON-RPC code it maps to. Each instance carries a *public text* that any caller may read and that says what
to do next, and a *private detail* that only logs see. A secret belongs in neither.

JSON-RPC codes: the standard ones where they fit, else -32000, the implementation's own range
(-32000 … -32019, MCP 2026-07-28 "Error codes"); -32020 … -32099 belong to the specification.
"""

from typing import Any, ClassVar


class SmcpError(Exception):
    """Base of everything SMCP raises on purpose. Never raised itself."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    rpc_code: ClassVar[int] = -32603
    text: ClassVar[str] = "Something went wrong on the platform. The request id finds it in the log."

    def __init__(
        self,
        public: str | None = None,
        *,
        detail: str = "",
        data: dict[str, Any] | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.public = public or self.text
        self.detail = detail
        self.data = data
        self.headers = headers
        super().__init__(self.public)

    def __str__(self) -> str:
        return f"{self.code}: {self.public}" + (f" [{self.detail}]" if self.detail else "")


# --- the caller's request ------------------------------------------------------------------------------


class BadRequest(SmcpError):
    """The request can't be understood; sending it again unchanged can't help."""

    code = "bad_request"
    http_status = 400
    rpc_code = -32600
    text = "The request is not well formed."


class BadName(BadRequest):
    """A tenant's or server's name breaks the grammar of `kernel.ids`."""

    code = "bad_name"
    rpc_code = -32602
    text = "The name is not allowed."


class ParseError(BadRequest):
    """The body is not JSON, or not JSON that everybody reads alike (duplicate keys, NaN, BOM)."""

    code = "parse_error"
    rpc_code = -32700
    text = "The body is not valid JSON."


class TooDeep(BadRequest):
    """The body nests deeper than the platform reads."""

    code = "too_deep"
    text = "The body is nested too deeply."


class InvalidParams(BadRequest):
    """Well formed, but a value is missing or of the wrong type."""

    code = "invalid_params"
    rpc_code = -32602
    text = "A parameter is missing or wrong."


class UnknownTool(InvalidParams):
    """The tool does not exist for the caller: it does not exist at all, or the caller's roles leave it out."""

    code = "unknown_tool"
    text = "Unknown tool."


class ObjectRefused(InvalidParams):
    """A bucket does not take what it is asked; `reason` tells apart what R2's own interface has a code for."""

    code = "object_refused"
    text = "The bucket does not take this request."

    def __init__(self, public: str | None = None, *, reason: str = "argument", detail: str = "") -> None:
        super().__init__(public, detail=detail)
        self.reason = reason


class StreamNotKept(BadRequest):
    """`Last-Event-ID` names an event of this session after which not everything is kept, or nothing that was one."""

    code = "stream_not_kept"
    rpc_code = -32000
    text = (
        "What came after this event is not kept any more. Open a new stream; a request whose answer is missing may"
        " have been carried out."
    )


class MethodNotFound(SmcpError):
    """No such JSON-RPC method (or REST route) here."""

    code = "method_not_found"
    http_status = 404
    rpc_code = -32601
    text = "There is no such method."


class HeaderMismatch(BadRequest):
    """A routing header is missing or differs from the body (MCP 2026-07-28, Streamable HTTP)."""

    code = "header_mismatch"
    rpc_code = -32020
    text = "A header does not match the body."


class UnsupportedVersion(BadRequest):
    """The MCP version asked for is not spoken here; `data` lists those that are."""

    code = "unsupported_protocol_version"
    rpc_code = -32022
    text = "This MCP protocol version is not supported here."


class CapabilityMissing(BadRequest):
    """The request needs something of the client that it did not declare; `data` says what (MCP 2026-07-28)."""

    code = "capability_missing"
    rpc_code = -32021
    text = "The server needs to ask this client something that the client did not declare it can be asked."


class MethodNotAllowed(SmcpError):
    """The path exists, the HTTP verb doesn't."""

    code = "method_not_allowed"
    http_status = 405
    rpc_code = -32600
    text = "This HTTP method is not allowed here."


class NotAcceptable(SmcpError):
    """The client accepts neither JSON nor an event stream."""

    code = "not_acceptable"
    http_status = 406
    rpc_code = -32600
    text = "Accept application/json or text/event-stream."


class RequestTimeout(SmcpError):
    """The client took too long to send its body."""

    code = "request_timeout"
    http_status = 408
    rpc_code = -32600
    text = "The body took too long to arrive."


class TooLarge(SmcpError):
    """The body or a header is over its cap."""

    code = "too_large"
    http_status = 413
    rpc_code = -32600
    text = "The request is too large."


class UnsupportedMedia(SmcpError):
    """The body is not declared as JSON."""

    code = "unsupported_media_type"
    http_status = 415
    rpc_code = -32600
    text = "Send the body as application/json."


class HostRefused(SmcpError):
    """Host or Origin is not on the allow-list: DNS rebinding (CVE-2025-66416)."""

    code = "host_refused"
    http_status = 403
    rpc_code = -32000
    text = "This Host or Origin is not allowed. The operator adds it to gateway.hosts or gateway.origins."


# --- who is calling, and may they ----------------------------------------------------------------------


class Unauthenticated(SmcpError):
    """No credential, or one that is unknown, malformed, expired or revoked: always the same answer."""

    code = "unauthenticated"
    http_status = 401
    rpc_code = -32000
    text = "A valid credential is needed: send 'Authorization: Bearer smcp_…'."


class Forbidden(SmcpError):
    """The principal is known and the resource isn't a secret from them, but their roles do not allow the action."""

    code = "insufficient_scope"
    http_status = 403
    rpc_code = -32000
    text = "Your roles do not allow this action."


class NotFound(SmcpError):
    """It does not exist, or the caller may not know that it does."""

    code = "not_found"
    http_status = 404
    rpc_code = -32000
    text = "There is no such thing here, or you may not see it."


class SessionNotFound(NotFound):
    """The MCP session is unknown, expired, ended or another principal's: always the same answer."""

    code = "session_not_found"
    rpc_code = -32001
    text = "The session does not exist any more. Send a new initialize request."


class Conflict(SmcpError):
    """Somebody else changed it first, or it exists already."""

    code = "conflict"
    http_status = 409
    rpc_code = -32000
    text = "It was changed or created by somebody else in the meantime. Read it again and retry."


class PreconditionFailed(Conflict):
    """The condition of a request for an object does not hold (RFC 9110, 15.5.13); `found` is what is there."""

    code = "precondition_failed"
    http_status = 412
    text = "The condition of the request does not hold."

    def __init__(self, public: str | None = None, *, found: Any = None, detail: str = "") -> None:
        super().__init__(public, detail=detail)
        self.found = found


class TenantSuspended(SmcpError):
    """The tenant exists and is suspended."""

    code = "tenant_suspended"
    http_status = 403
    rpc_code = -32000
    text = "This tenant is suspended. Ask the operator of the platform."


# --- limits --------------------------------------------------------------------------------------------


class RateLimited(SmcpError):
    """A rate or concurrency limit is reached; `retry_after` is in seconds."""

    code = "rate_limited"
    http_status = 429
    rpc_code = -32000
    text = "Too many requests. Wait and retry."

    def __init__(
        self,
        public: str | None = None,
        *,
        retry_after: float = 1.0,
        detail: str = "",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        seconds = max(1, round(retry_after + 0.4999))
        super().__init__(
            public,
            detail=detail,
            data={"retryAfter": seconds},
            headers=(("Retry-After", str(seconds)), *headers),
        )


class QuotaExceeded(SmcpError):
    """A stored amount would pass the tenant's quota."""

    code = "quota_exceeded"
    http_status = 403
    rpc_code = -32000
    text = "The tenant's quota is used up."


# --- the platform --------------------------------------------------------------------------------------


class Unavailable(SmcpError):
    """A part that is needed to answer safely is away: fail closed, never open."""

    code = "unavailable"
    http_status = 503
    rpc_code = -32000
    text = "The platform can't answer safely right now. Retry shortly."


class ServerFailed(SmcpError):
    """The hosted server did not start, died, or broke the protocol."""

    code = "server_failed"
    http_status = 502
    rpc_code = -32000
    text = "The hosted MCP server failed. 'smcp server logs' shows why."


class AddressRefused(ServerFailed):
    """A remote host's address is none that is dialled for a tenant: the platform's own, private, link-local."""

    code = "address_refused"
    text = "The remote server's address is not dialled from here."


class ServerInvalid(SmcpError):
    """The hosted server answered with something that its version of MCP, or its own outputSchema, does not allow."""

    code = "server_invalid"
    http_status = 502
    rpc_code = -32000
    text = "The hosted MCP server's answer is not valid. 'smcp server logs' says what is wrong with it."


class RpcError(SmcpError):
    """The hosted server answered the platform's own question with a JSON-RPC error, whose message is the tenant's own.

    `data` holds its code and data.
    """

    code = "rpc_error"
    http_status = 502
    rpc_code = -32000
    text = "The hosted server answered with an error."

    def __str__(self) -> str:
        # This is what logs show, and those words may hold anything that the tenant's server knows.
        return f"{self.code}: {self.text}" + (f" [{self.detail}]" if self.detail else "")


class ServerTimeout(SmcpError):
    """The hosted server did not answer before the deadline."""

    code = "server_timeout"
    http_status = 504
    rpc_code = -32000
    text = "The hosted MCP server did not answer in time."


class CallInterrupted(SmcpError):
    """The hosted server, or the platform, ended while the call ran, and the call was not or could not be repeated.

    `data.mayHaveRun` is false where the call is known to have never reached the hosted server.
    """

    code = "call_interrupted"
    http_status = 502
    rpc_code = -32000
    text = (
        "The platform was restarted while this call ran. It may have been carried out, in part or as a whole, and was"
        " not repeated: the tool declares neither readOnlyHint nor idempotentHint."
    )


class ServerStopped(SmcpError):
    """The server exists and was stopped by its owner, or has no live deployment."""

    code = "server_stopped"
    http_status = 503
    rpc_code = -32000
    text = "This server is stopped. 'smcp server start' starts it."


class ServerCrashing(SmcpError):
    """The server's copies keep ending before they answer anything; it is tried again after `retry_after` seconds."""

    code = "server_crashing"
    http_status = 503
    rpc_code = -32000
    text = "The hosted MCP server keeps ending right after its start. 'smcp server logs' shows why."

    def __init__(self, public: str | None = None, *, retry_after: float = 1.0, detail: str = "") -> None:
        seconds = max(1, round(retry_after + 0.4999))
        super().__init__(
            public,
            detail=detail,
            data={"retryAfter": seconds},
            headers=(("Retry-After", str(seconds)),),
        )


class SecretMissing(SmcpError):
    """The server's manifest names a secret that is not set, or whose value can't be handed over in that way."""

    code = "secret_missing"
    http_status = 503
    rpc_code = -32000
    text = "The server needs a secret that is not set. 'smcp secret set' sets it."


class DeployFailed(SmcpError):
    """A deployment could not be made; nothing of it is live."""

    code = "deploy_failed"
    http_status = 422
    rpc_code = -32000
    text = "The deployment failed; what was live before still is."


class TamperedData(SmcpError):
    """Stored bytes do not open under their key and place: changed, moved, truncated or downgraded."""

    code = "tampered_data"
    http_status = 500
    rpc_code = -32603
    text = "Stored data failed its integrity check and was not used."


class BadSettings(SmcpError):
    """The configuration is wrong; the platform refuses to start with it."""

    code = "bad_settings"
    text = "The configuration is wrong."


class SandboxMissing(SmcpError):
    """A layer of the sandbox that the platform needs is not available on this machine."""

    code = "sandbox_missing"
    http_status = 503
    rpc_code = -32000
    text = "The sandbox is not available. 'smcp doctor' says what is missing and what to run."
