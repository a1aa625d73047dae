"""Tidying up after a call fails nothing that comes after it."""

import pytest

from smcp.kernel import errors, jsonrpc
from smcp.runtime import calls


@pytest.mark.requirement("review:calls:tidy")
async def test_a_call_is_forgotten_also_when_its_server_can_no_longer_be_told() -> None:
    broken = False

    def write(message: bytes) -> None:
        if broken:
            raise errors.ServerFailed("The hosted server does not read its input.")

    table = calls.Calls(modern=True, write=write, stray=lambda data, method: None, limit=4)
    number, _ = table.send(jsonrpc.parse(b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}', max_depth=8))
    broken = True
    table.cancel(number, "timed out")
    assert len(table) == 0
