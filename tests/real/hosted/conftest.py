"""One platform that hosts the servers that people know, unmodified, for two tenants."""

import concurrent.futures
import pathlib
from collections.abc import Generator
from typing import Any, Final, NamedTuple

import httpx2
import pytest

from smcp.cli import main
from support import netcell
from support.clients import Endpoint
from support.platform import Platform

_DEMOS: Final = pathlib.Path(main.__file__).with_name("demos")
_NPM: Final = "npm:@modelcontextprotocol/server-{}@2026.8.31"
_VOLUME: Final = '[volume]\npath = "/data"\nsize = "8MiB"\n'
# docs/how-to/allow-egress.md says why: names stand for addresses that are not public inside, and with Node.js in sight
# it would have npm install something at each page.
_FETCH: Final = '[env]\nPATH = "/app/venv/bin"\n'


class Wanted(NamedTuple):
    """A server to host."""

    source: str
    manifest: str = ""
    fails: bool = False


class Hosting:
    """A platform on which each of two tenants has its servers deployed, one after the other, side by side."""

    def __init__(self, platform: Platform, scratch: pathlib.Path) -> None:
        self.platform = platform
        self._scratch = scratch
        self._pools = {tenant: concurrent.futures.ThreadPoolExecutor(1) for tenant in ("acme", "globex")}
        self._results: dict[str, concurrent.futures.Future[Any]] = {}
        self._tenants: dict[str, str] = {}
        self.admin: dict[str, str] = {}
        self.caller: dict[str, str] = {}
        for tenant in self._pools:
            platform.create_tenant(tenant)
            self.admin[tenant] = platform.create_key(tenant, "admin")
            self.caller[tenant] = platform.create_key(tenant, "mcp_user")

    def order(self, tenant: str, name: str, wanted: Wanted) -> None:
        """Have a server deployed; `deployed` waits for it."""
        self._tenants[name] = tenant
        self._results[name] = self._pools[tenant].submit(self._deploy, tenant, name, wanted)

    def _deploy(self, tenant: str, name: str, wanted: Wanted) -> Any:
        more: list[str] = []
        if wanted.manifest:
            file = self._scratch / f"{name}.toml"
            file.write_text(wanted.manifest, "utf-8")
            more = ["--manifest", str(file)]
        code = 1 if wanted.fails else 0
        command = ("deploy", wanted.source, "--tenant", tenant, "--name", name, *more)
        return self.platform.smcp(*command, key=self.admin[tenant], code=code)

    def deployed(self, name: str) -> Any:
        """What `smcp deploy` said in the end: its document, or its error's."""
        return self._results[name].result()

    def endpoint(self, name: str) -> Endpoint:
        """Where the server is, for a key that may only call."""
        return Endpoint(self.deployed(name)["server"]["endpoint"], self.caller[self._tenants[name]])

    def api(self, method: str, name: str, what: str = "") -> Any:
        """The admin API about the server."""
        tenant = self._tenants[name]
        return self.platform.api(method, f"/tenants/{tenant}/servers/{name}{what}", key=self.admin[tenant])

    def refused(self, tenant: str, body: Any) -> httpx2.Response:
        """The answer to a deployment that is not accepted."""
        return httpx2.post(
            f"{self.platform.base_url}/api/v1/tenants/{tenant}/deployments",
            headers={"Authorization": f"Bearer {self.admin[tenant]}"},
            json=body,
            timeout=30.0,
        )

    def close(self) -> None:
        """Wait for what was ordered and nobody asked for."""
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def site() -> Generator[int]:
    """The port of a website on this machine's loopback."""
    with netcell.website("<html><body><p>A page of this machine.</p></body></html>") as port:
        yield port


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory, site: int) -> Generator[Hosting]:
    """Every server that the issue names, hosted as its tenant would."""
    environ = {
        "SMCP_EGRESS_HOSTS": "site.example=127.0.0.1",
        "SMCP_EGRESS_ALLOWED_NETWORKS": ",".join(netcell.LOOPBACK),
    }
    with Platform(tmp_path_factory.mktemp("hosted"), environ) as platform:
        made = Hosting(platform, tmp_path_factory.mktemp("manifests"))
        for name, wanted in {
            "time": Wanted("pypi:mcp-server-time"),
            "git": Wanted(str(_DEMOS / "git")),
            "sqlite": Wanted(str(_DEMOS / "sqlite")),
            "sqlite-open": Wanted("pypi:mcp-server-sqlite", fails=True),
            "fetch-closed": Wanted("pypi:mcp-server-fetch", _FETCH),
            "fetch": Wanted("pypi:mcp-server-fetch", f'egress = ["site.example:{site}"]\n{_FETCH}'),
        }.items():
            made.order("globex", name, wanted)
        for name, manifest in {
            "everything": "",
            "filesystem": f'args = ["/data"]\n{_VOLUME}',
            "memory": f'[env]\nMEMORY_FILE_PATH = "/data/memory.json"\n{_VOLUME}',
            "sequential-thinking": "",
        }.items():
            made.order("acme", name, Wanted(_NPM.format(name), manifest))
        try:
            yield made
        finally:
            made.close()
