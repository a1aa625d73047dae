"""Secrets on their way into a running copy, and kept out of what it says about itself.

A driver around the driver: it asks for a server's secrets when a copy starts (never per call, so a warm call costs
nothing and a copy that starts gets what was set last), adds them to what the copy is given, and replaces their values
by `[secret NAME]` in what the copy writes to its log.

That is a courtesy against accidents, not a wall: whoever wrote the server can write a secret backwards. A value is
known as it is, without the white space around it, line by line, and as JSON, Python, a URL or base64 write it. Each
line is looked at by itself, so of a value that a server itself spreads over lines in another way parts may stay. What
a tool answers is the tenant's own and passes untouched.
"""

import asyncio
import base64
import time
import urllib.parse
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import msgspec

from smcp.kernel import errors, ids
from smcp.runtime import driver
from smcp.sandbox import walls

DIRECTORY: Final = "/run/secrets"
"""Where secrets that are files stand, as seen inside."""

_SHORTEST: Final = 6
"""Bytes below which a value is not looked for: it would be found everywhere."""
_PIECE: Final = 500
"""A long line of a value is looked for in pieces of so many characters: logs cut lines, and know no longer ones."""
_CUT: Final = 8000
_IGNORED: Final = "[smcp] ignored"
_BUDGET_S: Final = 0.05
"""Processor time for looking through the lines of one tenant in one second; all tenants share this thread."""
_MANY: Final = 4096
"""Bytes of values from which on finding all their forms is no work for the loop's thread."""
_OWN_LINES: Final = 100
_OWN_LENGTH: Final = 400
_LEFT_OUT: Final = "[smcp] a line was left out: there is too much to look through for secrets"


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """A secret that a copy gets."""

    name: str
    value: bytes
    file: bool = False

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return f"Given({self.name!r}, file={self.file})"


Find = Callable[[driver.Spec], Awaitable[Sequence[Given]]]
"""The secrets for a copy that starts now. Raises `errors.SecretMissing`."""


class Hiding(driver.Driver):
    """Starts copies with their secrets."""

    def __init__(self, inner: driver.Driver, find: Find) -> None:
        self._inner = inner
        self._find = find
        self._budgets: weakref.WeakValueDictionary[ids.TenantId, Budget] = weakref.WeakValueDictionary()

    async def start(self, spec: driver.Spec, *, modern: bool, lines: driver.Lines) -> driver.Instance:
        spec, lines, mask = await self.prepared(spec, lines)
        instance = await self._inner.start(spec, modern=modern, lines=lines)
        if mask is not None:
            instance.hide = mask.text
        return instance

    async def prepared(self, spec: driver.Spec, lines: driver.Lines) -> "tuple[driver.Spec, driver.Lines, Mask | None]":
        """What starts, with its secrets; and where its lines go, without them. Raises `errors.SecretMissing`."""
        given = await self._find(spec)
        if not given:
            return spec, lines, None
        budget = self._budgets.get(spec.tenant)
        if budget is None:
            budget = self._budgets[spec.tenant] = Budget()
        if sum(len(one.value) for one in given) > _MANY:
            mask = await asyncio.to_thread(Mask, given, budget)
        else:
            mask = Mask(given, budget)
        return _with(spec, given), lambda text: lines(mask.line(text)), mask

    async def close(self) -> None:
        await self._inner.close()


def _with(spec: driver.Spec, given: Sequence[Given]) -> driver.Spec:
    env = dict(spec.env)
    try:
        env.update((one.name, one.value.decode("utf-8")) for one in given if not one.file)
    except UnicodeDecodeError:
        raise errors.SecretMissing("A secret that should be a variable is not text. Set it again.") from None
    files = tuple(walls.File(f"{DIRECTORY}/{one.name}", one.value, 0o400) for one in given if one.file)
    return msgspec.structs.replace(spec, env=tuple(env.items()), files=(*spec.files, *files))


class Budget:
    """How long the lines of one tenant may be looked through, a second at a time."""

    __slots__ = ("__weakref__", "_own", "_second", "_spent")

    def __init__(self) -> None:
        self._second = 0
        self._spent = 0.0
        self._own = 0

    def allows(self, text: str) -> bool:
        """Whether there is time for one more line. A few short ones about a copy's life always have it."""
        second = int(time.monotonic())
        if second != self._second:
            # What one dear line took beyond its second's share is taken from the seconds behind it.
            self._spent = max(0.0, self._spent - (second - self._second) * _BUDGET_S)
            self._second, self._own = second, 0
        if self._spent < _BUDGET_S:
            return True
        if not text.startswith("[smcp] ") or len(text) > _OWN_LENGTH:
            return False
        self._own += 1
        return self._own <= _OWN_LINES

    def spend(self, seconds: float) -> None:
        """Processor time that a line took."""
        self._spent += seconds


class Mask:
    """Replaces the values of some secrets in a text."""

    def __init__(self, given: Sequence[Given], budget: Budget | None = None) -> None:
        found: dict[str, str] = {}
        for one in given:
            for form in _forms(one.value):
                if len(form.encode("utf-8", "replace")) >= _SHORTEST:
                    found.setdefault(form, f"[secret {one.name}]")
        # The longest first: what holds another one goes as a whole.
        self._found = sorted(found.items(), key=lambda item: -len(item[0]))
        self._budget = budget or Budget()

    def __repr__(self) -> str:
        return f"Mask({len(self._found)} forms)"

    def line(self, text: str) -> str:
        """A line of a copy's log without secrets; a word of excuse instead, when looking takes too long."""
        if not self._budget.allows(text):
            return _LEFT_OUT
        began = time.thread_time()
        try:
            if len(text) >= _CUT or text.startswith(_IGNORED):
                text = self._without_beginning(text)
            return self.text(text)
        finally:
            self._budget.spend(time.thread_time() - began)

    def text(self, text: str) -> str:
        """`text` without secrets."""
        for form, stand_in in self._found:
            if form in text:
                text = text.replace(form, stand_in)
        return text

    def _without_beginning(self, text: str) -> str:
        """`text`, that was cut, without the beginning of a secret at its end."""
        whole = text.rstrip("\ufffd")  # half a character, decoded
        for form, stand_in in self._found:
            at = whole.find(form[:_SHORTEST], max(0, len(whole) - len(form) + 1))
            while at >= 0:
                if form.startswith(whole[at:]):
                    return whole[:at] + stand_in
                at = whole.find(form[:_SHORTEST], at + 1)
        return text


def _forms(value: bytes) -> Iterator[str]:
    """What to look for."""
    text = value.decode("utf-8", "replace")
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    for plain in {text, text.strip(), *(lines if len(lines) > 1 else ())}:
        # The frame of a key or certificate (RFC 7468) is no secret, and says what the line was.
        if not plain.strip("\ufffd") or (plain.startswith("-----") and "\n" not in plain):
            continue
        for form in (plain, _as_json(plain), repr(plain)[1:-1], urllib.parse.quote(plain, safe="")):
            yield from _pieces(form)
    for encoded in (base64.b64encode(value), base64.urlsafe_b64encode(value)):
        yield from _pieces(encoded.decode().rstrip("="))


def _as_json(text: str) -> str:
    return msgspec.json.encode(text)[1:-1].decode()


def _pieces(form: str) -> Iterator[str]:
    yield form
    if len(form) > 2 * _PIECE:
        for start in range(0, len(form), _PIECE):
            yield form[start : start + _PIECE]
