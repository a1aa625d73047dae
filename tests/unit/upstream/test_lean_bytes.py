"""What the lean client writes, and that it reads the same wherever an answer is cut."""

import asyncio
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from smcp.kernel import errors
from smcp.upstream import lean, places
from support.leanly import HEAD, JSON, PLACE, both, calling, done

# --- what goes out ---


@pytest.mark.requirement("attack:lean:fields")
@pytest.mark.parametrize(
    "field",
    [
        *((name, "x") for name in ("Host", "content-length", "Transfer-Encoding", "Connection", "TE", "Expect")),
        *((name, "x") for name in ("", "a b", "a:", "a\r\nb", "ü", "Trailer", "Upgrade", "Proxy-Connection", "a" * 65)),
        *(("X-A", value) for value in ("a\r\nHost: b", "a\nb", "a\rb", "a\0b", "ü", " a", "a ", "\ta", "\x7f", "\r\n")),
        ("X-A", "a" * 70_000),
    ],
)  # fmt: skip
async def test_no_field_can_frame_a_request_or_end_its_line(field: tuple[str, str]) -> None:
    async with both() as (client, server):
        with pytest.raises(errors.ServerFailed, match="A request to the hosted server can't be sent"):
            async with client.send("POST", PLACE, [*JSON, field], b"{}"):
                pass
        assert server.nobody()


@pytest.mark.requirement("attack:lean:fields")
@pytest.mark.parametrize(
    "target", ["", "mcp", "/a b", "/a\r\nHost: b", "/ü", "/\0", "http://elsewhere/", "/" + "a" * 9000]
)
async def test_no_address_can_be_more_than_a_path(target: str) -> None:
    async with both() as (client, server):
        with pytest.raises(errors.ServerFailed, match="A request to the hosted server can't be sent"):
            async with client.send("POST", places.Place("http", "localhost", 80, target), JSON, b"{}"):
                pass
        assert server.nobody()
    with pytest.raises(ValueError, match="no host"):
        lean.Client("/socket", "a\r\nb")


# --- properties ---


def _chunked(pieces: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


_PIECES = strategies.lists(strategies.binary(min_size=1, max_size=40), max_size=5)


@pytest.mark.requirement("workers:lean:answers")
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(
    pieces=_PIECES,
    chunked=strategies.booleans(),
    interim=strategies.booleans(),
    cuts=strategies.lists(strategies.integers(0, 400), max_size=12),
)
def test_wherever_an_answer_is_cut_it_reads_the_same(
    pieces: list[bytes], chunked: bool, interim: bool, cuts: list[int]
) -> None:
    body = b"".join(pieces)
    framed = b"Transfer-Encoding: chunked\r\n\r\n" + _chunked(pieces)
    told = HEAD + (framed if chunked else b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    told = b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" * interim + told

    async def run() -> None:
        async with both() as (client, server):
            peer: Any = None
            for _ in range(2):
                task = calling(client)
                peer = peer or await server.peer()
                await peer.request()
                at = 0
                for cut in [*sorted(cut for cut in cuts if cut < len(told)), len(told)]:
                    await peer.send(told[at:cut])
                    at = cut
                    await asyncio.sleep(0)
                found = await done(task)
                assert (found.status, found.media, found.body) == (200, "application/json", body)
            assert server.nobody()

    asyncio.run(run())
