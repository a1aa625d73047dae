"""A deployed Worker that reaches a service with a secret that it does not hold: the whole platform, in its walls."""

import contextlib
import http.server
import json
import os
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Generator
from typing import Any, Final

import pytest
from mcp import Client

from support import authority, clients, handmade, netcell, reaching, workers
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

SECRET: Final = "a-very-secret-value"
LATER: Final = "another-secret-value"
SOURCE: Final = """
import { serve } from "./mcp.js";
export default serve({
  holds: (_, env) => env.TOKEN,
  reach: async ({ url }, env) => {
    const got = await fetch(url, { headers: { "X-Key": env.TOKEN } });
    return JSON.stringify({ status: got.status, headers: Object.fromEntries(got.headers), text: await got.text() });
  },
});
"""


@contextlib.contextmanager
def _service(made: authority.Authority) -> Generator[tuple[int, list[str]]]:
    """A TLS server on loopback: its port, and the keys that it was shown."""
    shown: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            shown.append(str(self.headers["X-Key"]))
            self.send_response(200)
            self.send_header("X-Seen", str(self.headers["X-Key"]))
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    secure = reaching.server_context(made, *reaching.NAMES)
    server.socket = secure.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1], shown
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.requirement("workers:outbound:allowed", "workers:substitution:sent")
async def test_a_deployed_worker_shows_a_secret_to_its_service_and_never_has_it(tmp_path: pathlib.Path) -> None:
    # Where the platform's own user finds it.
    with tempfile.TemporaryDirectory(dir="/tmp") as readable:
        os.chmod(readable, 0o755)
        await _shown(authority.Authority(pathlib.Path(readable)), tmp_path)


async def _shown(made: authority.Authority, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "reacher"
    folder.mkdir()
    (folder / "index.js").write_text(SOURCE)
    shutil.copy(handmade.MCP, folder / "mcp.js")
    environ = {
        "SMCP_EGRESS_HOSTS": ",".join(f"{name}=127.0.0.1" for name in reaching.NAMES),
        "SMCP_EGRESS_ALLOWED_NETWORKS": ",".join(netcell.LOOPBACK),
        "SSL_CERT_FILE": str(made.file),
    }
    with _service(made) as (port, shown), Platform(tmp_path, environ) as platform:
        (folder / "smcp.toml").write_text(
            f'name = "reacher"\negress = ["{reaching.ALLOWED}:{port}"]\n[secrets]\nTOKEN = "substituted"\n'
            f'[worker]\nmain = "index.js"\ncompatibility_date = "{handmade.DATE}"\n'
        )
        with workers.Site(platform, "acme") as site:
            value = tmp_path / "value"
            value.write_text(SECRET)
            platform.smcp("secret", "set", "acme/reacher", "TOKEN", "--from-file", str(value), key=site.admin)
            endpoint = site.deploy(folder)
            url = f"https://{reaching.ALLOWED}:{port}/"
            async with clients.connected(endpoint, "auto") as client:
                held = await _call(client, "holds")
                assert held.startswith("smcp-secret-")
                found = json.loads(await _call(client, "reach", url=url))
                assert (found["status"], found["text"], found["headers"]["x-seen"]) == (200, "hello", held)
                refused = json.loads(await _call(client, "reach", url=f"https://{reaching.OTHER}:{port}/"))
                assert (refused["status"], refused["headers"]["x-smcp-refused"]) == (403, "egress")
            # What is set later is what the next request is sent with.
            value.write_text(LATER)
            platform.smcp("secret", "rotate", "acme/reacher", "TOKEN", "--from-file", str(value), key=site.admin)
            async with clients.connected(endpoint, "auto") as client:
                assert await _call(client, "holds") not in (held, LATER)
                assert json.loads(await _call(client, "reach", url=url))["status"] == 200
            assert shown == [SECRET, LATER]
            told = str(platform.api("GET", "/tenants/acme/servers/reacher/logs", key=site.admin))
            assert f"[smcp] egress allowed: {reaching.ALLOWED}:{port} → 127.0.0.1" in told
            assert f"[smcp] egress refused: {reaching.OTHER}:{port} (not in the manifest's egress)" in told
            for one in (SECRET, LATER):
                assert one not in told
                assert one not in platform.story()


async def _call(client: Client, tool: str, **arguments: str) -> str:
    return clients.texts(await client.call_tool(tool, arguments))[0]
