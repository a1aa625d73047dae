"""Sealing, keys and digests: XAES-256-GCM, the key ring, HKDF, keyed digests, constant-time comparison.

Three levels of keys. The *root key* is a file that the operator guards (or keeps on a read-only mount). It seals
the *wrapping key*, which seals one random *data key* per tenant. Everything that is stored is sealed under keys
that are derived from the tenant's data key, one per purpose.

Destroying a tenant's data key makes a new wrapping key, wraps the survivors' keys with it and overwrites the old
one. Copies of the ring that were taken earlier then open with nothing that still exists, so that every copy of the
tenant's data, in backups and in free disk blocks too, is noise ("crypto-shredding"). For that, the wrapping key is a
file of its own, of which no history may be kept.
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import secrets
import stat
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from smcp.kernel import errors, ids

_T = TypeVar("_T")

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 24
TAG_BYTES: Final = 16
OVERHEAD: Final = NONCE_BYTES + TAG_BYTES
"""Bytes that sealing adds."""

# Seals that share the first half of the nonce, and with it the derived key. The second half is 96 random bits, so
# the chance that two of 2**16 meet is 2**-65 for each derived key, and a restored VM image or a fork repeats nothing.
_SEALS_PER_SUBKEY: Final = 1 << 16
_SUBKEYS_KEPT: Final = 64
_HALF: Final = 8
"""Half the bytes of an AES block."""


class Xaes:
    """XAES-256-GCM (c2sp.org/XAES-256-GCM) under one 256-bit key.

    Deriving the AES-GCM key from the first 12 nonce bytes costs more than sealing a small value, so the derived
    key is kept and reused for a bounded number of seals; the result is plain XAES-256-GCM for whoever opens it.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"an XAES-256-GCM key has {KEY_BYTES} bytes")
        self._cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305  single blocks: CMAC's own building block
        # "Detailed key derivation algorithm", steps 1 and 2: the CMAC subkey K1.
        left = int.from_bytes(self._encrypt(bytes(16)), "big")
        self._k1 = ((left << 1) & ((1 << 128) - 1)) ^ (0b10000111 if left >> 127 else 0)
        self._opening: OrderedDict[bytes, AESGCM] = OrderedDict()
        self._lock = threading.Lock()
        self._prefix = b""
        self._sealing: AESGCM | None = None
        self._left = 0

    def __repr__(self) -> str:
        return "Xaes(…)"

    def seal(self, plaintext: bytes, aad: bytes, nonce: bytes | None = None) -> bytes:
        """`plaintext` sealed and bound to `aad`: nonce, ciphertext, tag. `nonce` is for test vectors only."""
        if nonce is None:
            prefix, gcm = self._current()
            nonce = prefix + os.urandom(12)
        elif len(nonce) == NONCE_BYTES:
            gcm = self._derive(nonce[:12])
        else:
            raise ValueError(f"an XAES-256-GCM nonce has {NONCE_BYTES} bytes")
        return nonce + gcm.encrypt(nonce[12:], plaintext, aad)

    def open(self, sealed: bytes, aad: bytes) -> bytes:
        """What was sealed with the same `aad`; raises `errors.TamperedData` for anything else."""
        if len(sealed) < OVERHEAD:
            raise errors.TamperedData(detail="shorter than any sealed value")
        gcm = self._known(sealed[:12])
        try:
            return gcm.decrypt(sealed[12:NONCE_BYTES], sealed[NONCE_BYTES:], aad)
        except InvalidTag:
            raise errors.TamperedData(detail="authentication tag does not match") from None

    def _current(self) -> tuple[bytes, AESGCM]:
        with self._lock:
            if self._sealing is None or self._left == 0:
                self._prefix = os.urandom(12)
                self._sealing = self._derive(self._prefix)
                self._left = _SEALS_PER_SUBKEY
            self._left -= 1
            return self._prefix, self._sealing

    def _known(self, prefix: bytes) -> AESGCM:
        with self._lock:
            gcm = self._opening.get(prefix)
            if gcm is not None:
                self._opening.move_to_end(prefix)
                return gcm
            gcm = self._opening[prefix] = self._derive(prefix)
            if len(self._opening) > _SUBKEYS_KEPT:
                self._opening.popitem(last=False)
            return gcm

    def _derive(self, prefix: bytes) -> AESGCM:
        # Steps 3 to 5: NIST SP 800-108r1 in counter mode with CMAC, both blocks in one call.
        blocks = b"".join(
            (int.from_bytes(b"\0" + bytes([count]) + b"X\0" + prefix, "big") ^ self._k1).to_bytes(16, "big")
            for count in (1, 2)
        )
        return AESGCM(self._encrypt(blocks))

    def _encrypt(self, blocks: bytes) -> bytes:
        return self._cipher.encryptor().update(blocks)


