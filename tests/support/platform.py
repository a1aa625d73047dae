"""A real platform under test: the `smcp` program with a data directory of its own, driven by its admin API."""

import contextlib
import fcntl
import json
import os
import pathlib
import signal
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from typing import Any, Final, Self

import httpx2

from smcp.kernel import settings
from support import processes
from support.clients import Endpoint

_SMCP: Final = pathlib.Path(sys.executable).with_name("smcp")
_START_S: Final = 60.0
_STOP_S: Final = 120.0
_DEPLOY_S: Final = 600.0
_CLIENT: Final = settings.CLIENT_VARIABLES
_API_S: Final = 120.0
_RATES: Final = {
    "SMCP_LIMITS_PLATFORM_PER_SECOND": "1000000",
    "SMCP_LIMITS_TENANT_PER_MINUTE": "1000000",
    "SMCP_LIMITS_PRINCIPAL_PER_MINUTE": "1000000",
    "SMCP_LIMITS_UNAUTHENTICATED_PER_MINUTE": "1000000",
    "SMCP_LIMITS_STANDARD": "session_per_minute=1000000",
}
"""A test asks more in a minute than a person; those of the rates bring rates of their own."""
_PATIENCE: Final = {"SMCP_RUNTIME_START_TIMEOUT_S": "120", "SMCP_GATEWAY_BODY_TIMEOUT_S": "60"}
"""A machine that does something else for a while is no fault of a server's; those of time limits bring their own."""


