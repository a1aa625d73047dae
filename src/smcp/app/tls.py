"""TLS in front of the HTTP server: one context for all connections, whose inside is exchanged when the certificate is.

A new pair makes a whole new context. Connections that are open, and handshakes that have begun, keep the one that they
began with; a pair that is of no use changes nothing but a counter and the log.
"""

import asyncio
import os
import ssl
import time
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from smcp.kernel import certificates, errors, observe, settings
from smcp.sandbox import launch

HANDSHAKE_S: Final = 10.0
"""Seconds for a client to get through the handshake; who is silent or stalls in it is closed."""
SHUTDOWN_S: Final = 5.0
LOOK_S: Final = 2.0
"""Seconds between two looks at the files."""
_REMIND_S: Final = 86_400.0

_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2 (Mozilla, "Server Side TLS", intermediate): forward secrecy and AEAD only. TLS 1.3 has its own list."""
HSTS: Final = ("strict-transport-security", "max-age=31536000")
"""RFC 6797. Without `includeSubDomains`: other hosts are not ours to speak for."""


class Switch(ssl.SSLContext):
    """What the server holds for good, with the context for new connections inside."""

    current: ssl.SSLContext

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """One new connection, as event loops make it."""
        return self.current.wrap_bio(incoming, outgoing, server_side, server_hostname, session)


class Terminal:
    """The certificate in use."""

    def __init__(self, pair: certificates.Pair) -> None:
        """Raises `errors.BadSettings` for a pair that can't work."""
        self.switch = Switch(ssl.PROTOCOL_TLS_SERVER)
        self.facts = certificates.inspect(pair)
        self.switch.current = _context(pair)
        self._metrics: observe.Metrics | None = None
        self._log: observe.Logger | None = None
        self._reminder: asyncio.Task[None] | None = None

    def report(self, metrics: observe.Metrics, log: observe.Logger) -> None:
        """From now on say how the certificate stands."""
        self._metrics, self._log = metrics, log
        metrics.watch(observe.Metric.TLS_EXPIRY, lambda: self.facts.ends)
        for outcome in ("loaded", "refused"):
            metrics.counter(observe.Metric.TLS_LOADS, outcome=outcome)
        self._tell()
        self._reminder = asyncio.create_task(self._remind(), name="certificate's reminder")

    def take(self, pair: certificates.Pair | None, why: str = "") -> bool:
        """Use `pair` for connections to come, or keep the one in use and say so. None: it could not be read, `why`."""
        try:
            if pair is None:
                raise errors.BadSettings(why)
            facts = certificates.inspect(pair)
            context = _context(pair)
            if not facts.begins - 3600 <= time.time() < facts.ends:
                raise errors.BadSettings("The new certificate is not valid at this time.")
        except errors.BadSettings as error:
            self._count("refused")
            if self._log is not None:
                self._log.error("tls certificate refused, the old one stays", why=error.public, detail=error.detail)
            return False
        self.switch.current, self.facts = context, facts
        self._tell()
        return True

    def named(self, config: settings.Settings, port: int) -> settings.Settings:
        """`config` with the certificate's names for the platform's own, where nobody has said otherwise."""
        gateway = config.gateway
        behind = "" if port == 443 else f":{port}"
        names = [name + behind for name in self.facts.names if not name.startswith("*")]
        names += [(f"[{one}]" if ":" in one else one) + behind for one in self.facts.addresses]
        url = gateway.public_url or (f"https://{names[0]}" if names else "")
        changed = msgspec.structs.replace(gateway, public_url=url, hosts=(*gateway.hosts, *names))
        return msgspec.structs.replace(config, gateway=changed)

    async def close(self) -> None:
        """Stop reminding."""
        if self._reminder is not None:
            self._reminder.cancel()
            await asyncio.gather(self._reminder, return_exceptions=True)

    def _tell(self) -> None:
        self._count("loaded")
        if self._log is not None:
            ends = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.facts.ends))
            self._log.info("tls certificate in use", names=", ".join(self.facts.names[:5]), ends=ends)
            self._warn()

    def _warn(self) -> None:
        left = self.facts.left()
        if self._log is not None and left < certificates.SOON_S:
            what = "tls certificate ends soon" if left > 0 else "tls certificate has ended"
            self._log.warning(what, days=round(left / 86_400, 1))

    async def _remind(self) -> None:
        while True:
            await asyncio.sleep(_REMIND_S)
            self._warn()

    def _count(self, outcome: str) -> None:
        if self._metrics is not None:
            self._metrics.counter(observe.Metric.TLS_LOADS, outcome=outcome).inc()


async def follow(
    wanted: settings.Tls,
    taken: certificates.Look,
    hand: Callable[[certificates.Pair | None, str], Awaitable[None]],
    every_s: float = LOOK_S,
) -> None:
    """Hand over the pair (or why it can't be read) each time that the files have changed since `taken`; for ever.

    The two are replaced one after the other, so they count when two looks have found the same.
    """
    seen = taken
    while True:
        await asyncio.sleep(every_s)
        now = await asyncio.to_thread(certificates.look, wanted)
        if now == seen != taken:
            taken = now
            try:
                pair, why = await asyncio.to_thread(certificates.read, wanted), ""
            except errors.BadSettings as error:
                pair, why = None, error.public
            await hand(pair, why)
        seen = now


def _context(pair: certificates.Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # OpenSSL reads files only; this one has no name in any file system and ends with the descriptor.
    handle = launch.memory("certificate", f"{pair.key}{pair.certificate}".encode())
    try:
        context.load_cert_chain(f"/proc/self/fd/{handle}", password="")
    except (ssl.SSLError, OSError) as error:
        raise errors.BadSettings(
            f"The certificate and its key can't be used: {getattr(error, 'reason', None) or error}."
        ) from error
    finally:
        os.close(handle)
    return context


def hsts(public_url: str) -> list[tuple[str, str]]:
    """The header of a platform that is reached by `public_url` over TLS, if it may have it.

    Never for this machine's own name or an address: browsers would refuse every other port of it without TLS.
    """
    host = urllib.parse.urlsplit(public_url).hostname or ""
    named = "." in host and not host.replace(".", "").isdigit() and ":" not in host and not host.endswith(".localhost")
    return [HSTS] if named else []
