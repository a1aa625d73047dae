"""The lean client and a real workerd, which answers on a socket that the test has made and keeps."""

import asyncio
import contextlib
import json
import os
import pathlib
import socket
import subprocess
from collections.abc import AsyncGenerator
from typing import Any, Final

import pytest

from smcp.kernel import errors, jsonrpc
from smcp.runtime import budgets
from smcp.runtime.drivers import conversation, remote
from smcp.sandbox import tools
from smcp.sandbox.tools import pins
from smcp.upstream import lean, mirrors
from support import byhand, conversations
from support.leanly import PLACE, ask, call, calling, done, over

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]  # workerd may have to be fetched first

_CODE: Final = """
let arrived = 0, aborted = 0;
const encoder = new TextEncoder();
const json = (id, text) => JSON.stringify({
  jsonrpc: "2.0", id, result: { content: [{ type: "text", text }], resultType: "complete" },
});
const event = (data) => encoder.encode(`event: message\\ndata: ${data}\\n\\n`);
async function stream(id, text) {
  const { readable, writable } = new TransformStream();
  const writer = writable.getWriter();
  (async () => {
    for (let at = 1; at <= 3; at++)
      await writer.write(event(JSON.stringify({
        jsonrpc: "2.0", method: "notifications/progress", params: { progressToken: "none", progress: at },
      })));
    await writer.write(event(json(id, text)));
    await writer.close();
  })();
  return new Response(readable, { headers: { "content-type": "text/event-stream" } });
}
export default { async fetch(request) {
  if (request.method === "PUT") return new Response(request.body);
  const { id, params } = await request.json();
  const text = params.arguments.text;
  if (params.name === "never") {
    arrived++;
    request.signal.addEventListener("abort", () => { aborted++; });
    await new Promise(() => { setInterval(() => {}, 1000); });
  }
  if (params.name === "seen") return Response.json(JSON.parse(json(id, `${arrived} ${aborted}`)));
  if (params.name === "stream") return await stream(id, text);
  return new Response(json(id, text), { headers: { "content-type": "application/json" } });
} };
"""
_CONFIG: Final = """
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .main)], sockets = [(name = "http", http = (), service = "main")]);
const main :Workerd.Worker = (
  modules = [(name = "main.js", esModule = embed "main.js")],
  compatibilityDate = "2026-11-01", compatibilityFlags = ["enable_request_signal"]);
"""


class Isolate:
    """A listening socket, and the workerd behind it, if one runs."""

    def __init__(self, path: str, link: socket.socket, folder: pathlib.Path, program: str) -> None:
        self.path = path
        self._link = link
        self._folder = folder
        self._program = program
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it. What comes before it is ready waits at the socket."""
        number = self._link.fileno()
        argv = [self._program, "serve", f"--socket-fd=http={number}", "config.capnp"]
        self._running = subprocess.Popen(argv, cwd=self._folder, pass_fds=(number,))

    def kill(self) -> None:
        """End it at once, and wait until it is gone."""
        if self._running is not None:
            self._running.kill()
            self._running.wait(byhand.WAIT_S)
            self._running = None


@contextlib.asynccontextmanager
async def running(folder: pathlib.Path) -> AsyncGenerator[tuple[lean.Client, Isolate]]:
    """A client, and a workerd that is started."""
    program = await asyncio.to_thread(tools.Fetcher(os.environ).ensure, pins.WORKERD)
    (folder / "main.js").write_text(_CODE, "utf-8")
    (folder / "config.capnp").write_text(_CONFIG, "utf-8")
    with byhand.socket_path() as path, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.bind(path)
        link.listen(128)
        isolate = Isolate(path, link, folder, program.path)
        isolate.start()
        client = lean.Client(path)
        try:
            yield client, isolate
        finally:
            await client.close()
            isolate.kill()


@contextlib.asynccontextmanager
async def conversing(client: lean.Client) -> AsyncGenerator[conversation.Conversation]:
    """A modern conversation over the client."""
    made = conversation.Conversation(
        conversations.limits(),
        lambda _: None,
        lambda _: None,
        remote.Shared(client),
        modern=True,
        budget=budgets.Budget(1 << 26),
    )
    made.choose("streamable", PLACE, mirrors.Mirrors())
    try:
        yield made
    finally:
        await made.stop("the test is over")


async def text(instance: conversation.Conversation, said: str = "", *, name: str = "echo") -> str:
    """What a tool answers."""
    _, asked = ask(instance, said, name=name)
    await over(asked)
    assert asked.failure is None, asked.failure
    found: Any = json.loads(asked.response)
    return found["result"]["content"][0]["text"]


async def seen(instance: conversation.Conversation, what: str) -> None:
    """Return when the Worker has seen as many calls that are never answered, and as many of them end."""
    async with asyncio.timeout(byhand.WAIT_S):
        while await text(instance, name="seen") != what:
            pass


@pytest.mark.requirement("workers:lean:workerd")
async def test_calls_are_answered_by_a_worker_in_json_and_as_streams_many_at_once(tmp_path: pathlib.Path) -> None:
    async with running(tmp_path) as (client, _), conversing(client) as instance:
        assert await text(instance, "first") == "first"
        for name in ("echo", "stream"):
            found = await asyncio.gather(*(text(instance, f"{number}", name=name) for number in range(100)))
            assert found == [f"{number}" for number in range(100)]


@pytest.mark.requirement("workers:lean:workerd")
async def test_what_is_large_passes_both_ways_unchanged(tmp_path: pathlib.Path) -> None:
    async with running(tmp_path) as (client, _):
        body = os.urandom(8 * 1024 * 1024)
        assert (await done(calling(client, "PUT", body))).body == body


@pytest.mark.requirement("workers:lean:workerd")
async def test_a_worker_hears_that_its_caller_has_hung_up(tmp_path: pathlib.Path) -> None:
    async with running(tmp_path) as (client, _), conversing(client) as instance:
        number, asked = ask(instance, name="never")
        await seen(instance, "1 0")
        instance.calls.cancel(number, "not needed", errors.BadRequest("cancelled"))
        assert (await over(asked)).failure is not None
        await seen(instance, "1 1")


@pytest.mark.requirement("workers:lean:workerd")
async def test_a_call_to_a_process_that_is_gone_waits_for_the_next_one(tmp_path: pathlib.Path) -> None:
    async with running(tmp_path) as (client, isolate), conversing(client) as instance:
        body = jsonrpc.request(b"1", "tools/call", b'{"name":"echo","arguments":{"text":"a"}}')
        assert b'"a"' in (await done(calling(client, body=body))).body
        never = calling(client, body=body.replace(b"echo", b"never"))
        await seen(instance, "1 0")
        isolate.kill()
        with pytest.raises(errors.ServerFailed, match="The connection to the hosted server broke"):
            await done(never)
        waiting = [calling(client, body=body) for _ in range(5)]
        await asyncio.sleep(0)
        isolate.start()
        for one in waiting:
            assert b'"a"' in (await done(one)).body
        assert b'"a"' in (await call(client, body=body)).body