class Blocks:
    """Eight bytes at a time, sealed into one block of AES-256: short, always the same for the same eight bytes, and
    nothing that somebody else made opens, but with a chance of one in 2**64 for each try.

    The other eight bytes of the block are zeros, which whoever opens it looks for ("encode then encipher", Bellare and
    Rogaway 2000). It does not hide that two blocks are the same: for values of which each is sealed once.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305  single blocks
        self._seal = cipher.encryptor()
        self._open = cipher.decryptor()

    def __repr__(self) -> str:
        return "Blocks(…)"

    def seal(self, eight: bytes) -> bytes:
        """Sixteen bytes that stand for `eight`."""
        if len(eight) != _HALF:
            raise ValueError(f"{_HALF} bytes are sealed at a time")
        return self._seal.update(eight + bytes(_HALF))

    def open(self, sealed: bytes) -> bytes | None:
        """The eight bytes that `sealed` stands for; None when it was not sealed under this key."""
        if len(sealed) != 2 * _HALF:
            return None
        opened = self._open.update(sealed)
        return opened[:_HALF] if equal(opened[_HALF:], bytes(_HALF)) else None


def hkdf(key: bytes, purpose: str, length: int = KEY_BYTES) -> bytes:
    """A key for one `purpose`, from which neither `key` nor any other purpose's can be computed (RFC 5869, SHA-256)."""
    info = b"smcp:" + purpose.encode()
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=info).derive(key)


def keyed_digest(key: bytes, *parts: str | bytes) -> bytes:
    """HMAC-SHA-256 (RFC 2104) over the length-prefixed `parts`: no two lists of parts share an encoding."""
    return hmac.digest(key, length_prefixed(*parts), hashlib.sha256)


def length_prefixed(*parts: str | bytes) -> bytes:
    """`parts` as one byte string that can be read in one way only; text as UTF-8."""
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join([b"%d:%b" % (len(part), part) for part in encoded])


def equal(a: str | bytes, b: str | bytes) -> bool:
    """Whether `a` and `b` are the same, in a time that does not tell where they differ."""
    left = a.encode() if isinstance(a, str) else a
    right = b.encode() if isinstance(b, str) else b
    return hmac.compare_digest(left, right)


class _Wrapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """File `wrapping.json`: the wrapping keys by generation; two only while a rotation is under way."""

    format: int
    keys: dict[str, str]

    def __repr__(self) -> str:
        return "_Wrapping(…)"


