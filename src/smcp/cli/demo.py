"""The demo of `smcp up`: made with the admin API, exactly as a user would make it.

One server, acme/time, is there when the platform says that it is ready. The others follow while it serves: they show
npm, volumes, folders and a second tenant. Each is made once; what the user deletes afterwards stays deleted, and what
could not be made is tried again at the next start.
"""

import concurrent.futures
import contextlib
import pathlib
import shlex
import tempfile
import threading
from collections.abc import Callable, Collection, Generator
from typing import Final, Literal, NamedTuple

import msgspec

from smcp.cli import client, datadir, failures, operations, pack, profiles, session

TENANT: Final = "acme"
OTHER: Final = "globex"
SERVER: Final = "time"
SOURCE: Final = "pypi:mcp-server-time"
TOOL: Final = "get_current_time"
ARGUMENTS: Final = '{"timezone":"Europe/Berlin"}'

_SERVERS: Final = client.path("tenants", TENANT, "servers")
_AT_ONCE: Final = 2
_CHUNK: Final = 1_048_576
_HERE: Final = pathlib.Path(__file__).with_name("demos")
_NAMES: Final = {TENANT: "Acme (demo)", OTHER: "Globex (demo)"}


Need = Literal["", "node", "workerd"]

LACKS: Final[dict[Need, str]] = {
    "node": "no Node.js with npm on this machine. Install it, for instance with apt install nodejs npm, and start"
    " again.",
    "workerd": "the program that runs Workers could not be fetched. 'smcp doctor' says more.",
}
"""What is said of a machine without it."""


class Part(NamedTuple):
    """One of the servers that follow."""

    tenant: str
    name: str
    source: str = ""
    """Empty: the folder of that name beside this file."""
    manifest: str = ""
    """A file beside this file."""
    needs: Need = ""
    """What the machine must have for it."""

    @property
    def label(self) -> str:
        """As the command line names it."""
        return f"{self.tenant}/{self.name}"

    @property
    def command(self) -> str:
        """What deploys it by hand."""
        words = ["smcp", "deploy", self.source or str(_HERE / self.name), "--tenant", self.tenant, "--name", self.name]
        return shlex.join([*words, *(["--manifest", str(_HERE / self.manifest)] if self.manifest else [])])


# In turns, as a platform makes one deployment of a tenant after the other.
PARTS: Final = (
    Part(TENANT, "everything", "npm:@modelcontextprotocol/server-everything", needs="node"),
    Part(OTHER, "git"),
    Part(TENANT, "memory", "npm:@modelcontextprotocol/server-memory", "memory.toml", needs="node"),
    Part(OTHER, "sqlite"),
    Part(TENANT, "notes", needs="workerd"),
)


class Standing(NamedTuple):
    """A demo that answers."""

    endpoint: str
    profile: str
    key: str
    """Empty but at the start that made it: the one time that it is shown."""

    def __repr__(self) -> str:
        return f"Standing(endpoint={self.endpoint!r}, profile={self.profile!r}, key=hidden)"

    @property
    def call(self) -> list[str]:
        """A command to try."""
        option = [] if self.profile == TENANT else ["--profile", self.profile]
        return ["smcp", "call", *option, f"{TENANT}/{SERVER}", TOOL, ARGUMENTS]

    def as_json(self) -> dict[str, object]:
        """For machine output."""
        shown = {"key": self.key} if self.key else {}
        return {"endpoint": self.endpoint, "profile": self.profile, "call": self.call, **shown}


