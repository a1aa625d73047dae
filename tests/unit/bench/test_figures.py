"""What the bench says of its samples, and that its bare clients believe nothing unchecked either."""

import os
import sys

import pytest
from bench import bare, echo, figures


@pytest.mark.requirement("bench:sandbox:ratio")
def test_every_way_is_compared_with_the_bare_one_of_the_same_thing() -> None:
    made = figures.Figures()
    made.add("start", "true", figures.BARE, "ms", [3.0, 1.0, 2.0])
    made.add("start", "true", "walled", "ms", [10.0, 10.0])
    made.add("memory", "python", figures.BARE, "MiB", [50.0])
    made.add("start", "true", "walled", "ms", [30.0])
    made.add("memory", "python", "walled", "MiB", [55.0])
    made.add("memory", "platform", "launcher", "MiB", [20.0])
    found = made.found()
    assert [(one.topic, one.subject, one.how) for one in found] == [
        ("start", "true", figures.BARE),
        ("start", "true", "walled"),
        ("memory", "python", figures.BARE),
        ("memory", "python", "walled"),
        ("memory", "platform", "launcher"),
    ]
    assert [one.ratio for one in found] == [1.0, 5.0, 1.0, 1.1, None]
    assert (found[1].median, found[1].p95, found[1].samples) == (10.0, 30.0, 3)


@pytest.mark.requirement("bench:sandbox:checked")
def test_a_process_that_fails_has_no_time() -> None:
    assert bare.run(["/usr/bin/true"]) > 0
    with pytest.raises(RuntimeError, match="ended with 1"):
        bare.run(["/usr/bin/false"])


@pytest.mark.requirement("bench:sandbox:checked")
@pytest.mark.parametrize("at_once", [1, 16])
def test_the_bare_client_drives_the_echo_server(at_once: int) -> None:
    with bare.Server([sys.executable, "-I", echo.__file__], os.environ) as server:
        server.initialize()
        assert server.per_call(50, at_once) > 0


@pytest.mark.requirement("bench:sandbox:checked")
@pytest.mark.parametrize(
    "wrong",
    [
        b'{"jsonrpc":"2.0","id":3,"result":{"content":[{"type":"text","text":"text 4"}]}}',
        b'{"jsonrpc":"2.0","id":3,"result":{"content":[]}}',
        b'{"jsonrpc":"2.0","id":3,"error":{"code":-32601,"message":"no"}}',
        b"",
    ],
)
def test_a_wrong_answer_leaves_no_result(wrong: bytes) -> None:
    bare.check(b'{"jsonrpc":"2.0","id":3,"result":{"content":[{"type":"text","text":"text 3"}]}}', 3)
    with pytest.raises(RuntimeError, match="wrong answer"):
        bare.check(wrong, 3)


@pytest.mark.requirement("bench:sandbox:checked")
def test_a_server_that_ends_leaves_no_result() -> None:
    with (
        bare.Server([sys.executable, "-I", "-c", "input()"], os.environ) as server,
        pytest.raises(RuntimeError, match="ended before it answered"),
    ):
        server.initialize()
