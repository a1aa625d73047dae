"""The demo of `smcp up`: made with the admin API, exactly as a user would make it."""

import contextlib
from collections.abc import Generator
from typing import Final, NamedTuple

import msgspec

from smcp.cli import client, datadir, failures, operations, profiles, session

TENANT: Final = "acme"
SERVER: Final = "time"
SOURCE: Final = "pypi:mcp-server-time"
TOOL: Final = "get_current_time"
ARGUMENTS: Final = '{"timezone":"Europe/Berlin"}'


_SERVERS: Final = client.path("tenants", TENANT, "servers")


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
    """Makes the tenant, its key and its server, each only if it is not there. Runs beside the platform, in a thread."""

    def __init__(self, cli: session.Session, place: datadir.DataDir, url: str, tell: operations.Tell) -> None:
        self._cli = cli
        self._place = place
        self._url = url
        self._tell = tell
        self._open: client.Client | None = None
        self._stopped = False

    def stop(self) -> None:
        """Give up at the next question. Called from another thread."""
        self._stopped = True
        if self._open is not None:
            self._open.stopping.set()

    def make(self) -> Standing | None:
        """The demo, made where it is not there yet. None when the user took it away."""
        notes = self._place.notes()
        mine = datadir.still(self._cli.profiles, notes.demo)
        if mine is None and notes.demo_done:
            return None
        shown = ""
        if mine is None:
            mine, notes = self._key(notes)
            shown = mine.key
        assert notes.demo is not None
        with self._client(mine) as api:
            endpoint = self._present(api) if notes.demo_done else self._deployed(api)
        if endpoint is None:
            return None
        self._place.write(msgspec.structs.replace(self._place.notes(), demo_done=True))
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

    def _key(self, notes: datadir.Notes) -> tuple[profiles.Profile, datadir.Notes]:
        operator = datadir.still(self._cli.profiles, notes.operator)
        if operator is None:
            raise failures.Failure(
                "no_operator",
                f"the operator's key, made at the first start, is not in {self._cli.profiles.file} any more.",
            )
        with self._client(operator) as api:
            if _one(api, client.path("tenants"), "id", TENANT) is None:
                api.post(client.path("tenants"), {"id": TENANT, "display_name": "Acme (demo)"})
                self._tell(f"made tenant '{TENANT}'")
            made = api.post(client.path("tenants", TENANT, "keys"), {"roles": ["admin"], "label": "demo"})
        mine = profiles.Profile(self._url, TENANT, str(made["secret"]))
        kept = datadir.keep(self._cli.profiles, TENANT, mine)
        self._place.write(msgspec.structs.replace(self._place.notes(), demo=kept))
        self._tell(f"made its admin key: profile '{kept.name}'")
        return mine, self._place.notes()

    @contextlib.contextmanager
    def _client(self, profile: profiles.Profile) -> Generator[client.Client]:
        with client.Client(
            profiles.Chosen(self._url, profile.tenant, profile.key, "the profile that 'smcp up' made")
        ) as api:
            self._open = api
            if self._stopped:
                api.stopping.set()
            yield api


def _one(api: client.Client, where: str, field: str, value: str) -> client.Json | None:
    """The item of a list, without asking for what may not be there: that would be an error in the platform's log."""
    return next((item for item in api.items(where) if item.get(field) == value), None)
