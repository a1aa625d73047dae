"""What validation costs a call, in microseconds: `python -m bench.validation`."""

import sys
import timeit
from collections.abc import Callable
from typing import Final

from smcp.kernel import jsonrpc
from smcp.protocol.validate import messages, quick, schemas

_TIMES: Final = 20_000
_PARAMS: Final = (
    b'{"name":"echo","arguments":{"text":"hello"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
    b'"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"b","version":"1"}}}'
)
_BODY: Final = jsonrpc.request(b"1", "tools/call", _PARAMS)
_RESULT: Final = b'{"resultType":"complete","content":[{"type":"text","text":"' + b"x" * 200 + b'"}]}'
_SCHEMA: Final = b'{"type":"object","required":["text"],"properties":{"text":{"type":"string"}}}'


def _us(act: Callable[[], object]) -> float:
    return min(timeit.repeat(act, number=_TIMES, repeat=3)) / _TIMES * 1e6


def main() -> None:
    """Print the table."""
    schema = schemas.Schema(_SCHEMA)
    rows: dict[str, Callable[[], object]] = {
        "params of a modern tools/call, quick": lambda: quick.request("tools/call", _PARAMS, modern=True),
        "those params, whole": lambda: messages.client_request("2026-07-28", "tools/call", _BODY),
        "arguments against a small schema": lambda: schema.wrong({"text": "hello"}, _PARAMS),
        "a result with a text, quick": lambda: quick.result(_RESULT, modern=True),
        "that result, whole": lambda: messages.server_result("2026-07-28", "tools/call", _RESULT),
    }
    for name, act in rows.items():
        sys.stdout.write(f"{_us(act):8.2f} us  {name}\n")


if __name__ == "__main__":
    main()
