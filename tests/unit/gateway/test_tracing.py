"""The trace context in a message, and all the rest of it as it was."""

import json

import pytest

from smcp.gateway import tracing
from smcp.kernel import jsonrpc

CONTEXT = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}


def _message(params: str) -> jsonrpc.Message:
    body = f'{{"jsonrpc":"2.0","id":1,"method":"tools/call"{params}}}'
    return jsonrpc.parse(body.encode(), max_depth=64)


@pytest.mark.requirement("gateway:traces:context")
@pytest.mark.parametrize(
    ("params", "forwarded"),
    [
        ("", b'{"_meta":{"traceparent":"%b"}}'),
        (',"params":{}', b'{"_meta":{"traceparent":"%b"}}'),
        (',"params":{"n":1.0e2,"t":"\\u00e9"}', b'{"n":1.0e2,"t":"\\u00e9","_meta":{"traceparent":"%b"}}'),
        (
            ',"params":{"_meta":{"traceparent":"old","progressToken":1.0,"tracestate":"a=b"},"n":1}',
            b'{"_meta":{"progressToken":1.0,"traceparent":"%b"},"n":1}',
        ),
    ],
)
def test_only_the_context_changes(params: str, forwarded: bytes) -> None:
    carried = tracing.with_context(_message(params), CONTEXT)
    assert carried.params_raw == forwarded % CONTEXT["traceparent"].encode()
    # What the gateway reads is what the server gets.
    assert carried.params == json.loads(carried.params_raw)


@pytest.mark.requirement("gateway:traces:context")
@pytest.mark.parametrize("params", [',"params":{"_meta":5}', ',"params":{"_meta":null}', ',"params":{"_meta":[1]}'])
def test_what_is_no_object_stays_what_it_is(params: str) -> None:
    message = _message(params)
    assert tracing.with_context(message, CONTEXT) is message
    assert tracing.with_context(message, {}) is message