class _Ring(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """File `ring.json`: the tenants' data keys, sealed under the wrapping key of `generation`."""

    format: int
    generation: str
    tenants: dict[str, str]

    def __repr__(self) -> str:
        return "_Ring(…)"


class KeyRing:
    """The data keys of all tenants. Safe for use from several threads; writes are durable when they return."""

    def __init__(self, directory: Path, root: bytes) -> None:
        """Use `open`."""
        self._directory = directory
        self._root = Xaes(root)
        self._lock = threading.Lock()
        self._generation = ""
        self._wrapping = Xaes(bytes(KEY_BYTES))
        self._keys: dict[ids.TenantId, bytes] = {}

    def __repr__(self) -> str:
        return f"KeyRing({str(self._directory)!r}, {len(self._keys)} keys)"

    @classmethod
    def open(cls, directory: Path, root_key_file: Path) -> "KeyRing":
        """The ring in `directory`; made, with its root key, where there is none yet.

        Raises `errors.BadSettings` when the root key is missing, readable by others or not this ring's, and
        `errors.TamperedData` when the ring does not open. Never makes a second root key beside an existing ring.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        exists = (directory / "ring.json").exists()
        ring = cls(directory, _root_key(root_key_file, may_create=not exists))
        if exists:
            ring._load()
        else:
            ring._rotate({}, shred=False)
        return ring

    def tenants(self) -> list[ids.TenantId]:
        """Who has a data key, in order."""
        return sorted(self._keys)

    def has(self, tenant: ids.TenantId) -> bool:
        """Whether `tenant` has a data key."""
        return tenant in self._keys

    def create(self, tenant: ids.TenantId) -> None:
        """Make the data key of `tenant`; does nothing when there is one."""
        with self._lock:
            if tenant not in self._keys:
                keys = {**self._keys, tenant: secrets.token_bytes(KEY_BYTES)}
                self._write_ring(keys, self._generation, self._wrapping)
                self._keys = keys

    def data_key(self, tenant: ids.TenantId, purpose: str) -> bytes:
        """The tenant's key for `purpose`. Raises `errors.NotFound` when the tenant has no data key (any more)."""
        key = self._keys.get(tenant)
        if key is None:
            raise errors.NotFound(detail=f"no data key for tenant {tenant}")
        return hkdf(key, purpose)

    def destroy(self, tenant: ids.TenantId) -> None:
        """Forget the data key of `tenant` for ever, together with the key that wrapped it."""
        with self._lock:
            if tenant in self._keys:
                self._rotate({name: key for name, key in self._keys.items() if name != tenant}, shred=True)

    def _rotate(self, keys: dict[ids.TenantId, bytes], *, shred: bool) -> None:
        """Give `keys` a new wrapping key. After a crash between the steps the ring opens: it names its generation."""
        generation, secret = secrets.token_hex(8), secrets.token_bytes(KEY_BYTES)
        sealed = _text(self._root.seal(secret, length_prefixed("smcp wrapping key", generation)))
        path = self._directory / "wrapping.json"
        old = _read(path, _Wrapping).keys if path.exists() else {}
        _replace(path, msgspec.json.encode(_Wrapping(1, {**old, generation: sealed})), shred=shred)
        wrapping = Xaes(secret)
        self._write_ring(keys, generation, wrapping, shred=shred)
        _replace(path, msgspec.json.encode(_Wrapping(1, {generation: sealed})), shred=shred)
        self._generation, self._wrapping, self._keys = generation, wrapping, keys

    def _write_ring(
        self, keys: dict[ids.TenantId, bytes], generation: str, wrapping: Xaes, *, shred: bool = False
    ) -> None:
        sealed = {
            str(name): _text(wrapping.seal(key, length_prefixed("smcp data key", generation, name)))
            for name, key in keys.items()
        }
        _replace(self._directory / "ring.json", msgspec.json.encode(_Ring(1, generation, sealed)), shred=shred)

    def _load(self) -> None:
        ring = _read(self._directory / "ring.json", _Ring)
        wrapped = _read(self._directory / "wrapping.json", _Wrapping).keys
        if ring.generation not in wrapped:
            raise errors.TamperedData(detail="ring.json is older than wrapping.json: a copy from before a destruction")
        try:
            secret = self._root.open(
                _bytes(wrapped[ring.generation]), length_prefixed("smcp wrapping key", ring.generation)
            )
        except errors.TamperedData:
            raise errors.BadSettings(
                f"The root key is not the one that the key ring in {self._directory} was made with. "
                "Put the right file back (platform.root_key_file)."
            ) from None
        self._generation, self._wrapping = ring.generation, Xaes(secret)
        self._keys = {
            ids.TenantId(name): self._wrapping.open(
                _bytes(sealed), length_prefixed("smcp data key", ring.generation, name)
            )
            for name, sealed in ring.tenants.items()
        }
        if len(wrapped) > 1:  # a rotation was cut short
            _replace(
                self._directory / "wrapping.json",
                msgspec.json.encode(_Wrapping(1, {ring.generation: wrapped[ring.generation]})),
            )


def _root_key(path: Path, *, may_create: bool) -> bytes:
    if not path.exists():
        if not may_create:
            raise errors.BadSettings(
                f"The root key file {path} is missing, but there is a key ring that needs it. "
                "Put it back from your copy; without it the stored data can't be read."
            )
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(path, secrets.token_hex(KEY_BYTES).encode() + b"\n")
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            text = file.read(4096)
    except OSError as error:
        raise errors.BadSettings(f"The root key file {path} can't be read: {error.strerror}.") from error
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
        raise errors.BadSettings(
            f"The root key file {path} must be a plain file that only its owner can read. Run: chmod 600 {path}"
        )
    try:
        key = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise errors.BadSettings(f"The root key file {path} does not hold {2 * KEY_BYTES} hexadecimal digits.")
    return key


def _replace(path: Path, data: bytes, *, shred: bool = False) -> None:
    """Put `data` at `path`, atomically, durably, mode 0600; `shred` overwrites what stood there with zeros."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with contextlib.ExitStack() as stack:
            old = None
            if shred and path.exists():
                old = stack.enter_context(path.open("r+b"))
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as new:
                new.write(data)
                new.flush()
                os.fsync(new.fileno())
            temporary.replace(path)
            sync_directory(path.parent)
            if old is not None:
                old.write(bytes(os.fstat(old.fileno()).st_size))
                old.flush()
                os.fsync(old.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise errors.Unavailable(detail=f"{path}: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """Make the names in the directory `path` durable."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _read(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise errors.Unavailable(detail=f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise errors.TamperedData(detail=f"{path} is not a file of the key ring") from None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise errors.TamperedData(detail="not base64") from None
