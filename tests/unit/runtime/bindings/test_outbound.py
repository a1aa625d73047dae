"""The way out of Workers without one: whatever a broken isolate may send, and what stands around a request."""

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Final

import pytest

from smcp.kernel import errors
from smcp.runtime.bindings import http, outbound
from support import reaching
from support.reaching import ALLOWED, OTHER, Came, Site, World, answer

SECRET: Final = "a-very-secret-value"


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _request(target: str, method: str = "GET", headers: Mapping[bytes, bytes] | None = None) -> http.Request:
    return http.Request(method, target, headers or {}, _nothing(), 0)


async def _read(response: http.Response) -> tuple[int, dict[str, str], bytes]:
    """Status, fields and body."""
    fields = {name.decode().lower(): value.decode() for name, value in response.headers}
    if isinstance(response.body, bytes):
        return response.status, fields, response.body
    body = response.body
    try:
        return response.status, fields, b"".join([part async for part in body])
    finally:
        await _close(body)


async def _close(body: object) -> None:
    await getattr(body, "aclose")()  # noqa: B009 - as its reader does: not every iterator has one


@contextlib.asynccontextmanager
async def _way(
    world: World, *allowed: str, secrets: Mapping[str, str] | None = None, tenant: str = "acme"
) -> AsyncGenerator[tuple[outbound.Way, list[str]]]:
    lines: list[str] = []
    way = world.outbound.open(world.spec(allowed, secrets or {}, tenant), lines.append)
    try:
        yield way, lines
    finally:
        await way.close()


@pytest.mark.requirement("workers:outbound:one-reading", "attack:workers:ssrf")
async def test_a_url_with_two_readings_is_refused_before_any_rule_is_asked(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path)
    async with Site().open(None) as site, _way(world, f"{ALLOWED}:{site.port}", f"*.{ALLOWED}:{site.port}") as (way, _):
        here = f"{ALLOWED}:{site.port}"
        for target in (
            *(f"http://user@{here}/", f"http://user:word@{here}/", f"http://{OTHER}@{here}/", f"http://@{here}/"),
            *(f"http://{OTHER}\\@{here}/", f"http://{here}\\.{OTHER}/", f"http://{here}/ a", f"http://{here}/\x00"),
            *(f"http://{here}/\r\nX: y", f"http://{here}/\t", f"http://{here}/é", f"http://é.{here}/"),
            *(
                f"http://%61{here}/",
                f"http://a%2eb.{here}/",
                f"http://{ALLOWED}:0{site.port}/",
                f"http://{ALLOWED}:+1/",
            ),
            *(f"http://{ALLOWED}:{site.port + 65536}/", f"http://{ALLOWED}:/x:{site.port}:/", f"ftp://{here}/"),
            *(f"//{here}/", "/", "*", "", "http:///", f"http:{here}/", f"http://a..{here}/", f"http://-a.{here}/"),
            *(
                f"http://[::1%25lo]:{site.port}/",
                f"http://[{ALLOWED}]/",
                f"http://0x7f.1:{site.port}/",
                "http://127.1/",
            ),
            f"http://{here}/" + "a" * 20_000,
        ):
            status, fields, _ = await _read(await way.answer(_request(target)))
            assert (status, fields["x-smcp-refused"]) in ((400, "address"), (403, "egress")), target
        assert site.connections == 0


@pytest.mark.requirement("workers:outbound:one-reading")
async def test_a_host_field_must_mean_what_the_url_means_and_is_written_anew(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path)
    async with Site().open(None) as site, _way(world, f"{ALLOWED}:{site.port}") as (way, _):
        here = f"{ALLOWED}:{site.port}"
        for told in (OTHER, ALLOWED, f"{here}, {OTHER}", f"{here}/x", f"a@{here}", "", f"{OTHER}:{site.port}"):
            response = await way.answer(_request(f"http://{here}/", headers={b"host": told.encode()}))
            assert (await _read(response))[:1] == (400,), told
        assert site.connections == 0
        for told in (here, here.upper(), f"{ALLOWED}.:{site.port}"):
            response = await way.answer(_request(f"http://{here.upper()}/A?b", headers={b"host": told.encode()}))
            assert (await _read(response))[0] == 200
            assert [value for name, value in site.came[-1].fields if name == "host"] == [here]
            assert site.came[-1].target == "/A?b"


