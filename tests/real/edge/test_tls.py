"""TLS at the platform's own edge, with a real authority, real clients and real files that change."""

import asyncio
import contextlib
import json
import os
import pathlib
import re
import resource
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Generator
from typing import Any

import httpx2
import pytest

from real.edge.conftest import Secured
from smcp.kernel import certificates
from support import files, processes, wire
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_SOON_S = 120.0
_CLOSED = re.compile("alert|EOF occurred|reset by peer", re.IGNORECASE)
"""What the other side's refusal looks like; what this side's own OpenSSL refuses reads differently."""


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _SOON_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)  # the files are looked at every two seconds; there is no event outside of the platform


def _connect(secured: Secured, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", secured.port), timeout=120)
    try:
        return (context or secured.issuer.client()).wrap_socket(plain, server_hostname="mcp.example.test")
    except BaseException:
        plain.close()
        raise


def _serial(stream: ssl.SSLSocket) -> str:
    certificate: Any = stream.getpeercert()
    return str(certificate["serialNumber"])


def _shown(secured: Secured) -> str:
    """The certificate that a new connection gets."""
    with _connect(secured) as stream:
        return _serial(stream)


def _ask(stream: ssl.SSLSocket, secured: Secured) -> bytes:
    """One request on a connection that is kept."""
    stream.sendall(b"GET /healthz HTTP/1.1\r\nhost: mcp.example.test:%d\r\n\r\n" % secured.port)
    answer = b""
    while not answer.endswith(b'{"status":"ok"}'):
        piece = stream.recv(65_536)
        assert piece, answer
        answer += piece
    return answer


def _metric(platform: Platform, line: str) -> float:
    answer = httpx2.get(
        f"{platform.base_url}/metrics",
        headers={"Authorization": f"Bearer {platform.operator_key}"},
        verify=platform.trust,
        timeout=120.0,
    )
    found = re.search(rf"^{re.escape(line)} (\S+)$", answer.text, re.MULTILINE)
    assert found is not None, answer.text[:2000]
    return float(found[1])


@pytest.mark.requirement("tls:wire:modern")
def test_tls_is_modern_and_nothing_else_is_spoken(secured: Secured) -> None:
    client = secured.issuer.client()
    client.set_alpn_protocols(["h2", "http/1.1"])
    with _connect(secured, client) as stream:
        assert stream.version() == "TLSv1.3"
        assert stream.selected_alpn_protocol() == "http/1.1"
        assert _ask(stream, secured).startswith(b"HTTP/1.1 200 ")
    older = secured.issuer.client()
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    with _connect(secured, older) as stream:
        cipher: Any = stream.cipher()
        assert stream.version() == "TLSv1.2"
        assert cipher[0].startswith("ECDHE-ECDSA-")
        assert "GCM" in cipher[0] or "CHACHA20" in cipher[0]


@pytest.mark.requirement("tls:wire:modern")
@pytest.mark.filterwarnings("ignore:.*TLSv1:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_tls_is_refused_by_the_platform_not_by_the_client(secured: Secured, version: ssl.TLSVersion) -> None:
    client = secured.issuer.client()
    client.set_ciphers("ALL:@SECLEVEL=0")
    client.minimum_version = ssl.TLSVersion.TLSv1
    client.maximum_version = version
    with pytest.raises(OSError, match=_CLOSED):
        _connect(secured, client)


@pytest.mark.requirement("tls:wire:modern")
def test_weak_ciphers_and_plain_http_get_nothing(secured: Secured) -> None:
    for ciphers in ("ECDHE-ECDSA-AES128-SHA", "AES128-GCM-SHA256", "aNULL:@SECLEVEL=0"):
        client = secured.issuer.client()
        client.set_ciphers(ciphers)
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(OSError, match=_CLOSED):
            _connect(secured, client)
    with socket.create_connection(("127.0.0.1", secured.port), timeout=120) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert b"HTTP" not in _rest(plain)


@pytest.mark.requirement("tls:names:own")
def test_the_platform_goes_by_the_certificates_names(secured: Secured) -> None:
    assert secured.said_url == f"https://mcp.example.test:{secured.port}"
    with _connect(secured) as stream:
        told = _ask(stream, secured)
    assert b"\r\nstrict-transport-security: max-age=31536000\r\n" in told.lower()
    for host, status in ((f"localhost:{secured.port}", 200), ("evil.example", 403)):
        answer = httpx2.get(
            f"{secured.platform.base_url}/healthz",
            headers={"host": host},
            verify=secured.platform.trust,
            timeout=120.0,
        )
        assert answer.status_code == status


@pytest.mark.requirement("tls:reload:open", "tls:expiry:told")
def test_new_files_serve_new_connections_and_open_ones_go_on(secured: Secured) -> None:
    with _connect(secured) as kept:
        before = _serial(kept)
        assert _ask(kept, secured).startswith(b"HTTP/1.1 200 ")
        secured.issuer.issue(*secured.names, days=7)
        _until(lambda: _shown(secured) != before, "the new certificate is not taken")
        assert _ask(kept, secured).startswith(b"HTTP/1.1 200 ")
        assert _serial(kept) == before
    left = _metric(secured.platform, "smcp_tls_certificate_expiry_timestamp_seconds") - time.time()
    assert 6.9 * 86_400 < left < 7 * 86_400 < certificates.SOON_S
    _until(lambda: "tls certificate ends soon" in secured.platform.log.read_text(), "nobody is told of the end")
    doctor = secured.platform.smcp("doctor", "--config", str(secured.config), "--data", str(secured.platform.data))
    found = next(one for one in doctor["checks"] if one["name"] == "tls")
    assert found["status"] == "warn"
    assert "less than 14 days" in found["why"]


@pytest.mark.requirement("tls:reload:bad")
def test_a_bad_new_pair_changes_nothing_for_clients_and_is_told(secured: Secured) -> None:
    certificate, key = secured.issuer.issue(*secured.names)
    good = certificate.read_bytes(), key.read_bytes()
    log = secured.platform.log
    serial = _serial_of(certificate)
    _until(lambda: _shown(secured) == serial, "the good pair is not taken")

    # Another pair's key: as a renewal that was interrupted leaves it.
    before = _loads(secured, "refused")
    _, wrong = secured.issuer.issue(*secured.names, prefix="wrong")
    key.write_bytes(wrong.read_bytes())
    _until(lambda: _loads(secured, "refused") > before, "the bad pair is not refused")
    # The half of a file that is just being written is refused, too, in other words.
    _until(lambda: "not the one of the certificate" in log.read_text(), "nobody is told why")
    assert _shown(secured) == serial
    asked = "doctor", "--config", str(secured.config), "--data", str(secured.platform.data)
    doctor = secured.platform.smcp(*asked, code=1)
    assert doctor["error"]["code"] == "unfit"

    again = _loads(secured, "refused")
    key.chmod(0o644)
    _until(lambda: _loads(secured, "refused") > again, "an open key is not refused")
    _until(lambda: "chmod 600" in log.read_text(), "nobody is told why")
    assert _shown(secured) == serial

    secured.issuer.issue(*secured.names)
    _until(lambda: _shown(secured) != serial, "the platform does not recover")
    assert "PRIVATE KEY" not in log.read_text()
    assert good[1].decode().split("\n")[1] not in log.read_text()


def _loads(secured: Secured, outcome: str) -> float:
    return _metric(secured.platform, f'smcp_tls_certificate_loads_total{{outcome="{outcome}"}}')


def _serial_of(file: pathlib.Path) -> str:
    from cryptography import x509

    digits = f"{x509.load_pem_x509_certificate(file.read_bytes()).serial_number:X}"
    # As OpenSSL prints it: whole bytes, which one serial number of eight does not fill.
    return digits.zfill(len(digits) + len(digits) % 2)


@pytest.mark.requirement("tls:key:unprivileged")
def test_the_key_is_in_no_place_but_its_file_and_who_faces_the_network_cannot_read_that(secured: Secured) -> None:
    key = secured.issuer.directory / "server.key"
    found = key.stat()
    assert (found.st_uid, found.st_mode & 0o777) == (os.geteuid(), 0o600)
    secret = key.read_bytes().split(b"\n")[1]
    family = secured.platform.family()
    looked = 0
    for one in family:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            for name in ("cmdline", "environ"):
                assert secret not in pathlib.Path(f"/proc/{one.pid}/{name}").read_bytes()
            assert str(key) not in _open_files(one)
            looked += 1
    assert looked >= wire.OWN_PROCESSES
    for file, data in files.below(secured.platform.data):
        assert secret not in data, file
    if os.geteuid() == 0:
        node = _node(family)
        status = pathlib.Path(f"/proc/{node.pid}/status").read_text("ascii")
        assert "\nUid:\t0" not in status
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)


def _node(family: set[processes.Process]) -> processes.Process:
    # What it starts has its command line for a moment, between vfork(2) and execve(2).
    found = [one for one in family if " smcp.app.node " in f"{one.command} "]
    return min(found, key=lambda one: one.started)


def _open_files(one: processes.Process) -> set[str]:
    found: set[str] = set()
    for file in pathlib.Path(f"/proc/{one.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(os.readlink(file))
    return found


def _rest(plain: socket.socket) -> bytes:
    """What comes until the other side ends, in whatever way."""
    told = b""
    try:
        while piece := plain.recv(65_536):
            told += piece
    except ConnectionError:
        pass
    return told


@pytest.mark.requirement("tls:attack:slow-handshake")
async def test_who_stalls_before_or_in_the_handshake_is_closed_and_holds_nobody_up(secured: Secured) -> None:
    hello, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    half = secured.issuer.client().wrap_bio(hello, outgoing, server_hostname="mcp.example.test")
    with pytest.raises(ssl.SSLWantReadError):
        half.do_handshake()
    first = outgoing.read()
    stalled: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    for piece in (b"", first[:1], first[: len(first) // 2], first, b"\x16\x03\x01\x40\x00" + b"\x01" * 100) * 20:
        stalled.append(await asyncio.open_connection("127.0.0.1", secured.port))
        stalled[-1][1].write(piece)
    async with httpx2.AsyncClient(verify=secured.issuer.client(), timeout=120.0) as client:
        for _ in range(5):
            assert (await client.get(f"{secured.platform.base_url}/healthz")).status_code == 200
    async with asyncio.timeout(240):
        for reader, writer in stalled:
            try:
                while await reader.read(65_536):
                    pass
            except ConnectionError:
                pass
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    async with httpx2.AsyncClient(verify=secured.issuer.client(), timeout=120.0) as client:
        assert (await client.get(f"{secured.platform.base_url}/healthz")).status_code == 200


@pytest.mark.requirement("gateway:edge:descriptors")
def test_more_idle_connections_than_a_shells_limit_of_files_keep_nobody_out(tmp_path: pathlib.Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    platform = Platform(tmp_path)
    few = max(200, len(os.listdir("/proc/self/fd")) + 50)  # what this process has open already counts, too
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        platform.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with _stopped(platform), contextlib.ExitStack() as idle:
        where = urllib.parse.urlsplit(platform.base_url)
        for _ in range(few + 100):
            idle.enter_context(socket.create_connection((where.hostname, where.port), timeout=120))
        assert httpx2.get(f"{platform.base_url}/readyz", timeout=120.0, verify=False).status_code == 200


@contextlib.contextmanager
def _stopped(platform: Platform) -> Generator[None]:
    """Stop it in the end, as one that was started by hand."""
    try:
        yield
    finally:
        platform.stop()


@pytest.mark.requirement("tls:client:trust")
def test_the_command_line_gives_its_key_to_who_it_trusts_only(
    secured: Secured, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    from smcp.cli import failures, main

    assert secured.platform.smcp("tenant", "list")["items"] == []
    monkeypatch.setenv("SMCP_CONFIG", str(tmp_path))
    monkeypatch.setenv("SMCP_URL", secured.platform.base_url)
    monkeypatch.setenv("SMCP_API_KEY", secured.platform.operator_key)
    monkeypatch.delenv("SMCP_CA_FILE", raising=False)
    assert main.run(["tenant", "list", "--json"]) == failures.Exit.UNREACHABLE
    assert json.loads(capfd.readouterr().err)["error"]["code"] == "untrusted"
    assert main.run(["tenant", "list", "--json", "--cacert", str(secured.issuer.file)]) == 0
    capfd.readouterr()
    assert main.run(["tenant", "list", "--json", "--cacert", str(tmp_path / "none")]) == failures.Exit.USAGE
    assert json.loads(capfd.readouterr().err)["error"]["code"] == "ca_file"


@pytest.mark.requirement("tls:files:checked")
def test_a_start_with_a_pair_that_cannot_work_stops_with_the_reason(secured: Secured, tmp_path: pathlib.Path) -> None:
    certificate, key = secured.issuer.issue("mcp.example.test", prefix="open")
    key.chmod(0o644)
    running = Platform(
        tmp_path, {"SMCP_TLS_CERT_FILE": str(certificate), "SMCP_TLS_KEY_FILE": str(key), "SMCP_CA_FILE": ""}
    )
    with pytest.raises(AssertionError, match="chmod 600"):
        running.start()
