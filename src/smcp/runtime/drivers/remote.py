"""The remote driver: a server that somebody else runs, spoken to over HTTP through the one guarded way out.

An instance is a conversation and no process: for a modern server a client that everybody shares, for a legacy one a
session of its own. It sees frames only, so nothing of the platform's client can reach the server but what is in one: no
header of a client's, no token, no cookie. What is added are the fields that the deployment names, with secrets as
values, and only for the origin that the deployment names.
"""

import asyncio
import functools
import hashlib
import ssl
import weakref
from collections.abc import Callable

import msgspec

from smcp.kernel import errors, ids
from smcp.runtime import budgets, driver
from smcp.runtime.drivers import conversation, stdio
from smcp.sandbox import egress
from smcp.upstream import client, fields, mirrors, places, transport

Counted = Callable[[driver.Spec, int, int], None]
"""Gets the bytes that were sent to and received from a server."""


class RemoteDriver(driver.Driver):
    """Makes conversations with remote servers."""

    def __init__(
        self,
        limits: driver.Limits,
        reach: egress.Egress,
        checked: stdio.Checked | None = None,
        counted: Counted | None = None,
        secure: ssl.SSLContext | None = None,
    ) -> None:
        """`secure` says which certificates are trusted; without it those of the system."""
        self._limits = limits
        self._reach = reach
        self._checked = checked
        self._counted = counted
        self._secure = secure or ssl.create_default_context()
        self._instances: set[conversation.Conversation] = set()
        self._clients: weakref.WeakValueDictionary[tuple[object, ...], Shared] = weakref.WeakValueDictionary()
        self._mirrors: weakref.WeakValueDictionary[tuple[object, ...], mirrors.Mirrors] = weakref.WeakValueDictionary()
        self._budgets: weakref.WeakValueDictionary[ids.TenantId, budgets.Budget] = weakref.WeakValueDictionary()
        self._closed = False

    async def start(self, spec: driver.Spec, *, modern: bool, lines: driver.Lines) -> driver.Instance:
        """A conversation, before any message: nothing is dialled. Raises `errors.ServerFailed`,
        `errors.SecretMissing`."""
        if self._closed:
            raise errors.Unavailable("The platform is stopping.")
        if spec.remote is None:
            raise errors.ServerFailed("The deployment names no remote server.")
        try:
            place = places.parse(spec.remote.url)
        except errors.InvalidParams as error:
            raise errors.ServerFailed(f"The remote server's address is wrong: {error.public}") from error
        made = conversation.Conversation(
            self._limits,
            lines,
            self._instances.discard,
            self._client(spec, place, lines),
            modern=modern,
            budget=self._budget(spec.tenant),
            checked=None if self._checked is None else functools.partial(self._checked, spec, modern=modern),
        )
        made.choose(spec.remote.wire, place, self._known(spec))
        self._instances.add(made)
        return made

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(one.stop("the platform stops") for one in list(self._instances)))

    def _client(self, spec: driver.Spec, place: places.Place, lines: driver.Lines) -> "Shared":
        """Connections are shared by who has the same tenant, deployment, origin and credentials, and by nobody else."""
        credentials = _credentials(spec)
        digest = hashlib.sha256(msgspec.json.encode(credentials)).digest()
        key = (spec.tenant, spec.server, spec.deployment, place.origin, digest)
        found = self._clients.get(key)
        if found is None:
            counted = functools.partial(self._counted, spec) if self._counted is not None else _nobody
            http = client.Client(self._reach, self._secure, spec.tenant, lines, counted, credentials)
            found = self._clients[key] = Shared(http)
        return found

    def _known(self, spec: driver.Spec) -> mirrors.Mirrors:
        key = (spec.tenant, spec.server, spec.deployment)
        found = self._mirrors.get(key)
        if found is None:
            found = self._mirrors[key] = mirrors.Mirrors()
        return found

    def _budget(self, tenant: ids.TenantId) -> budgets.Budget:
        found = self._budgets.get(tenant)
        if found is None:
            found = self._budgets[tenant] = budgets.Budget(self._limits.tenant_buffer_bytes)
        return found


class Shared:
    """Connections, and how many instances use them: they are closed with the last one."""

    def __init__(self, http: transport.Client) -> None:
        self.http = http
        self._users = 0

    def enter(self) -> None:
        """One more."""
        self._users += 1

    async def leave(self) -> None:
        """One less."""
        self._users -= 1
        if not self._users:
            await self.http.close()


def _credentials(spec: driver.Spec) -> tuple[tuple[str, str], ...]:
    """The configured fields. Raises `errors.SecretMissing`, without any value."""
    assert spec.remote is not None
    values = dict(spec.env)
    found: list[tuple[str, str]] = []
    for name, secret in spec.remote.headers:
        why = fields.refusal(name)
        if why:
            raise errors.ServerFailed(f"The header {name[:128]!a} can't be set: {why}.")
        text = fields.value(name, values[secret]) if secret in values else None
        if text is None:
            raise errors.SecretMissing(f"The secret {secret} is not set, or is no text that a header can have.")
        found.append((name, text))
    return tuple(found)


def _nobody(_sent: int, _received: int) -> None:
    pass
