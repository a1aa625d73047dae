"""What may be a namespace, a key, a value, a list of Workers KV: Cloudflare's limits, and the cursors of lists."""

import base64
import binascii
import re
from typing import Final

import msgspec

from smcp.kernel import crypto, errors, redact

MAX_KEY: Final = 512
"""Bytes of a key in UTF-8."""
MAX_VALUE: Final = 25 * 1024 * 1024
MAX_METADATA: Final = 1024
"""Bytes of the metadata's JSON text."""
MAX_LIST: Final = 1000
LEAST_S: Final = 60
"""Seconds from now on before which no key may end."""
CURSOR: Final = "stores.namespaces.cursor"
"""What a tenant's key for cursors is derived for."""

_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)


def name(text: str) -> str:
    """The namespace's name in `text`. Raises `errors.BadName`."""
    if _NAME.fullmatch(text) is None:
        raise errors.BadName(
            "A KV namespace's name is a letter or digit, then up to 63 letters, digits, hyphens and underscores."
        )
    if redact.text(text) != text:
        raise errors.BadName("What stands where the namespace's name belongs looks like a credential.")
    return text


def checked(key: str) -> str:
    """`key`, which can be one. Raises `errors.InvalidParams`."""
    if key in ("", ".", ".."):
        raise errors.InvalidParams("A key is not empty, and neither '.' nor '..'.")
    encoded(key)
    return key


def encoded(text: str) -> bytes:
    """A key, or the beginning of some, in UTF-8. Raises `errors.InvalidParams`."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise errors.InvalidParams("A key is Unicode text.") from None
    if len(data) > MAX_KEY:
        raise errors.InvalidParams(f"A key has at most {MAX_KEY} bytes in UTF-8; this one has {len(data)}.")
    return data


def check_metadata(metadata: str | None) -> None:
    """Raises `errors.TooLarge` and `errors.InvalidParams`."""
    if metadata is None:
        return
    size = len(metadata.encode("utf-8", "surrogatepass"))
    if size > MAX_METADATA:
        raise errors.TooLarge(f"Metadata has at most {MAX_METADATA} bytes; this has {size}.")
    if _CONTROL.search(metadata):
        raise errors.InvalidParams("Metadata is JSON on one line.")
    try:
        msgspec.json.decode(metadata)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        raise errors.InvalidParams("Metadata is JSON.") from None


def check_expires(expires: int | None, now: float) -> None:
    """Raises `errors.InvalidParams` for an end that is too near. `now` is rounded down, as whoever chose it may."""
    if expires is not None and not int(now) + LEAST_S <= expires < 2**53:
        raise errors.InvalidParams(f"A key ends at least {LEAST_S} seconds from now.")


class Cursors:
    """Where a list goes on, sealed, so that it says nothing and fits its own tenant, namespace and prefix only."""

    def __init__(self, key: bytes, namespace: str, prefix: str) -> None:
        """`key`: the tenant's, for `CURSOR`."""
        self._seal = crypto.Xaes(key)
        self._bound = crypto.length_prefixed(namespace, prefix)

    def sealed(self, last: str) -> str:
        """The cursor behind the key `last`."""
        return base64.urlsafe_b64encode(self._seal.seal(last.encode(), self._bound)).rstrip(b"=").decode("ascii")

    def opened(self, cursor: str) -> str:
        """The key that it stands behind. Raises `errors.InvalidParams`."""
        try:
            data = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), b"-_", validate=True)
            return self._seal.open(data, self._bound).decode()
        except (UnicodeError, binascii.Error, errors.TamperedData):
            raise errors.InvalidParams("This cursor is not one of this list. Begin without a cursor.") from None
