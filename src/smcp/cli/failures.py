"""What goes wrong on the client's side, and the exit codes that scripts may rely on (docs/reference/cli.md)."""

import enum
from typing import Any


class Exit(enum.IntEnum):
    """Exit codes. 2 is also what a wrong command line gives."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    NOT_FOUND = 5
    INTERRUPTED = 130


class Failure(Exception):
    """A command that can't go on. `hint` says what to do next; nothing in it is a secret."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str = "",
        exit_code: Exit = Exit.FAILED,
        request_id: str = "",
        data: object = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.exit_code = exit_code
        self.request_id = request_id
        self.data = data

    def as_json(self) -> dict[str, Any]:
        """In the shape of the admin API's errors, so that a script needs one reader."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.hint:
            error["hint"] = self.hint
        if self.request_id:
            error["request_id"] = self.request_id
        if self.data is not None:
            error["data"] = self.data
        return {"error": error}
