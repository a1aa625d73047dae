"""Two platforms: one that speaks TLS itself, and one that stands behind reverse proxies."""

import pathlib
import urllib.parse
from collections.abc import Generator
from typing import Final, NamedTuple

import pytest

from support import authority, gates, ports, proxy, wire
from support.clients import Endpoint
from support.platform import Platform

FAILURES: Final = 5
"""Requests without a valid key that one address has in a minute."""


class Secured(NamedTuple):
    """A platform with a certificate."""

    platform: Platform
    issuer: authority.Authority
    names: tuple[str, ...]
    said_url: str
    """What it called itself at the start."""

    @property
    def config(self) -> pathlib.Path:
        """A settings file that names the certificate."""
        file = self.issuer.directory / "smcp.toml"
        server = self.issuer.directory / "server"
        file.write_text(f'[tls]\ncert_file = "{server}.pem"\nkey_file = "{server}.key"\n')
        return file

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(urllib.parse.urlsplit(self.platform.base_url).port or 0)


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Generator[Secured]:
    """A platform that speaks TLS, with a certificate of the test's authority."""
    issuer = authority.Authority(tmp_path_factory.mktemp("authority"))
    names = "mcp.example.test", "localhost", "127.0.0.1"
    certificate, key = issuer.issue(*names)
    environ = {
        "SMCP_TLS_CERT_FILE": str(certificate),
        "SMCP_TLS_KEY_FILE": str(key),
        "SMCP_CA_FILE": str(issuer.file),
        "SMCP_LOG_FORMAT": "json",
    }
    with Platform(tmp_path_factory.mktemp("secured"), environ) as platform:
        said = platform.base_url
        # No name system knows the certificate's first name here.
        platform.base_url = f"https://127.0.0.1:{urllib.parse.urlsplit(said).port}"
        yield Secured(platform, issuer, names, said)


class Behind(NamedTuple):
    """A platform that trusts proxies at `proxy.ADDRESS`."""

    platform: Platform
    server: Endpoint
    front: int
    """The port of the proxy in front; the platform answers to its name."""

    @property
    def port(self) -> int:
        """Where the platform itself listens."""
        return int(urllib.parse.urlsplit(self.platform.base_url).port or 0)


@pytest.fixture(scope="session")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Generator[Behind]:
    """A platform behind a proxy, with a hosted server that does what a test tells it."""
    shelf: pathlib.Path = tmp_path_factory.mktemp("wheels")
    wire.wheel(shelf)
    front = ports.free()
    environ = {
        **gates.SETTINGS,
        **gates.BRISK,
        "SMCP_DEPLOY_WHEEL_DIRS": str(shelf),
        "SMCP_GATEWAY_HOSTS": f"127.0.0.1:{front}",
        "SMCP_GATEWAY_TRUSTED_PROXIES": f"{proxy.ADDRESS}/32",
        "SMCP_LIMITS_UNAUTHENTICATED_PER_MINUTE": str(FAILURES),
    }
    with Platform(tmp_path_factory.mktemp("behind"), environ) as platform:
        hosted = platform.host("acme", (f"pypi:{wire.SCRIPTED}", "tool"))
        yield Behind(platform, hosted["tool"], front)
