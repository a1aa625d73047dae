"""Secrets that hosted code never holds: it has an unguessable stand-in, and the platform writes the value over it in
the header fields of a request that may have it.

| where | what happens to a stand-in |
|---|---|
| in a header field's value, wherever in it | replaced |
| in `Authorization: Basic`, inside of the base64 | replaced |
| in a URL, a body, the name of a field | stays: those are written into logs, kept, and led elsewhere |

In the answer's header fields the value becomes the stand-in again. Bodies are not looked at: a host that repeats what
it is sent tells the code, and so is nobody to send a secret to.
"""

import base64
import binascii
import contextlib
import secrets
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from smcp.kernel import errors
from smcp.sandbox.egress import rules
from smcp.upstream import fields, places

PREFIX: Final = "smcp-secret-"
SHORTEST: Final = 8
"""Characters that a value has at least: a shorter one would be found in answers that do not hold it."""
_BASIC: Final = b"basic "

Fields = Sequence[tuple[bytes, bytes]]


class Secret(NamedTuple):
    """A secret that is to be written into requests."""

    name: str
    value: str
    hosts: tuple[rules.Rule, ...] = ()
    """Whom it is for; none named is every host that there are requests to."""

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return f"Secret({self.name!r})"


class Put(NamedTuple):
    """Fields as they are sent."""

    fields: Fields
    secret: bool
    """There is a secret among them."""
    encoded: Fields
    """What of them shows a secret in another form, and what that was before."""


class Substitutes:
    """The secrets of one server's generation."""

    def __init__(self, given: Iterable[Secret]) -> None:
        """Raises `errors.SecretMissing` for one that no header field can have."""
        self.placeholders: dict[str, str] = {}
        """What the code gets in place of each, by name."""
        self._values: list[tuple[bytes, bytes, tuple[rules.Rule, ...]]] = []
        for one in given:
            stand_in = self.placeholders[one.name] = PREFIX + secrets.token_hex(16)
            self._values.append((stand_in.encode(), _fitting(one), one.hosts))
        # The longest first: what holds another one goes as a whole.
        self._hidden = sorted(self._forms(), key=lambda form: -len(form[0]))

    def __repr__(self) -> str:
        return f"Substitutes({', '.join(self.placeholders)})"

    def put(self, place: places.Place, sent: Fields) -> Put:
        """`sent` to `place` with values in place of stand-ins; names are in lower case."""
        pairs = [
            (stand_in, value)
            for stand_in, value, hosts in self._values
            if not hosts or any(rule.means(place.host, place.port) for rule in hosts)
        ]
        encoded: list[tuple[bytes, bytes]] = []
        made = [(name, _put(name, value, pairs, encoded)) for name, value in sent]
        return Put(made, made != list(sent), encoded)

    def hide(self, answered: Fields, encoded: Fields) -> Fields:
        """`answered` with stand-ins in place of values. `encoded` is of what was sent."""
        forms = (*encoded, *self._hidden)
        return [(name, _replaced(value, forms)) for name, value in answered]

    def _forms(self) -> list[tuple[bytes, bytes]]:
        """How a value may come back, and the stand-in for it."""
        found: dict[bytes, bytes] = {}
        for stand_in, value, _ in self._values:
            found[value] = stand_in
            found.setdefault(urllib.parse.quote(value, safe="").encode(), stand_in)
        return list(found.items())


def _fitting(one: Secret) -> bytes:
    """Its value, as a field has it. Raises `errors.SecretMissing`."""
    value = fields.value("", one.value)
    if value is None or len(value) < SHORTEST:
        raise errors.SecretMissing(
            f"The secret {one.name} is substituted in header fields, and its value can't be in one: it has to be"
            f" visible ASCII characters on one line, at least {SHORTEST} of them. Set it again, or let the manifest"
            " want a variable."
        )
    return value.encode()


def _put(name: bytes, value: bytes, pairs: Sequence[tuple[bytes, bytes]], encoded: list[tuple[bytes, bytes]]) -> bytes:
    token = value[len(_BASIC) :].strip() if name == b"authorization" and value.lower().startswith(_BASIC) else b""
    with contextlib.suppress(binascii.Error):
        plain = base64.b64decode(token, validate=True)
        made = _replaced(plain, pairs)
        if made != plain:
            encoded.append((base64.b64encode(made), token))
            return value[: value.rindex(token)] + base64.b64encode(made)
    return _replaced(value, pairs)


def _replaced(text: bytes, pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    for old, new in pairs:
        if old in text:
            text = text.replace(old, new)
    return text
