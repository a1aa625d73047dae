"""What one copy of a hosted server says, and is told, against the version of MCP that was agreed on with it.

| wrong | what happens |
|---|---|
| a result, an error | the caller gets an error that names the place; a line in the server's log |
| a notification | dropped, and a line |
| a request of a legacy server | answered -32602, so that it does not wait, and a line |
| a client's answer to such a request | the server gets an error instead, the client 400 |

Not looked at: methods that the version does not know, results that an extension or a task stands behind, results on
disk (`spool`), and the platform's own questions but for `tools/call` (`peer` reads what it needs and no more).
"""

import time
import weakref
from collections.abc import Callable
from typing import Any, Final

import msgspec

from smcp.kernel import errors, ids, jsonrpc
from smcp.protocol import eras
from smcp.protocol.validate import messages, quick, tools
from smcp.runtime import call as calls

_STRUCTURED: Final = (*eras.LEGACY[2:], *eras.MODERN)
"""Versions with structured results: from 2025-06-18 on."""
_PER_SECOND: Final = 20
"""Lines about wrong messages of one copy that are written a second; all of them are counted."""
_CHANGES: Final = frozenset(
    {
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
        "notifications/tools/list_changed",
    }
)
_MISSING: Final = "/structuredContent: is missing, and the tool has an outputSchema"


class Books:
    """The tools of each deployment, for as long as somebody uses them."""

    def __init__(self) -> None:
        self._books: weakref.WeakValueDictionary[tuple[ids.TenantId, str], tools.Book] = weakref.WeakValueDictionary()

    def of(self, tenant: ids.TenantId, deployment: str) -> tools.Book:
        """The one book of a deployment."""
        book = self._books.get((tenant, deployment))
        if book is None:
            book = self._books[tenant, deployment] = tools.Book()
        return book


class Checks:
    """For one copy."""

    def __init__(
        self, book: tools.Book, note: Callable[[str], None], count: Callable[[], None], *, modern: bool
    ) -> None:
        """`note` writes a line into the server's log, `count` counts a wrong message."""
        self._book = book
        self._note: Callable[[str], None] = lambda line: note(_printable(line))
        self._count = count
        self._modern = modern
        self._version = eras.MODERN[-1] if modern else ""
        """Empty until a legacy server has answered `initialize`, and for a version that nobody knows."""
        self._second = 0
        self._noted = 0

    def result(self, call: calls.Call, result: msgspec.Raw) -> str:
        """What is wrong with the result of a call; empty when nothing is."""
        method = call.method
        if method == "initialize":
            return self._agreed(call, bytes(result))
        if method == "tools/list":
            self._book.listed(result)
        if call.own and method != "tools/call":
            return ""
        wrong = self._tool(call, result) if method == "tools/call" else self._shape(method, result)
        if wrong:
            self.wrong(f"its answer to {_named(method, call.tool)} is not valid for MCP {self._version}: {wrong}")
        return wrong

    def unread(self, method: str) -> None:
        """A result has gone by unread, since it was too large."""
        if method == "tools/list":
            self._book.changed()

    def _agreed(self, call: calls.Call, result: bytes) -> str:
        wrong = "" if call.own else messages.server_result(eras.LEGACY[-1], "initialize", result)
        if wrong:
            self.wrong(f"its answer to initialize is not valid: {wrong}")
        else:
            told = (jsonrpc.obj(jsonrpc.decode(result)) or {}).get("protocolVersion")
            self._version = told if isinstance(told, str) and told in eras.LEGACY else ""
        return wrong

    def _shape(self, method: str, result: msgspec.Raw) -> str:
        return messages.server_result(self._version, method, bytes(result)) if self._version else ""

    def _tool(self, call: calls.Call, result: msgspec.Raw) -> str:
        if call.task:
            return ""  # the answer is the task; its result comes by another way
        found = quick.result(result, modern=self._modern)
        if found is not None:
            if found.failed or not self._promised(call.tool):
                return ""
            if found.structured is msgspec.UNSET:
                return _MISSING
            return self._structured(call.tool, jsonrpc.decode(found.structured), bytes(found.structured))
        wrong = self._shape(call.method, result)
        if wrong or not self._promised(call.tool):
            return wrong
        value: Any = jsonrpc.obj(jsonrpc.decode(result)) or {}
        if value.get("isError") is True or value.get("resultType", "complete") != "complete":
            return ""
        if "structuredContent" not in value:
            return _MISSING
        return self._structured(call.tool, value["structuredContent"], bytes(result))

    def _promised(self, tool: str) -> bool:
        return self._version in _STRUCTURED and self._book.promises(tool)

    def _structured(self, tool: str, value: Any, raw: bytes) -> str:
        wrong = self._book.structured(tool, value, raw, self._note)
        return f"/structuredContent{wrong}" if wrong else ""

    def failure(self, call: calls.Call, error: msgspec.Raw) -> str:
        """What is wrong with an error that a call was answered with."""
        try:
            quick.failure(error)
        except (msgspec.DecodeError, RecursionError) as refused:
            wrong = f"/error: {str(refused)[:200]}"
            self.wrong(f"its answer to {_named(call.method, call.tool)} is not valid: {wrong}")
            return wrong
        return ""

    def notice(self, frame: jsonrpc.Frame, line: bytes) -> bool:
        """May this notification go on?"""
        if frame.method in _CHANGES:
            self._book.outdated()
        if frame.method == "notifications/tools/list_changed":
            self._book.changed()
        if not self._version or quick.notice(frame.method, frame.params):
            return True
        wrong = messages.server_notification(self._version, frame.method, line)
        if wrong:
            self.wrong(f"dropped {frame.method[:128]}, which is not valid for MCP {self._version}: {wrong}")
        return not wrong

    def request(self, frame: jsonrpc.Frame, line: bytes) -> str:
        """What is wrong with a request of a legacy server; empty when nothing is."""
        wrong = messages.server_request(self._version, frame.method, line) if self._version else ""
        if wrong:
            self.wrong(f"refused its {frame.method[:128]}, which is not valid for MCP {self._version}: {wrong}")
        return wrong

    def answer(self, method: str, body: bytes) -> str:
        """What is wrong with a client's answer to the server's request `method`; empty when nothing is."""
        result = jsonrpc.frame(body).result
        return messages.client_result(self._version, method, bytes(result)) if self._version and result else ""

    def wrong(self, line: str) -> None:
        """A message was not valid: count it, and say so in the server's log."""
        self._count()
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._noted = second, 0
        self._noted += 1
        if self._noted <= _PER_SECOND:
            self._note(line)


def _printable(line: str) -> str:
    # Names of a hosted server's own choosing must not begin a line of their own in its log.
    return "".join(one if one.isprintable() else "?" for one in line)


def failed(method: str, tool: str, wrong: str) -> errors.ServerInvalid:
    """What a caller gets instead of a wrong answer."""
    return errors.ServerInvalid(f"The hosted server's answer to {_named(method, tool)} is not valid: {wrong}")


def _named(method: str, tool: str) -> str:
    return f"{method[:128]} of {tool[:128]!r}" if tool else method[:128]
