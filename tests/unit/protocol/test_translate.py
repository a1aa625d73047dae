"""A legacy client's words in the modern wire's."""

import pytest

from smcp.kernel import jsonrpc
from smcp.protocol import eras, translate


@pytest.mark.parametrize("params", [b"{}", b'{"a":1}', b'{"_meta":{"x":1}}'])
def test_who_asked_for_log_messages_is_known_to_have_asked_whatever_the_client_sends(params: bytes) -> None:
    message = jsonrpc.parse(b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":%b}' % params, max_depth=9)
    for level in ("debug", ""):
        stamped = translate.stamped(message, translate.meta({"name": "logLevel", "version": "1"}, level))
        told = jsonrpc.decode(stamped.params_raw)["_meta"]
        assert (eras.META_LOG_LEVEL in told) == (eras.META_LOG_LEVEL in stamped.params["_meta"]) == bool(level)
