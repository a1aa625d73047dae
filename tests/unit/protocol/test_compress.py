"""When an answer is compressed, and that it comes out as it went in."""

import gzip
import random
import zlib

import pytest

from smcp.protocol import compress


@pytest.mark.requirement("protocol:compress:asked")
@pytest.mark.parametrize(
    "accepts",
    [
        "gzip",
        "GZip",
        "x-gzip",
        "gzip, deflate, br, zstd",
        "br;q=1.0, gzip;q=0.8, *;q=0.1",
        "*",
        "gzip;q=0.001",
        "gzip;q=1.000",
        " gzip ;q=0.5 , identity;q=0.5",
        "deflate,,gzip,",
        "gzip\t;\tq=1",
    ],
)
def test_who_asks_for_gzip_gets_it(accepts: str) -> None:
    assert compress.wanted(accepts)


@pytest.mark.requirement("protocol:compress:asked")
@pytest.mark.parametrize(
    "accepts",
    [
        None,
        "",
        "identity",
        "identity;q=0",
        "br, deflate",
        "gzip;q=0",
        "gzip;q=0.000",
        "*;q=0",
        "gzip;q=0, *",
        "gzip;q=0.4, identity;q=0.5",
        "gzip;q=1, gzip;q=0",
        "gzip;q=2",
        "gzip;q=1.001",
        "gzip;q=0.1234",
        "gzip;q=-1",
        "gzip;q=",
        "gzip;level=1",
        "gzipped",
        "g zip",
        "gzip\x00",
        "gzip, " * 200 + "gzip",
    ],
)
def test_who_does_not_ask_or_asks_in_no_known_way_gets_the_answer_as_it_is(accepts: str | None) -> None:
    assert compress.wanted(accepts) is False


@pytest.mark.requirement("protocol:compress:whole")
@pytest.mark.parametrize("size", [0, 1, 1024, 16_384, 16_385, 65_537, 3_000_000])
async def test_what_was_compressed_comes_out_as_it_went_in(size: int) -> None:
    body = bytes(random.Random(size).choices(b'{"name":"tool","id":0123456789}', k=size))
    packed = compress.gzip(body)
    assert gzip.decompress(packed) == body
    assert await compress.gzip_beside(body) == packed
    assert zlib.decompressobj(31).decompress(packed) == body
    if size >= compress.LEAST:
        assert len(packed) < size * 0.75
