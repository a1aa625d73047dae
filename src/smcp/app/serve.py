"""Serving: the composed platform behind a socket. `smcp up` runs this in the foreground."""

import asyncio
import contextlib
import functools
import importlib.metadata
import socket
import time
from collections.abc import Generator
from typing import Any, Final, cast

import uvicorn

from smcp.access import policy
from smcp.app import http, machine, repeats, tls, wire
from smcp.audit import events, identity
from smcp.identity.oauth import lifetimes
from smcp.kernel import certificates, ids, observe, settings

_BACKLOG: Final = 2048
_DRAIN_S: Final = 5


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: whoever runs the platform decides when it ends."""

    def __init__(self, config: uvicorn.Config, terminal: tls.Terminal | None) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self._terminal = terminal

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. As uvicorn does, but for the patience with handshakes, which it can't be told."""
        loop = asyncio.get_running_loop()
        patience: dict[str, Any] = {}
        if self._terminal is not None:
            patience = {
                "ssl": self._terminal.switch,
                "ssl_handshake_timeout": tls.HANDSHAKE_S,
                "ssl_shutdown_timeout": tls.SHUTDOWN_S,
            }
        make = functools.partial(
            self.config.http_protocol_class, config=self.config, server_state=self.server_state, app_state={}
        )
        self.servers = [await loop.create_server(make, sock=one, backlog=_BACKLOG, **patience) for one in sockets or ()]
        self.started = True
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _server(config: settings.Settings, wired: wire.Platform, terminal: tls.Terminal | None) -> _Server:
    return _Server(
        uvicorn.Config(
            wired.admin,
            http=cast("Any", functools.partial(http.Protocol, wired.gateway, repeats.Room())),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_DRAIN_S,
            headers=tls.hsts(config.gateway.public_url) if terminal is not None else [],
        ),
        terminal,
    )


class Platform:
    """A running platform: `start`, then `stop`."""

    def __init__(
        self,
        wired: wire.Platform,
        server: _Server,
        serving: "asyncio.Task[None]",
        base_url: str,
        terminal: tls.Terminal | None,
    ) -> None:
        self._wired = wired
        self._terminal = terminal
        self._server = server
        self._serving = serving
        self.base_url = base_url
        self.lost = wired.lost
        """Set when the launcher has ended, and with it every hosted server: the platform can't go on."""

    @classmethod
    async def start(
        cls,
        config: settings.Settings,
        listener: socket.socket | None = None,
        found: machine.Machine | None = None,
        launcher: socket.socket | None = None,
        pair: certificates.Pair | None = None,
        lives: lifetimes.Lifetimes | None = None,
    ) -> "Platform":
        """Listen and serve; the four come from `app.process`, else they are made here. `lives` as in `app.wire`.

        Raises OSError for an address that can't be had, and what `wire.Platform.open` raises.
        """
        observe.configure(config.log)
        version = importlib.metadata.version("smcp")
        if pair is None and config.tls.on:
            pair = await asyncio.to_thread(certificates.read, config.tls)
        terminal = tls.Terminal(pair) if pair is not None else None
        listener = listener or listen(config.gateway.host, config.gateway.port)
        listener.setblocking(False)
        try:
            port = int(listener.getsockname()[1])
            if terminal is not None:
                config = terminal.named(config, port)
            wired = await wire.Platform.open(
                config, port=port, version=version, found=found, launcher=launcher, lives=lives
            )
        except BaseException:
            listener.close()
            raise
        server = _server(config, wired, terminal)
        if terminal is not None:
            terminal.report(wired.metrics, wired.log)
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
        listening = asyncio.create_task(server.listening.wait())
        await asyncio.wait((serving, listening), return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if serving.done():
            if terminal is not None:
                await terminal.close()
            await wired.close()
            await serving
        await wired.trail.write(
            events.PlatformStarted(tenant=ids.PLATFORM, actor="platform", version=version, node=wire.NODE)
        )
        return cls(wired, server, serving, wire.public_url(config, port), terminal)

    async def ensure_operator(self, *, another: bool = False) -> str | None:
        """The text of a new operator's key if nobody holds a usable one (or `another` is wanted), else None.

        Shown once, kept nowhere. Whoever can start the platform holds its root key, so this opens no new door.
        """
        now = time.time()
        usable = [
            key
            for key in await self._wired.keys.list(ids.PLATFORM)
            if policy.Role.OPERATOR in key.roles and key.revoked is None and (key.expires is None or key.expires > now)
        ]
        if usable and not another:
            return None
        issued = await self._wired.keys.create(
            ids.PLATFORM, (policy.Role.OPERATOR,), "operator, made by smcp up", expires_in_s=None
        )
        await self._wired.trail.write(
            events.KeyCreated(tenant=ids.PLATFORM, actor="platform", key=issued.key.id, roles=("operator",))
        )
        return issued.text

    async def set_up(self) -> str | None:
        """The code that makes the first account of the platform, where there is neither one nor a code for it.

        Shown once, kept as a digest. A code that was shown and not used ends by itself; the next start makes another.
        """
        invitations = self._wired.people.invitations
        if not await invitations.needs_set_up():
            return None
        issued = await invitations.set_up(by=None)
        made = issued.invitation
        await self._wired.trail.write(
            identity.UserInvited(tenant=ids.PLATFORM, actor="platform", invitation=made.id, roles=made.roles)
        )
        return issued.text

    def certify(self, pair: certificates.Pair | None, why: str = "") -> bool:
        """Use another certificate for connections to come. False: it is of no use (`why`), and the old one stays."""
        return self._terminal is not None and self._terminal.take(pair, why)

    async def stop(self) -> None:
        """Take no more requests, end what runs, write what must be written. Idempotent."""
        self._server.should_exit = True
        await self._wired.drain()
        await asyncio.gather(self._serving, return_exceptions=True)
        if self._terminal is not None:
            await self._terminal.close()
        with contextlib.suppress(Exception):  # the last words are worth a try, and must not keep the rest from ending
            await self._wired.trail.write(events.PlatformStopped(tenant=ids.PLATFORM, actor="platform", node=wire.NODE))
        await self._wired.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
