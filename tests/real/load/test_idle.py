"""A thousand streams on which nothing happens."""

import asyncio

import pytest

from real.load.conftest import Running
from support import load, wire

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

_STREAMS = 1000
_EACH = 32 << 10
_HEARTBEAT_S = 1.0
_PATIENCE_S = 180


class _Listener(asyncio.Protocol):
    """One stream, of which is kept how often its heart beat."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._rest = b""
        self.begun = False
        self.beats = 0
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        self.begun = self.begun or data.startswith(b"HTTP/1.1 200 ")
        self.beats += data.count(b": keep-alive\n")
        if b"\r\n0\r\n\r\n" in data:
            self.ended.set()
        self._rest = data[-12:] if b": keep-alive\n" not in data[-12:] else b""

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


async def _until(what: str, done: list[_Listener], beats: int) -> None:
    for _ in range(_PATIENCE_S * 10):
        if all(one.begun and one.beats >= beats for one in done):
            return
        await asyncio.sleep(0.1)  # streams tell of themselves only by what they send
    late = [one.beats for one in done if one.beats < beats]
    raise AssertionError(f"{what}: {len(late)} of {len(done)} streams are silent: {late[:20]}")


@pytest.mark.requirement("load:idle:streams")
async def test_1000_idle_streams_live_cost_little_and_end(running: Running) -> None:
    with running({"SMCP_GATEWAY_HEARTBEAT_S": str(_HEARTBEAT_S)}) as platform:
        [at] = platform.host("acme", (f"pypi:{wire.SCRIPTED}", "tool")).values()
        admin = platform.create_key("acme", "admin")
        host, port = wire.address(platform.base_url)
        loop = asyncio.get_running_loop()

        async def listening(count: int) -> list[_Listener]:
            made: list[_Listener] = []
            for number in range(count):
                request = load.called(at, "subscriptions/listen", {"notifications": {}}, f"listen-{number}")
                made.append((await loop.create_connection(lambda sent=request: _Listener(sent), host, port))[1])
            await _until("at the start", made, 2)
            return made

        for one in await listening(50):
            one.transport.abort()
        before = await wire.settled(platform, wire.vitals(platform)._replace(in_flight=0))
        held = load.memory(platform)
        streams = await listening(_STREAMS)
        each = (load.memory(platform) - held) / _STREAMS
        used = load.cpu_s(platform)
        seen = [one.beats for one in streams]
        began = loop.time()
        await _until("later", streams, max(seen) + 3)
        rate = (load.cpu_s(platform) - used) / (loop.time() - began)
        print(
            f"{_STREAMS} idle streams: {each / 1024:.1f} KiB each, {rate * 100:.1f} % of a core, a heartbeat a second"
        )
        assert each < _EACH
        assert wire.vitals(platform).in_flight == _STREAMS
        # They end with their client, and with their server.
        for one in streams[: _STREAMS // 2]:
            one.transport.abort()
        after = await wire.settled(platform, before._replace(in_flight=_STREAMS / 2), files=_STREAMS // 2 + 8)
        assert after.in_flight == _STREAMS / 2
        assert after.files <= before.files + _STREAMS // 2 + 8
        platform.api("POST", "/tenants/acme/servers/tool/stop", key=admin)
        async with asyncio.timeout(_PATIENCE_S):
            await asyncio.gather(*(one.ended.wait() for one in streams[_STREAMS // 2 :]))
        for one in streams:
            one.transport.abort()
        after = await wire.settled(platform, before._replace(instances=0, children=0), files=8)
        assert (after.in_flight, after.instances, after.children) == (0, 0, 0)
        assert after.files <= before.files + 8
