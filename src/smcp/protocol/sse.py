"""Server-sent events (WHATWG HTML, 9.2) as MCP uses them: one JSON-RPC message an event."""

from typing import Final

HEARTBEAT: Final = b": keep-alive\n\n"
"""A comment: clients ignore it, proxies and idle timers see traffic (client-quirk: streams die silently)."""


def event(message: bytes) -> bytes:
    """One `message` event. `message` is JSON on one line, or with line ends that are split as the format asks."""
    if b"\n" in message or b"\r" in message:
        lines = message.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        return b"event: message\n" + b"".join(b"data: %b\n" % line for line in lines) + b"\n"
    return b"event: message\ndata: %b\n\n" % message
