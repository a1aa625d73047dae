"""`smcp dev` as it runs: a platform of its own, one tenant, one server, deployed again at each change."""

import asyncio
import contextlib
import json
import pathlib
import shlex
import threading
import time
from collections.abc import Generator, Sequence
from typing import Final

import msgspec

from smcp.app import process
from smcp.cli import attended, client, datadir, failures, operations, pack, parcels, profiles, session, watching
from smcp.kernel import settings

TENANT: Final = "dev"
_ASK_EVERY_S: Final = 0.05
_LOG_WAIT_S: Final = 1.0
"""How long the platform may keep a question for the next line; the end of the run waits for it."""


class Developing(attended.Attended):
    """One run of `smcp dev`."""

    command = "dev"

    def __init__(
        self,
        cli: session.Session,
        wanted: settings.Settings,
        root: pathlib.Path,
        name: str | None,
        include: Sequence[str],
    ) -> None:
        super().__init__(cli, wanted)
        self._root = root
        self._name = name
        self._include = include

    async def _serve(self, platform: process.Process) -> None:
        self._follow_address(platform.base_url)
        mine = datadir.still(self._cli.profiles, self._place.notes().dev)
        # For a moment only, and kept nowhere: it makes the tenant and its admin's key.
        operator = "" if mine is not None else await platform.ensure_operator(another=True) or ""
        work = Work(self._cli, self._place, platform.base_url, self._root, self._name, self._include)
        working = asyncio.ensure_future(asyncio.to_thread(work.run, operator))
        ending = asyncio.ensure_future(self._until_the_end(platform))
        try:
            await asyncio.wait((working, ending), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            if ending.done():
                ending.result()
        finally:
            work.stop()
            ending.cancel()
            await asyncio.gather(working, ending, return_exceptions=True)


class Work:
    """Deploys, tells, watches. In a thread: `run`; `stop` from anywhere."""

    def __init__(
        self,
        cli: session.Session,
        place: datadir.DataDir,
        url: str,
        root: pathlib.Path,
        name: str | None,
        include: Sequence[str],
    ) -> None:
        self._cli = cli
        self._place = place
        self._url = url
        self._root = root
        self._name = name
        self._include = include
        self._stopping = threading.Event()
        self._telling = threading.Lock()
        self._noticed: frozenset[str] = frozenset()
        """What was said of the folder the last time: it is said again when it changes."""
        self._steps = True
        """Each step of a deployment is worth a line: until there was one that works."""

    def stop(self) -> None:
        """Give up at the next question. Called from another thread."""
        self._stopping.set()

    def run(self, operator: str) -> None:
        """Until `stop`. `operator`: the key that makes the tenant, where there is none yet. Raises `Failure` for what
        no change of the folder can mend."""
        mine = self._admin(operator)
        told, position, number = "", None, 0
        logs: threading.Thread | None = None
        with self._client(mine) as api:
            while not self._stopping.is_set():
                # Chosen before it is sent: what changes meanwhile is seen at the next look.
                parcel = self.parcel()
                watch = watching.Watch(parcel.chosen) if parcel is not None and parcel.chosen is not None else None
                if parcel is not None:
                    server = str(parcel.name)
                    if logs is None:
                        position = self._last(api, server)
                    live = self._deploy(api, parcel)
                    number += live
                    if live and told != server:
                        told = server
                        self._welcome(api, mine, server)
                    if logs is None and (live or number):
                        logs = threading.Thread(target=self._follow, args=(mine, server, position), daemon=True)
                        logs.start()
                if watch is None:
                    watch = watching.Watch(pack.Chosen(self._root, (), 0, ()))
                if not watch.wait(api.wait_for):
                    break
        if logs is not None:
            logs.join()

    # --- one deployment ---

    def parcel(self) -> parcels.Parcel | None:
        """The folder as it is now; None where it can't be sent, which is told. What was noticed of it the last time is
        left out: it is said once, until it changes."""
        try:
            made = parcels.folder(self._root, self._name, None, self._include)
        except failures.Failure as failure:
            self._failed(failure)
            return None
        # The first name stays: another one would be another server.
        self._name = made.name
        if made.chosen is not None:
            told, self._noticed = self._noticed, frozenset(made.chosen.left_out)
            made.chosen = made.chosen._replace(left_out=tuple(one for one in made.chosen.left_out if one not in told))
        return made

    def _deploy(self, api: client.Client, parcel: parcels.Parcel) -> bool:
        began = time.monotonic()
        try:
            body = parcels.prepare(self._cli, api, TENANT, parcel)
            operation = api.post(client.path("tenants", TENANT, "deployments"), body)
            done = operations.follow(api, operation, self._step)
            operations.succeeded(done)
        except failures.Failure as failure:
            if self._stopping.is_set():
                return False
            if failure.exit_code in (failures.Exit.UNREACHABLE, failures.Exit.REFUSED):
                raise
            self._failed(failure)
            return False
        self._steps = False
        took = time.monotonic() - began
        self._tell(
            {"event": "live", "deployment": done.get("deployment"), "seconds": round(took, 2)},
            f"● live after {took:.2f} s",
        )
        return True

    def _step(self, line: str) -> None:
        if self._steps and not self._cli.out.as_json:
            self._tell({}, f"  {line}")

    def _failed(self, failure: failures.Failure) -> None:
        hint = f"\n{failure.hint}" if failure.hint else ""
        self._tell(
            {"event": "failed", "error": failure.as_json().get("error")},
            f"✗ {failure.message}{hint}\n  Change a file to try again.",
        )

    def _welcome(self, api: client.Client, mine: profiles.Profile, server: str) -> None:
        shown = api.get(client.path("tenants", TENANT, "servers", server))
        endpoint = str(shown.get("endpoint"))
        made = self._place.notes().dev
        profile = made.name if made is not None else ""
        tools = [
            str(client.mapping(one).get("name")) for one in client.mapping(shown.get("deployment")).get("tools") or ()
        ]
        if self._cli.out.as_json:
            event = {"event": "ready", "server": f"{TENANT}/{server}", "endpoint": endpoint, "profile": profile}
            self._cli.out.json({**event, "tools": tools})
            return
        config = {"type": "http", "url": endpoint, "headers": {"Authorization": f"Bearer {mine.key}"}}
        option = ["--profile", profile] if profile else []
        with self._telling:
            self._cli.out.fields(
                (
                    ("server", f"{TENANT}/{server}"),
                    ("endpoint", endpoint),
                    ("tools", tools),
                    ("client", json.dumps({"mcpServers": {server: config}})),
                    (
                        "call",
                        shlex.join(["smcp", "call", *option, f"{TENANT}/{server}", tools[0] if tools else "TOOL"]),
                    ),
                )
            )
            self._cli.out.text("Watching for changes; Ctrl-C ends it. What the server says:")

    # --- the log ---

    def _last(self, api: client.Client, server: str) -> int | None:
        """Where its log ends now: only what comes from here on is printed."""
        where = client.path("tenants", TENANT, "servers", server, "logs")
        position = None
        with contextlib.suppress(failures.Failure):  # there is no such server yet
            for line in api.items(where):
                position = line.get("position", position)
        return position

    def _follow(self, mine: profiles.Profile, server: str, position: int | None) -> None:
        where = client.path("tenants", TENANT, "servers", server, "logs")
        with contextlib.suppress(failures.Failure), self._client(mine) as api:
            while not self._stopping.is_set():
                page = api.get(where, after=position, wait=_LOG_WAIT_S)
                items: list[client.Json] = page.get("items") or []
                for line in items:
                    position = line.get("position", position)
                    self._tell({"event": "log", **line}, f"  | {line.get('text')}")
                if not api.wait_for(_ASK_EVERY_S):
                    return

    def _tell(self, event: client.Json, text: str) -> None:
        with self._telling:
            if self._cli.out.as_json:
                self._cli.out.json(event)
            else:
                self._cli.out.text(text)

    # --- who asks ---

    def _admin(self, operator: str) -> profiles.Profile:
        notes = self._place.notes()
        known = datadir.still(self._cli.profiles, notes.dev)
        if known is not None:
            return known
        with self._client(profiles.Profile(self._url, session.PLATFORM, operator)) as api:
            if not any(item.get("id") == TENANT for item in api.items(client.path("tenants"))):
                api.post(client.path("tenants"), {"id": TENANT, "display_name": "smcp dev"})
            made = api.post(client.path("tenants", TENANT, "keys"), {"roles": ["admin"], "label": "smcp dev"})
        mine = profiles.Profile(self._url, TENANT, str(made["secret"]))
        kept = datadir.keep(self._cli.profiles, TENANT, mine)
        self._place.write(msgspec.structs.replace(notes, dev=kept))
        return mine

    @contextlib.contextmanager
    def _client(self, profile: profiles.Profile) -> Generator[client.Client]:
        chosen = profiles.Chosen(self._url, profile.tenant, profile.key, "the key that 'smcp dev' made")
        with client.Client(chosen, ca_file=self._cli.ca_file) as api:
            api.stopping = self._stopping
            yield api
