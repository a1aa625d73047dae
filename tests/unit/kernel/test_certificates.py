"""Certificates and keys in files: what is taken, and what is said about the rest."""

import os
import pathlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from smcp.kernel import certificates, errors, settings
from support import authority

pytestmark = pytest.mark.requirement("tls:files:checked")


@pytest.fixture
def issuer(tmp_path: pathlib.Path) -> authority.Authority:
    return authority.Authority(tmp_path / "ca")


def _wanted(files: tuple[pathlib.Path, pathlib.Path]) -> settings.Tls:
    return settings.Tls(cert_file=str(files[0]), key_file=str(files[1]))


def test_what_a_certificate_says(issuer: authority.Authority) -> None:
    files = issuer.issue("MCP.example", "*.mcp.example", "127.0.0.1", "::1", days=10)
    pair = certificates.read(_wanted(files))
    facts = certificates.inspect(pair)
    assert facts.names == ("mcp.example", "*.mcp.example")
    assert facts.addresses == ("127.0.0.1", "::1")
    assert 9.9 * 86_400 < facts.left() < 10.1 * 86_400
    assert facts.left() < certificates.SOON_S
    assert "PRIVATE" not in repr(pair)


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()])
def test_every_usual_kind_of_key_is_taken(issuer: authority.Authority, key: object) -> None:
    certificates.inspect(certificates.read(_wanted(issuer.issue("mcp.example", key=key))))


def test_what_stands_around_the_pem_blocks_is_left_out(issuer: authority.Authority) -> None:
    certificate, key = issuer.issue("mcp.example")
    certificate.write_text("Bag Attributes\n\x00\n" + certificate.read_text() + "\n" + issuer.file.read_text())
    pair = certificates.read(_wanted((certificate, key)))
    assert pair.certificate.startswith("-----BEGIN CERTIFICATE-----")
    assert pair.certificate.count("BEGIN CERTIFICATE") == 2
    certificates.inspect(pair)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o602, 0o610])
def test_a_key_that_others_may_touch_is_refused_with_the_command_that_helps(
    issuer: authority.Authority, mode: int
) -> None:
    files = issuer.issue("mcp.example")
    files[1].chmod(mode)
    with pytest.raises(errors.BadSettings, match=f"chmod 600 {files[1]}") as caught:
        certificates.read(_wanted(files))
    assert f"{mode:04o}" in caught.value.public
    files[1].chmod(0o400)
    certificates.read(_wanted(files))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_refused(issuer: authority.Authority) -> None:
    files = issuer.issue("mcp.example")
    os.chown(files[1], 12_345, 12_345)
    with pytest.raises(errors.BadSettings, match="another user"):
        certificates.read(_wanted(files))


def test_files_that_are_none_are_told(issuer: authority.Authority, tmp_path: pathlib.Path) -> None:
    certificate, key = issuer.issue("mcp.example")
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe, 0o600)
    large.write_bytes(b"x" * 40_000)
    large.chmod(0o600)
    for files, said in {
        (certificate, tmp_path / "missing"): "can't be read: No such file",
        (certificate, tmp_path): "Is a directory",
        (certificate, pipe): "is not a file",
        (certificate, large): "larger than",
        (certificate, certificate): "others may read|no private key",
        (key, key): "no certificate",
        (issuer.file, key): "not the one|names no host",
    }.items():
        with pytest.raises(errors.BadSettings, match=said):
            certificates.inspect(certificates.read(_wanted(files)))
    for lone in (settings.Tls(cert_file=str(certificate)), settings.Tls(key_file=str(key))):
        with pytest.raises(errors.BadSettings, match="go together"):
            certificates.read(lone)


def test_pairs_that_cannot_work_are_told(issuer: authority.Authority) -> None:
    good = certificates.read(_wanted(issuer.issue("mcp.example")))
    other = certificates.read(_wanted(issuer.issue("mcp.example", prefix="other")))
    sealed = certificates.read(_wanted(issuer.issue("mcp.example", password=b"secret", prefix="sealed")))
    nameless = certificates.read(_wanted(issuer.issue(prefix="nameless")))
    torn = "-----BEGIN CERTIFICATE-----\nAAAAAAAA\n-----END CERTIFICATE-----\n"
    for pair, said in (
        (certificates.Pair(good.certificate, other.key), "not the one of the certificate"),
        (sealed, "encrypted"),
        (nameless, "names no host"),
        (certificates.Pair(torn, good.key), "damaged"),
        (certificates.Pair(good.certificate, torn.replace("CERTIFICATE", "PRIVATE KEY")), "damaged"),
    ):
        with pytest.raises(errors.BadSettings, match=said) as caught:
            certificates.inspect(pair)
        assert "AAAAAAAA" not in str(caught.value)


def test_a_look_changes_with_the_files(issuer: authority.Authority) -> None:
    wanted = _wanted(issuer.issue("mcp.example"))
    first = certificates.look(wanted)
    assert certificates.look(wanted) == first
    issuer.issue("mcp.example")
    assert certificates.look(wanted) != first
    pathlib.Path(wanted.key_file).unlink()
    assert certificates.look(wanted)[1] is None
