"""Conversations with remote servers, through the real driver: for tests that need no whole platform."""

import contextlib
import ssl
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any, Final

from smcp.kernel import errors, ids, jsonrpc, observe, settings
from smcp.protocol import eras
from smcp.runtime import driver
from smcp.runtime.drivers import conversation, remote
from smcp.sandbox import egress

TENANT: Final = ids.TenantId("acme")
LOOPBACK: Final = ("127.0.0.0/8", "::1/128")
WAIT_S: Final = 60.0


class Names:
    """A name system: each name has the answers of its list, one after the other; the last one stays."""

    def __init__(self, answers: dict[str, list[Sequence[str]]]) -> None:
        self._answers = answers
        self.asked: list[str] = []

    async def __call__(self, name: str, port: int) -> Sequence[str]:
        """As `egress.Resolve`."""
        self.asked.append(name)
        found = self._answers.get(name)
        if not found:
            raise OSError(f"no such name as {name}:{port}")
        return found.pop(0) if len(found) > 1 else found[0]


def spec(
    url: str, wire: Any = "auto", secrets: Iterable[tuple[str, str, str]] = (), tenant: ids.TenantId = TENANT
) -> driver.Spec:
    """A deployment of the server at `url`; each secret is (header, name, value)."""
    secrets = tuple(secrets)
    return driver.Spec(
        tenant=tenant,
        server=ids.ServerName("far"),
        deployment="d1",
        artefact="",
        argv=(),
        env=tuple((name, value) for _, name, value in secrets),
        remote=driver.Remote(url=url, headers=tuple((header, name) for header, name, _ in secrets), wire=wire),
    )


def limits(**changes: Any) -> driver.Limits:
    """Those of the settings, with `changes`."""
    usual: dict[str, Any] = {
        "stop_grace_s": 10.0,
        "max_message_bytes": 16_777_216,
        "stream_buffer": 256,
        "tenant_buffer_bytes": 67_108_864,
    }
    return driver.Limits(**{**usual, **changes})


class Far:
    """A driver, and what it said."""

    def __init__(
        self,
        *,
        networks: Sequence[str] = LOOPBACK,
        names: Names | None = None,
        secure: ssl.SSLContext | None = None,
        most: driver.Limits | None = None,
        budgets: Any = None,
    ) -> None:
        config = settings.Egress(allowed_networks=tuple(networks))
        self.moved = [0, 0]
        self.lines: list[str] = []
        reach = egress.Egress(config, observe.Metrics("tests"), names, budgets=budgets)
        self.driver = remote.RemoteDriver(most or limits(), reach, None, self._count, secure)

    def _count(self, _spec: driver.Spec, sent: int, received: int) -> None:
        self.moved[0] += sent
        self.moved[1] += received

    async def start(self, what: driver.Spec, *, modern: bool = False) -> conversation.Conversation:
        """A conversation."""
        made = await self.driver.start(what, modern=modern, lines=self.lines.append)
        assert isinstance(made, conversation.Conversation)
        return made


@contextlib.asynccontextmanager
async def far(**wishes: Any) -> AsyncGenerator[Far]:
    """As `Far`; every conversation is over afterwards."""
    made = Far(**wishes)
    try:
        yield made
    finally:
        await made.driver.close()


def meta() -> jsonrpc.Json:
    """What a modern request carries."""
    return {
        eras.META_VERSION: eras.MODERN[-1],
        eras.META_CAPABILITIES: {},
        "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
    }


def failure(told: errors.SmcpError | None) -> str:
    """The public text of a failure that must be there."""
    assert told is not None
    return told.public
