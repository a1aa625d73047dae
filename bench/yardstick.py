"""The yardstick: a bare uvicorn app that reads the body and answers one fixed JSON-RPC result. Not a server, a measure.

It stands for what the HTTP server alone costs on this machine, so that the platform's figures can be compared between
machines and runs.
"""

import socket
import sys
from typing import Any

import uvicorn

ANSWER_ID = 1
ANSWER_TEXT = "fixed"
ANSWER = b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"fixed"}],"resultType":"complete"}}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]


async def app(_scope: Any, receive: Any, send: Any) -> None:
    """Read all, answer the same."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


def main() -> None:
    """Serve on a free port of the loopback, and say on stdout which one."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", lifespan="off", access_log=False, log_level="warning", ws="none"
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