class Demo:
    """Makes the tenants, their keys and their servers, each only if it is not there. Runs beside the platform, in
    threads: `make` first, then `rest`; `stop` from anywhere.
    """

    def __init__(
        self,
        cli: session.Session,
        place: datadir.DataDir,
        url: str,
        tell: operations.Tell,
        *,
        lacks: Collection[Need],
        certificate: str = "",
    ) -> None:
        """`lacks`: what the machine does not have. `certificate`: the platform's own, which is trusted whoever issued
        it."""
        self._cli = cli
        self._place = place
        self._url = url
        self._certificate = certificate
        self._tell = tell
        self._lacks = lacks
        self._stopping = threading.Event()
        self._noting = threading.Lock()

    def stop(self) -> None:
        """Give up at the next question. Called from another thread."""
        self._stopping.set()

    # --- acme/time ---

    def make(self) -> Standing | None:
        """acme/time, made where it is not there yet. None when the user took it away."""
        notes = self._place.notes()
        mine = datadir.still(self._cli.profiles, notes.demo)
        if mine is None and notes.demo_done:
            return None
        shown = ""
        if mine is None:
            mine = self._key(TENANT)
            shown = mine.key
        with self._client(mine) as api:
            endpoint = self._present(api) if notes.demo_done else self._deployed(api)
        if endpoint is None:
            return None
        notes = self._note(lambda before: msgspec.structs.replace(before, demo_done=True))
        assert notes.demo is not None
        return Standing(endpoint, notes.demo.name, shown)

    def _present(self, api: client.Client) -> str | None:
        """The endpoint of a demo that was made at an earlier start; None when it is gone, suspended or locked."""
        try:
            found = _one(api, _SERVERS, "name", SERVER)
        except failures.Failure as failure:
            if failure.exit_code in (failures.Exit.REFUSED, failures.Exit.NOT_FOUND):
                return None
            raise
        return None if found is None else str(found.get("endpoint"))

    def _deployed(self, api: client.Client) -> str:
        found = _one(api, _SERVERS, "name", SERVER)
        if found is None or found.get("live") is None:
            self._tell(f"deploying {SOURCE} for tenant {TENANT}")
            operation = api.post(client.path("tenants", TENANT, "deployments"), {"source": SOURCE, "name": SERVER})
            operations.succeeded(operations.follow(api, operation, self._tell))
            found = api.get(client.path("tenants", TENANT, "servers", SERVER))
        return str(found.get("endpoint"))

    # --- the others ---

    def coming(self) -> list[str]:
        """The servers that `rest` is going to make, as TENANT/SERVER."""
        return [one.label for one in self._missing() if one.needs not in self._lacks]

    def rest(self) -> None:
        """Make what is missing, with a line each; returns when all is made, has failed, or `stop` was called."""
        missing = self._missing()
        if not missing:
            return
        for need, why in LACKS.items():
            without = [one.label for one in missing if one.needs == need and need in self._lacks]
            if without:
                self._tell(f"demo: {' and '.join(without)} left out: {why}")
        chosen = [one for one in missing if one.needs not in self._lacks]
        owners = {tenant: self._owner(tenant) for tenant in dict.fromkeys(one.tenant for one in chosen)}
        work = [(one, mine) for one in chosen if (mine := owners[one.tenant]) is not None]
        with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
            made = [pool.submit(self._part, one, mine) for one, mine in work]
        for one in made:
            one.result()
        if made and not self._stopping.is_set():
            self._sum_up()

    def _sum_up(self) -> None:
        notes = self._place.notes()
        live = [*([f"{TENANT}/{SERVER}"] if notes.demo_done else []), *notes.done]
        tenants = {one.partition("/")[0] for one in live}
        of = "" if len(live) == len(PARTS) + 1 else f" of {len(PARTS) + 1}"
        self._tell(f"demo: {len(live)}{of} servers of {len(tenants)} tenant{'s' if len(tenants) != 1 else ''}")

    def _missing(self) -> list[Part]:
        """What was never live, and whose tenant the user did not take away."""
        notes = self._place.notes()
        made = {TENANT: notes.demo, OTHER: notes.globex}
        gone = [one for one, kept in made.items() if kept and datadir.still(self._cli.profiles, kept) is None]
        # Without its first tenant there is no demo any more.
        if TENANT in gone:
            return []
        return [one for one in PARTS if one.label not in notes.done and one.tenant not in gone]

    def _owner(self, tenant: str) -> profiles.Profile | None:
        """The tenant's admin, made where it was never made; None, after a line, when it can't be had."""
        notes = self._place.notes()
        made = notes.demo if tenant == TENANT else notes.globex
        try:
            return datadir.still(self._cli.profiles, made) if made is not None else self._key(tenant)
        except failures.Failure as failure:
            self._failed(tenant, failure, "")
            return None

    def _part(self, part: Part, mine: profiles.Profile) -> bool:
        """Make one; whether it is live now."""
        if self._stopping.is_set():
            return False
        try:
            with self._client(mine) as api:
                found = _one(api, client.path("tenants", part.tenant, "servers"), "name", part.name)
                if found is None or found.get("live") is None:
                    operation = api.post(client.path("tenants", part.tenant, "deployments"), _order(api, part))
                    operations.succeeded(operations.follow(api, operation, lambda line: None))
        except failures.Failure as failure:
            # A key that is refused: the user took the tenant away while this was under way, or before.
            if failure.exit_code not in (failures.Exit.REFUSED, failures.Exit.NOT_FOUND):
                self._failed(part.label, failure, f" To try again: {part.command}")
            return False
        self._note(lambda before: msgspec.structs.replace(before, done=(*before.done, part.label)))
        self._tell(f"demo: {part.label} is live")
        return True

    def _failed(self, what: str, failure: failures.Failure, how: str) -> None:
        if not self._stopping.is_set():
            self._tell(f"demo: {what} could not be made: {failure.message}{how}")

    # --- both ---

    def _key(self, tenant: str) -> profiles.Profile:
        operator = datadir.still(self._cli.profiles, self._place.notes().operator)
        if operator is None:
            raise failures.Failure(
                "no_operator",
                f"the operator's key, made at the first start, is not in {self._cli.profiles.file} any more.",
            )
        with self._client(operator) as api:
            found = _one(api, client.path("tenants"), "id", tenant)
            if found is None:
                api.post(client.path("tenants"), {"id": tenant, "display_name": _NAMES[tenant]})
                self._tell(f"made tenant '{tenant}'")
            elif tenant == OTHER and found.get("display_name") != _NAMES[tenant]:
                raise failures.Failure("taken", "there is a tenant of this name already, and it is left alone.")
            made = api.post(client.path("tenants", tenant, "keys"), {"roles": ["admin"], "label": "demo"})
        mine = profiles.Profile(self._url, tenant, str(made["secret"]))
        kept = datadir.keep(self._cli.profiles, tenant, mine)
        self._note(
            lambda before: (
                msgspec.structs.replace(before, demo=kept)
                if tenant == TENANT
                else msgspec.structs.replace(before, globex=kept)
            )
        )
        self._tell(f"made its admin key: profile '{kept.name}'")
        return mine

    def _note(self, change: Callable[[datadir.Notes], datadir.Notes]) -> datadir.Notes:
        with self._noting:
            notes = change(self._place.notes())
            self._place.write(notes)
        return notes

    @contextlib.contextmanager
    def _client(self, profile: profiles.Profile) -> Generator[client.Client]:
        with client.Client(
            profiles.Chosen(self._url, profile.tenant, profile.key, "the profile that 'smcp up' made"),
            ca_file=self._cli.ca_file,
            own=self._certificate,
        ) as api:
            api.stopping = self._stopping
            yield api


def _order(api: client.Client, part: Part) -> client.Json:
    """The body of a deployment; a folder is sent first."""
    if part.source:
        text = pack.read_text(_HERE / part.manifest) if part.manifest else None
        return {"source": part.source, "name": part.name, **({} if text is None else {"manifest": text})}
    root = _HERE / part.name
    # Not `pack.choose`: where this is installed git may ignore everything.
    files = sorted(one.name for one in root.iterdir() if one.is_file() and one.name != pack.MANIFEST)
    with tempfile.TemporaryFile() as packed:
        pack.write(pack.Chosen(root, tuple(files), 0, ()), packed)
        packed.seek(0)
        sent = api.send(client.path("tenants", part.tenant, "uploads"), iter(lambda: packed.read(_CHUNK), b""))
    return {"source": sent.get("source"), "name": part.name, "manifest": pack.manifest(root)}


def _one(api: client.Client, where: str, field: str, value: str) -> client.Json | None:
    """The item of a list, without asking for what may not be there: that would be an error in the platform's log."""
    return next((item for item in api.items(where) if item.get(field) == value), None)
