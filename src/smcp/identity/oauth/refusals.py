"""What an OAuth endpoint refuses with: a code that clients know, a sentence, a status. No secret is in any of them."""

from typing import Any, Final

ACCESS_DENIED: Final = "access_denied"
INVALID_CLIENT: Final = "invalid_client"
INVALID_CLIENT_METADATA: Final = "invalid_client_metadata"
INVALID_GRANT: Final = "invalid_grant"
INVALID_REDIRECT_URI: Final = "invalid_redirect_uri"
INVALID_REQUEST: Final = "invalid_request"
INVALID_SCOPE: Final = "invalid_scope"
INVALID_TARGET: Final = "invalid_target"
INVALID_TOKEN: Final = "invalid_token"  # noqa: S105 - a code
REQUEST_NOT_SUPPORTED: Final = "request_not_supported"
REQUEST_URI_NOT_SUPPORTED: Final = "request_uri_not_supported"
SERVER_ERROR: Final = "server_error"
TEMPORARILY_UNAVAILABLE: Final = "temporarily_unavailable"
UNAUTHORIZED_CLIENT: Final = "unauthorized_client"
UNSUPPORTED_GRANT_TYPE: Final = "unsupported_grant_type"
UNSUPPORTED_RESPONSE_TYPE: Final = "unsupported_response_type"


class Refused(Exception):
    """An OAuth endpoint's refusal (RFC 6749, 5.2). Its answer is `body` in JSON with `status` and `headers`."""

    def __init__(
        self,
        code: str,
        description: str,
        *,
        detail: str = "",
        status: int = 400,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """`description` may be read by anybody (printable ASCII without `"` and `\\`, RFC 6749, 5.2). `detail` is one
        word of a closed list, for the audit trail alone."""
        self.code = code
        self.description = description
        self.detail = detail
        self.status = status
        self.headers = headers
        super().__init__(f"{code}: {description}")

    @property
    def body(self) -> dict[str, Any]:
        """What the client gets."""
        return {"error": self.code, "error_description": self.description}


def client(detail: str, *, basic: bool = False) -> Refused:
    """The one refusal of a client that is not who it says, is unknown or revoked: always the same words.

    `basic`: it tried HTTP Basic, and is answered in kind (RFC 6749, 5.2).
    """
    headers = (("WWW-Authenticate", 'Basic realm="smcp"'),) if basic else ()
    words = "The client is unknown, or did not prove who it is."
    return Refused(INVALID_CLIENT, words, detail=detail, status=401, headers=headers)