@pytest.mark.requirement("workers:outbound:end-to-end")
async def test_what_belongs_to_a_connection_or_to_the_platform_is_not_passed_on(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path)

    async def rude(came: Came, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told = ("Connection: keep-alive, X-Hop", "X-Hop: 1", "X-Smcp-Refused: egress", "Set-Cookie: a=1", "X-End: 1")
        writer.write(answer(b"hello", *told, "Set-Cookie: b=2", "Proxy-Authenticate: Basic"))

    headers = {
        b"connection": b"close, x-hop",
        b"x-hop": b"1",
        b"keep-alive": b"timeout=5",
        b"te": b"trailers",
        b"proxy-authorization": b"Basic eA==",
        b"expect": b"100-continue",
        b"x-smcp-capability": b"forged",
        b"x-end": b"1",
        b"cookie": b"a=1",
    }
    async with Site(rude).open(None) as site, _way(world, f"{ALLOWED}:{site.port}") as (way, _):
        response = await way.answer(_request(f"http://{ALLOWED}:{site.port}/", headers=headers))
        names = sorted(name.lower() for name, _ in response.headers)
        assert names == [b"set-cookie", b"set-cookie", b"x-end"]
        assert response.length == 5
        assert (await _read(response))[2] == b"hello"
        assert sorted(name for name, _ in site.came[0].fields) == ["cookie", "host", "x-end"]


@pytest.mark.requirement("workers:outbound:http-only")
@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
async def test_methods_that_are_no_plain_request_are_refused(tmp_path: pathlib.Path, method: str) -> None:
    world = World(tmp_path)
    async with Site().open(None) as site, _way(world, f"{ALLOWED}:{site.port}") as (way, _):
        response = await way.answer(_request(f"http://{ALLOWED}:{site.port}/", method))
        assert (await _read(response))[0] == 405
        assert site.connections == 0


@pytest.mark.requirement("workers:outbound:http-only")
async def test_a_host_that_changes_the_protocol_is_refused(tmp_path: pathlib.Path) -> None:
    async def switch(came: Came, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")

    world = World(tmp_path)
    async with Site(switch).open(None) as site, _way(world, f"{ALLOWED}:{site.port}") as (way, _):
        status, fields, _ = await _read(await way.answer(_request(f"http://{ALLOWED}:{site.port}/")))
        assert (status, fields["x-smcp-refused"]) == (502, "unreachable")
        await asyncio.wait_for(site.closed.acquire(), reaching.WAIT_S)


@pytest.mark.requirement("workers:outbound:http-only")
async def test_the_length_of_what_head_asks_for_is_told_without_it(tmp_path: pathlib.Path) -> None:
    async def head(came: Came, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 1234\r\n\r\n")

    world = World(tmp_path)
    async with Site(head).open(None) as site, _way(world, f"{ALLOWED}:{site.port}") as (way, _):
        for _ in range(2):
            response = await way.answer(_request(f"http://{ALLOWED}:{site.port}/", "HEAD"))
            assert (response.status, response.length) == (200, 1234)
            await _close(response.body)


@pytest.mark.requirement("workers:outbound:bounds")
async def test_requests_of_one_tenant_are_bounded_and_another_tenants_go_on(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path, place_s=1.0)
    ended = asyncio.Event()
    asked = asyncio.Semaphore(0)

    async def wait(came: Came, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.release()
        if came.target == "/wait":
            await ended.wait()
        writer.write(answer(b"hello"))

    async with Site(wait).open(None) as site:
        here = f"{ALLOWED}:{site.port}"
        async with _way(world, here) as (way, lines), _way(world, here) as (second, _):
            waiting = [
                asyncio.create_task((way, second)[number % 2].answer(_request(f"http://{here}/wait")))
                for number in range(128)
            ]
            async with asyncio.timeout(reaching.WAIT_S):
                for _ in waiting:
                    await asked.acquire()
            status, fields, _ = await _read(await way.answer(_request(f"http://{here}/")))
            assert (status, fields["x-smcp-refused"]) == (429, "busy")
            assert any("too many requests" in line for line in lines)
            async with _way(world, here, tenant="other") as (other, _):
                assert (await _read(await other.answer(_request(f"http://{here}/"))))[0] == 200
            # A place is given back when the body is done with, and not before.
            ended.set()
            responses = await asyncio.gather(*waiting)
            assert (await _read(await way.answer(_request(f"http://{here}/"))))[0] == 429
            await _read(responses[0])
            assert (await _read(await way.answer(_request(f"http://{here}/"))))[0] == 200
            for response in responses[1:]:
                await _close(response.body)


@pytest.mark.requirement("workers:outbound:bounds")
async def test_a_host_that_says_nothing_is_not_waited_for_without_end(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path, idle_s=0.5)
    ended = asyncio.Event()

    async def silent(came: Came, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if came.target == "/body":
            writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nhello")
        await ended.wait()

    async with Site(silent).open(None) as site, _way(world, f"{ALLOWED}:{site.port}") as (way, _):
        here = f"http://{ALLOWED}:{site.port}"
        status, fields, _ = await _read(await way.answer(_request(f"{here}/")))
        assert (status, fields["x-smcp-refused"]) == (504, "late")
        response = await way.answer(_request(f"{here}/body"))
        while response.status == 504:  # on a busy machine the head itself may be late
            response = await way.answer(_request(f"{here}/body"))
        with pytest.raises(errors.ServerTimeout):
            await _read(response)
        ended.set()


@pytest.mark.requirement("workers:substitution:fit")
@pytest.mark.parametrize(
    "value", ["", "short", "two\r\nlines: of it", "nul\0in the middle", "gr\u00fc\u00dfe-an-alle", "x" * 9000]
)
async def test_a_secret_that_no_field_can_have_is_said_so_without_its_value(tmp_path: pathlib.Path, value: str) -> None:
    world = World(tmp_path)
    with pytest.raises(errors.SecretMissing) as told:
        world.outbound.open(world.spec([ALLOWED], {"TOKEN": value}, "acme"), print)
    assert "TOKEN" in told.value.public
    assert len(value) < 5 or value not in str(told.value)


@pytest.mark.requirement("workers:substitution:fit")
async def test_secrets_in_a_head_do_not_make_it_grow_without_bound(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path)
    async with (
        Site().open(None) as site,
        _way(world, f"{ALLOWED}:{site.port}", secrets={"TOKEN": "x" * 8000}) as (way, _),
    ):
        headers = {b"x-many": way.env["TOKEN"].encode() * 20}
        status, fields, _ = await _read(await way.answer(_request(f"http://{ALLOWED}:{site.port}/", headers=headers)))
        assert (status, fields["x-smcp-refused"]) == (431, "large")
        assert site.connections == 0


@pytest.mark.requirement("workers:substitution:sent")
async def test_nothing_that_shows_the_way_out_shows_a_secret(tmp_path: pathlib.Path) -> None:
    world = World(tmp_path)
    async with _way(world, ALLOWED, secrets={"TOKEN": SECRET}) as (way, _):
        assert SECRET not in repr(way) + repr(vars(way)["_substitutes"]) + str(way.env)