class Platform:
    """One running platform, on a free port, without the demo.

    `directory` is an empty folder of the test's: data, profiles and the log go there. `environ` holds settings
    (SMCP_…); everything else that is set about SMCP around the tests is left out.
    """

    def __init__(self, directory: pathlib.Path, environ: Mapping[str, str] | None = None) -> None:
        self.data = directory / "data"
        self.log = directory / "platform.log"
        self._profiles = directory / "profiles"
        around = {name: value for name, value in os.environ.items() if not name.startswith("SMCP_")}
        self._environ = {**around, **_RATES, **_PATIENCE, "SMCP_CONFIG": str(self._profiles), **(environ or {})}
        authority = self._environ.get("SMCP_CA_FILE")
        # Over plain HTTP nothing is verified, and reading the machine's certificates would cost 24 ms a call.
        self.trust = ssl.create_default_context(cafile=authority) if authority else False
        self._process: subprocess.Popen[str] | None = None
        self.base_url = ""
        self.operator_key = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it says that it is ready. May be called again after `stop` or `kill`."""
        assert self._process is None, "it runs already"
        self._wait_until_left()
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [_SMCP, "up", "--json", "--no-demo", "--port", "0", "--data", str(self.data)],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.kill()
            raise
        profile = tomllib.loads((self._profiles / "profiles.toml").read_text("utf-8"))["default"]
        self.base_url, self.operator_key = profile["url"], profile["key"]

    def _wait_until_left(self) -> None:
        """Wait until nobody has the store of the data directory open.

        Of a platform whose foreground was killed the other processes end by themselves, and in order.
        """
        deadline = time.monotonic() + _STOP_S
        for lock in (self.data / "store").glob("*.lock"):
            with lock.open("rb") as file:
                while True:
                    with contextlib.suppress(BlockingIOError):
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    assert time.monotonic() < deadline, f"somebody still has {lock}:\n{self.story()}"
                    time.sleep(0.02)  # a lock that is given back tells nobody

    def _wait_until_ready(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        said = ""
        # The pipe's end comes as an empty line, so a platform that dies is noticed at once.
        while line := process.stdout.readline():
            said += line
            try:
                json.loads(said)
            except ValueError:
                continue
            return
        raise AssertionError(f"smcp up ended before it was ready:\n{said}\n{self.story()}")

    def story(self) -> str:
        """The end of the platform's log, for messages of failing tests."""
        return self.log.read_text("utf-8")[-8000:]

    def stop(self) -> None:
        """End it as Ctrl-C does, and show that no process and no mount of it is left."""
        process, self._process = self._process, None
        if process is None:
            return
        family = processes.descendants(process.pid)
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            _end(process)
            raise AssertionError(f"the platform did not stop in {_STOP_S} s:\n{self.story()}") from None
        _end(process)
        left = processes.alive(family) | processes.naming(str(self.data))
        assert left == set(), f"still running after the platform stopped: {left}"
        assert processes.mounts(self.data) == []
        assert code == 0, f"the platform ended with {code}:\n{self.story()}"

    def family(self) -> set[processes.Process]:
        """The platform's process and everything below it, hosted servers included."""
        assert self._process is not None
        return processes.descendants(self._process.pid)

    def kill(self) -> None:
        """End it as a power cut does."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)

    def api(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> Any:
        """Call the admin API (as the operator, or with `key`); the answer's body. Fails on an error answer."""
        answer = httpx2.request(
            method,
            f"{self.base_url}/api/v1{path}",
            headers={"Authorization": f"Bearer {key or self.operator_key}"},
            json=body,
            timeout=_API_S,
            verify=self.trust,
        )
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}\n{self.story()}"
        return answer.json() if answer.content else None

    def audit(self, tenant: str, *, key: str | None = None) -> list[dict[str, Any]]:
        """The whole trail of `tenant`, oldest entry first: a platform that many tests share has more than one page."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            page = self.api("GET", f"/tenants/{tenant}/audit?limit=1000{after}", key=key)
            found += page["items"]
            if page["next"] is None:
                return found
            after = f"&after={page['next']}"

    def smcp(self, *argv: str, key: str | None = None, code: int = 0, text: bool = False) -> Any:
        """Run `smcp … --json` against this platform (as the operator, or with `key`): its document, or its error's.

        `text`: without --json, what it prints.
        """
        environ = {**self._environ, "SMCP_URL": self.base_url, "SMCP_API_KEY": key or self.operator_key}
        done = subprocess.run(
            [_SMCP, *argv, *([] if text else ["--json"])],
            env={name: value for name, value in environ.items() if name in _CLIENT or not name.startswith("SMCP_")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DEPLOY_S,
            check=False,
        )
        assert done.returncode == code, f"smcp {argv}: {done.returncode}\n{done.stderr[-4000:]}\n{self.story()}"
        said = done.stdout if code == 0 else done.stderr
        return said if text else json.loads(said)

    def create_tenant(self, tenant: str) -> None:
        """Make a tenant."""
        self.api("POST", "/tenants", {"id": tenant})

    def create_key(self, tenant: str, *roles: str) -> str:
        """Make an API key of `tenant` with `roles` (default: mcp_user) and return its text."""
        made = self.api("POST", f"/tenants/{tenant}/keys", {"roles": roles or ["mcp_user"], "label": "test"})
        return str(made["secret"])

    def deploy(self, tenant: str, source: str, name: str, key: str, manifest: str | None = None) -> str:
        """Deploy `source` with the tenant's admin `key`, wait until it is live, and return its endpoint's URL."""
        order = {"source": source, "name": name, **({} if manifest is None else {"manifest": manifest})}
        operation = self.api("POST", f"/tenants/{tenant}/deployments", order, key=key)
        deadline = time.monotonic() + _DEPLOY_S
        while operation["state"] == "running":
            assert time.monotonic() < deadline, f"deploying {source} takes too long: {operation}"
            time.sleep(0.1)  # the API has no event for it: a client asks again
            operation = self.api("GET", f"/tenants/{tenant}/operations/{operation['id']}", key=key)
        assert operation["state"] == "succeeded", f"{operation}\n{self.story()}"
        return str(self.api("GET", f"/tenants/{tenant}/servers/{name}", key=key)["endpoint"])

    def host(self, tenant: str, *servers: tuple[str, str]) -> dict[str, Endpoint]:
        """Make a tenant that hosts `servers` (source, name): by name, where each is for a key that may only call."""
        self.create_tenant(tenant)
        admin = self.create_key(tenant, "admin")
        caller = self.create_key(tenant, "mcp_user")
        return {name: Endpoint(self.deploy(tenant, source, name, admin), caller) for source, name in servers}


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()  # does nothing when it has ended
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
