"""The platform's certificate and its key, as files in PEM (RFC 7468): reading them, and saying what is wrong with them.

Whoever reads needs the right to; whoever gets the pair needs none. Nothing here writes, and no message holds a key.
"""

import os
import pathlib
import re
import stat
import time
from typing import Final, NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from smcp.kernel import errors, settings

SOON_S: Final = 14 * 86_400
"""A certificate that ends within this time should have been renewed."""

_LARGEST: Final = 32_768
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----", re.ASCII)
_KEY = re.compile(r"-----BEGIN ((?:[A-Z]+ )?PRIVATE KEY)-----[A-Za-z0-9+/=:,\-\s]+?-----END \1-----", re.ASCII)
_READING: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class Pair(msgspec.Struct, frozen=True):
    """A certificate with those of its issuers, and its private key."""

    certificate: str
    key: str

    def __repr__(self) -> str:
        return "Pair(…)"


class Facts(NamedTuple):
    """What a certificate says."""

    names: tuple[str, ...]
    """DNS names, as they stand there (`*.example.test` too), in lower case."""
    addresses: tuple[str, ...]
    """IP addresses."""
    begins: float
    ends: float
    """Seconds since the epoch."""

    def left(self, now: float | None = None) -> float:
        """Seconds until it ends; negative when it has."""
        return self.ends - (time.time() if now is None else now)


Look = tuple[tuple[int, ...] | None, ...]


def look(wanted: settings.Tls) -> Look:
    """What changes when one of the two files does. Cheap (two stat calls); never raises."""
    return tuple(_stat(name) for name in (wanted.cert_file, wanted.key_file))


def read(wanted: settings.Tls) -> Pair:
    """The pair that the settings name. Raises `errors.BadSettings`, with what to do."""
    if not (wanted.cert_file and wanted.key_file):
        raise errors.BadSettings("tls.cert_file and tls.key_file go together: set both, or neither.")
    key = _KEY.search(_text("tls.key_file", wanted.key_file, private=True))
    certificates = _CERTIFICATE.findall(_text("tls.cert_file", wanted.cert_file, private=False))
    if key is None:
        raise errors.BadSettings(f"tls.key_file: there is no private key in PEM in {wanted.key_file}.")
    if not certificates:
        raise errors.BadSettings(f"tls.cert_file: there is no certificate in PEM in {wanted.cert_file}.")
    return Pair("\n".join(certificates) + "\n", key[0] + "\n")


def inspect(pair: Pair) -> Facts:
    """What the certificate says. Raises `errors.BadSettings` for a pair that can't work."""
    try:
        own = x509.load_pem_x509_certificates(pair.certificate.encode())[0]
        public = own.public_key()
        names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        told = tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))
        addresses = tuple(str(one) for one in names.get_values_for_type(x509.IPAddress))
    except x509.ExtensionNotFound as error:
        # RFC 9525, 6.4.4: no client looks at the common name any more.
        raise errors.BadSettings(
            "The certificate names no host: clients look at its subjectAltName only, and it has none."
        ) from error
    except (ValueError, IndexError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise errors.BadSettings("The certificate can't be read: it is damaged.", detail=str(error)) from error
    if _public(pair.key) != _encoded(public):
        raise errors.BadSettings("The private key is not the one of the certificate.")
    return Facts(told, addresses, own.not_valid_before_utc.timestamp(), own.not_valid_after_utc.timestamp())


def _public(key: str) -> bytes:
    try:
        private = serialization.load_pem_private_key(key.encode(), None)
    except TypeError as error:
        raise errors.BadSettings(
            "The private key is encrypted, and nobody could type its password at a restart. Decrypt it:"
            " openssl pkey -in OLD -out NEW"
        ) from error
    except Exception as error:
        # cryptography raises ValueError, UnsupportedAlgorithm and what OpenSSL adds; none may tell of the content.
        raise errors.BadSettings("The private key can't be read: it is damaged, or of an unknown kind.") from error
    return _encoded(private.public_key())


def _encoded(public: object) -> bytes:
    encode = getattr(public, "public_bytes")  # noqa: B009 - every kind of key has it; their union does not say so
    return bytes(encode(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def _text(setting: str, name: str, *, private: bool) -> str:
    try:
        # Not to wait for ever for whoever writes into a pipe of that name.
        handle = os.open(name, _READING)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise errors.BadSettings(f"{setting}: {name} is not a file.")
            if private:
                _require_private(setting, name, found)
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise errors.BadSettings(f"{setting}: {name} can't be read: {error.strerror}.") from error
    if len(content) > _LARGEST:
        raise errors.BadSettings(f"{setting}: {name} is larger than {_LARGEST} bytes.")
    return content.decode("latin-1")


def _require_private(setting: str, name: str, found: os.stat_result) -> None:
    if found.st_mode & 0o077:
        raise errors.BadSettings(
            f"{setting}: others may read {name} (mode {stat.S_IMODE(found.st_mode):04o}). Run: chmod 600 {name}"
            "  (and get a new key if somebody may have read it)"
        )
    if found.st_uid not in (os.geteuid(), 0):
        raise errors.BadSettings(f"{setting}: {name} belongs to another user, so its content can't be trusted.")


def _stat(name: str) -> tuple[int, ...] | None:
    try:
        found = pathlib.Path(name).stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode
