"""A tool's schemas (JSON Schema 2020-12, or the draft that `$schema` names), compiled once and applied within bounds.

Nothing is ever fetched: the engine is offline, and a reference that leaves the schema makes it one that is not
applied. `weight` bounds what a schema may cost; here the product of that and of a value's size is.
"""

from typing import Any, Final

import jsonschema_rs

from smcp.kernel import errors, jsonrpc
from smcp.protocol.validate import weight

_STEPS: Final = 2_000_000
"""Applied subschemas for one value at most: some 20 ns each."""
_CHARACTERS: Final = 1_000_000
"""States of patterns times bytes of the value at most: some 40 ns each when a pattern is at its worst."""
_COPIED: Final = 16 * 1024 * 1024
"""Bytes of the value times subschemas at most where the place of an error is looked for: what the engine says of each
alternative that does not fit has a copy of the value in it."""
_TEXT: Final = 300
_MASK: Final = "the value"
"""Stands for values in errors: they are the caller's, and may be long."""
_PATTERNS: Final = jsonschema_rs.RegexOptions(size_limit=1 << 20, dfa_size_limit=1 << 21)
"""The engine whose time is linear in the text: no pattern makes it go back (ReDoS)."""


class Schema:
    """One compiled schema."""

    __slots__ = ("_validator", "skipped", "weight")

    def __init__(self, raw: bytes) -> None:
        """Raises `weight.UnfitError`."""
        if len(raw) > weight.MAX_BYTES:
            raise weight.UnfitError(f"it has more than {weight.MAX_BYTES} bytes")
        try:
            tree = jsonrpc.decode(raw)
        except errors.ParseError:
            raise weight.UnfitError("it is not JSON") from None
        table = jsonrpc.obj(tree)
        if table is None:
            raise weight.UnfitError("it is not an object")
        self.weight = weight.measure(table)
        self.skipped = 0
        """Values that were too large to be looked at."""
        try:
            self._validator = jsonschema_rs.validator_for(
                table, pattern_options=_PATTERNS, validate_formats=False, offline=True, mask=_MASK
            )
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            raise weight.UnfitError(f"it does not compile: {str(error).partition(chr(10))[0][:_TEXT]}") from None

    def wrong(self, value: Any, raw: bytes) -> str:
        """What is wrong with `value`, with its place as a JSON Pointer; empty when it fits.

        `raw` is what `value` was read from, or something that contains it: its size stands for the value's.
        """
        if not self._bearable(raw):
            self.skipped += 1
            return ""
        if self._validator.is_valid(value):
            return ""
        if self.weight.recursive or len(raw) * self.weight.steps > _COPIED:
            # Finding the place means trying everything again, and what is known of a place is not remembered there;
            # and a text of 1 MB that is none of 5,000 constants would take gigabytes.
            return ": does not fit the schema"
        try:
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            return f"{pointer(error.instance_path)}: {error.message.partition(chr(10))[0][:_TEXT]}"
        return ""

    def _bearable(self, raw: bytes) -> bool:
        if len(raw) * self.weight.pattern > _CHARACTERS:
            return False
        # Two bytes for each value are the least; only where these would be too many they are counted.
        if len(raw) * self.weight.steps <= 2 * _STEPS:
            return True
        return (1 + sum(map(raw.count, (b",", b"[", b"{")))) * self.weight.steps <= _STEPS


def pointer(path: "list[str | int]") -> str:
    """A path as a JSON Pointer (RFC 6901), of bounded length."""
    return "".join("/" + str(part)[:64].replace("~", "~0").replace("/", "~1") for part in path[:32])
