"""What a platform calls itself under a certificate, and when it keeps the one that it has."""

import asyncio
import io
import pathlib
import ssl

import pytest

from smcp.app import tls
from smcp.kernel import certificates, observe, settings
from support import authority


def _pair(files: tuple[pathlib.Path, pathlib.Path]) -> certificates.Pair:
    return certificates.read(settings.Tls(cert_file=str(files[0]), key_file=str(files[1])))


@pytest.fixture
def issuer(tmp_path: pathlib.Path) -> authority.Authority:
    return authority.Authority(tmp_path / "ca")


@pytest.mark.requirement("tls:names:own")
def test_the_certificates_names_are_the_platforms(issuer: authority.Authority) -> None:
    names = ("*.mcp.example", "mcp.example", "www.mcp.example", "192.0.2.1", "2001:db8::1")
    terminal = tls.Terminal(_pair(issuer.issue(*names)))
    named = terminal.named(settings.Settings(), 8443).gateway
    assert named.public_url == "https://mcp.example:8443"
    assert named.hosts == ("mcp.example:8443", "www.mcp.example:8443", "192.0.2.1:8443", "[2001:db8::1]:8443")
    assert terminal.named(settings.Settings(), 443).gateway.public_url == "https://mcp.example"
    said = settings.Settings(gateway=settings.Gateway(public_url="https://other.example"))
    assert terminal.named(said, 443).gateway.public_url == "https://other.example"
    wild = tls.Terminal(_pair(issuer.issue("*.mcp.example")))
    assert wild.named(settings.Settings(), 443).gateway.public_url == ""


@pytest.mark.requirement("tls:names:own")
@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://mcp.example", True),
        ("https://mcp.example:8443", True),
        ("https://localhost:8443", False),
        ("https://smcp.localhost", False),
        ("https://intranet", False),
        ("https://127.0.0.1:8443", False),
        ("https://[2001:db8::1]:8443", False),
    ],
)
def test_hsts_is_for_names_only(url: str, *, sent: bool) -> None:
    assert tls.hsts(url) == ([tls.HSTS] if sent else [])


@pytest.mark.requirement("tls:reload:bad", "tls:expiry:told")
async def test_a_pair_of_no_use_changes_nothing_and_is_told(issuer: authority.Authority) -> None:
    log, metrics = io.StringIO(), observe.Metrics("test")
    terminal = tls.Terminal(_pair(issuer.issue("mcp.example", days=10)))
    terminal.report(metrics, observe.logger(settings.Log(format="json"), log))
    first, ends = terminal.switch.current, terminal.facts.ends
    assert f"smcp_tls_certificate_expiry_timestamp_seconds {ends}" in metrics.render().decode()
    assert "tls certificate ends soon" in log.getvalue()

    good, other = _pair(issuer.issue("mcp.example")), _pair(issuer.issue("mcp.example", prefix="other"))
    past, future = (_pair(issuer.issue("mcp.example", begins=b, days=d)) for b, d in ((-9, -1), (1, 9)))
    for pair, why in (
        (certificates.Pair(good.certificate, other.key), "not the one of the certificate"),
        (None, "can't be read"),
        (past, "not valid at this time"),
        (future, "not valid at this time"),
    ):
        assert terminal.take(pair, why) is False
        assert why in log.getvalue().splitlines()[-1]
    assert (terminal.switch.current, terminal.facts.ends) == (first, ends)
    assert terminal.take(good) is True
    assert terminal.switch.current is not first
    page = metrics.render().decode()
    assert f"smcp_tls_certificate_expiry_timestamp_seconds {terminal.facts.ends}" in page
    assert 'smcp_tls_certificate_loads_total{outcome="refused"} 4' in page
    assert 'smcp_tls_certificate_loads_total{outcome="loaded"} 2' in page
    assert "PRIVATE KEY" not in log.getvalue()
    await terminal.close()


@pytest.mark.requirement("tls:wire:modern")
def test_what_is_spoken(issuer: authority.Authority) -> None:
    context = tls.Terminal(_pair(issuer.issue("mcp.example"))).switch.current
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    ciphers = [one for one in context.get_ciphers() if one["protocol"] != "TLSv1.3"]
    assert ciphers
    assert all(one["aead"] and one["kea"] == "kx-ecdhe" for one in ciphers)


@pytest.mark.requirement("tls:reload:open")
async def test_files_count_when_two_looks_have_found_the_same(issuer: authority.Authority) -> None:
    files = issuer.issue("mcp.example")
    wanted = settings.Tls(cert_file=str(files[0]), key_file=str(files[1]))
    handed: asyncio.Queue[tuple[certificates.Pair | None, str]] = asyncio.Queue()

    async def hand(pair: certificates.Pair | None, why: str) -> None:
        handed.put_nowait((pair, why))

    following = asyncio.create_task(tls.follow(wanted, certificates.look(wanted), hand, every_s=0.01))
    issuer.issue("mcp.example")
    assert await handed.get() == (certificates.read(wanted), "")
    files[1].chmod(0o644)
    pair, why = await handed.get()
    assert pair is None
    assert "chmod 600" in why
    files[1].unlink()
    assert "No such file" in (await handed.get())[1]
    issuer.issue("mcp.example")
    assert (await handed.get())[0] == certificates.read(wanted)
    assert handed.empty()
    following.cancel()
