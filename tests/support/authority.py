"""A certificate authority of the test's own: real keys, real certificates."""

import datetime
import ipaddress
import os
import pathlib
import ssl
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import oid

_DAY: Final = datetime.timedelta(days=1)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, text)])


class Authority:
    """Issues certificates below `directory`; `file` holds its own."""

    def __init__(self, directory: pathlib.Path) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.file = directory / "ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("SMCP test authority")
        own = self._builder(self._name, self._key.public_key(), 30.0).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
        own = own.add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
                **usage,
            ),
            critical=True,
        )
        self.file.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        *names: str,
        days: float = 90.0,
        begins: float = -1.0,
        key: Any = None,
        password: bytes | None = None,
        prefix: str = "server",
    ) -> tuple[pathlib.Path, pathlib.Path]:
        """A certificate for `names` (hosts and addresses) and its key, as files; replaced if they are there."""
        private = key or ec.generate_private_key(ec.SECP256R1())
        made = self._builder(_name("server"), private.public_key(), days, begins)
        if names:
            made = made.add_extension(x509.SubjectAlternativeName([_general(one) for one in names]), critical=False)
        certificate, secret = self.directory / f"{prefix}.pem", self.directory / f"{prefix}.key"
        _replace(certificate, made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), 0o644)
        closed = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        form = serialization.PrivateFormat.PKCS8
        _replace(secret, private.private_bytes(serialization.Encoding.PEM, form, closed), 0o600)
        return certificate, secret

    def client(self) -> ssl.SSLContext:
        """What a client that trusts this authority, and nobody else, connects with."""
        return ssl.create_default_context(cafile=str(self.file))

    def _builder(self, subject: x509.Name, public: Any, days: float, begins: float = -1.0) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins * _DAY)
            .not_valid_after(now + days * _DAY)
        )


def _general(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _replace(file: pathlib.Path, content: bytes, mode: int) -> None:
    # As clients of a certificate authority do: whole, by another name first.
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(content)
    new.replace(file)
