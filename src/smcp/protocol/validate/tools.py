"""The tools of a deployment as its clients know them, and whether values fit their schemas.

A server's tools may differ from those it had when it was deployed: it may add some while it runs, and another copy, on
another day, may read other choices from somewhere. A client calls what it was shown, so every list that passes by is
read, and arguments are refused only if no description of the tool that was seen takes them:

| what is known of a tool | arguments |
|---|---|
| one to four descriptions | refused when none of them takes them |
| more than that | not looked at any more: its schemas tell nothing |
| nothing | pass; the server answers |
| anything, behind `notifications/tools/list_changed` and before the next list | pass |
| a schema that is not applied (`weight`), or values that are too large for it | pass, and a line in the server's log |
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from smcp.kernel import errors, jsonrpc
from smcp.protocol.validate import schemas, weight

_DESCRIPTIONS: Final = 4
_TOOLS: Final = 4096
_BYTES: Final = 16 * 1024 * 1024
"""Schemas that are kept of one deployment."""
_LINES: Final = 50
"""Lines that one deployment's tools are worth in its log, while it is in memory."""


class Tool(msgspec.Struct, frozen=True):
    """What is looked at in a tool's description."""

    name: str
    inputs: msgspec.Raw = msgspec.field(name="inputSchema", default=msgspec.Raw())
    outputs: msgspec.Raw = msgspec.field(name="outputSchema", default=msgspec.Raw())


class _List(msgspec.Struct):
    tools: list[Tool]


_lists = msgspec.json.Decoder(_List)


class _Known:
    """One description, compiled when it is first needed."""

    __slots__ = ("_input", "_output", "inputs", "outputs")

    def __init__(self, inputs: bytes, outputs: bytes) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._input: schemas.Schema | None = None
        self._output: schemas.Schema | None = None

    def input(self) -> schemas.Schema | None:
        if self._input is None and self.inputs:
            self._input = schemas.Schema(self.inputs)
        return self._input

    def output(self) -> schemas.Schema | None:
        if self._output is None and self.outputs:
            self._output = schemas.Schema(self.outputs)
        return self._output


class Book:
    """The tools of one deployment, for all of its copies."""

    def __init__(self) -> None:
        self.edition = object()
        """Another one since a copy has told of a change, of whatever it lists or lets read."""
        self._known: dict[str, list[_Known]] = {}
        self._unfit: set[bytes] = set()
        """Schemas that are not applied."""
        self._bytes = 0
        self._last = 0
        self._unsettled = False
        self._noted = 0

    def seed(self, tools: Iterable[tuple[str, bytes, bytes]]) -> None:
        """What the tools were when the server was deployed: name, inputSchema, outputSchema."""
        if not self._known:
            for name, inputs, outputs in tools:
                self._learn(name, inputs, outputs)

    def listed(self, result: bytes | msgspec.Raw) -> None:
        """A list of tools has passed by."""
        mark = hash(bytes(result))
        self._unsettled = False
        if mark == self._last:
            return
        self._last = mark
        try:
            found = _lists.decode(result)
        except (msgspec.DecodeError, RecursionError):
            return
        for tool in found.tools:
            self._learn(tool.name, _plain(tool.inputs), _plain(tool.outputs))

    def knows(self, name: str) -> bool:
        """Was such a tool ever listed?"""
        return name in self._known

    def changed(self) -> None:
        """The server says that its tools are others now, or told them in a list that was not read."""
        self._unsettled = True

    def outdated(self) -> None:
        """A copy says that something which it lists, or lets read, is no longer what it was."""
        self.edition = object()

    def arguments(self, name: str, value: jsonrpc.Json, raw: bytes, note: Callable[[str], None]) -> str:
        """What is wrong with the arguments of a call, with its place as a JSON Pointer; empty when nothing is.

        `raw` contains what `value` was read from; `note` writes a line into the server's log.
        """
        known = self._known.get(name)
        if not known or self._unsettled:
            return ""
        return self._wrong(name, known, "inputSchema", value, raw, note)

    def promises(self, name: str) -> bool:
        """Has each description of the tool an outputSchema?"""
        known = self._known.get(name)
        return bool(known) and not self._unsettled and all(one.outputs for one in known)

    def structured(self, name: str, value: Any, raw: bytes, note: Callable[[str], None]) -> str:
        """As `arguments`, for what a tool answers."""
        known = self._known.get(name)
        if not known or not self.promises(name):
            return ""
        return self._wrong(name, known, "outputSchema", value, raw, note)

    def _wrong(
        self, name: str, known: list[_Known], which: str, value: Any, raw: bytes, note: Callable[[str], None]
    ) -> str:
        wrong = ""
        for one in reversed(known):
            text = one.inputs if which == "inputSchema" else one.outputs
            if text in self._unfit:
                return ""
            try:
                schema = one.input() if which == "inputSchema" else one.output()
            except weight.UnfitError as error:
                self._unfit.add(text)
                self._note(note, _unfit(which, name, error))
                return ""
            if schema is None:
                return ""
            before = schema.skipped
            found = schema.wrong(value, raw)
            if schema.skipped != before:
                if schema.skipped == 1:
                    self._note(
                        note, f"values too large for the {which} of tool {name[:128]!r} are not compared with it"
                    )
                return ""
            if not found:
                return ""
            # The newest description is the one that the caller most likely goes by.
            wrong = wrong or found
        return wrong

    def _note(self, note: Callable[[str], None], line: str) -> None:
        if self._noted < _LINES:
            self._noted += 1
            note(line)

    def _learn(self, name: str, inputs: bytes, outputs: bytes) -> None:
        # Servers that write out every member write null for a schema that they do not have.
        inputs, outputs = (b"" if one == b"null" else one for one in (inputs, outputs))
        known = self._known.get(name)
        if known is None:
            if len(self._known) >= _TOOLS:
                return
            known = self._known[name] = []
        elif not known:
            return
        for number, one in enumerate(known):
            if one.inputs == inputs and one.outputs == outputs:
                known.append(known.pop(number))
                return
        self._bytes += len(inputs) + len(outputs)
        if len(known) >= _DESCRIPTIONS or self._bytes > _BYTES:
            # Kept as a name without descriptions: nothing is refused for it.
            self._bytes -= sum(len(one.inputs) + len(one.outputs) for one in known) + len(inputs) + len(outputs)
            known.clear()
            return
        known.append(_Known(inputs, outputs))


def remarks(tools: Iterable[tuple[str, bytes, bytes]], most: int) -> list[str]:
    """Which schemas will not be applied, and why: up to `most` lines. Takes as long as compiling all of them."""
    found: list[str] = []
    for name, inputs, outputs in tools:
        known = _Known(*(b"" if one == b"null" else one for one in (inputs, outputs)))
        for which, compiled in (("inputSchema", known.input), ("outputSchema", known.output)):
            try:
                compiled()
            except weight.UnfitError as error:
                if len(found) == most:
                    return found
                found.append(_unfit(which, name, error))
    return found


def _unfit(which: str, name: str, error: weight.UnfitError) -> str:
    return f"the {which} of tool {name[:128]!r} is not applied: {error}"


def _plain(raw: msgspec.Raw) -> bytes:
    """The same bytes for the same schema, however it is written."""
    try:
        return jsonrpc.encode(jsonrpc.decode(raw)) if raw else b""
    except errors.ParseError:
        return b""
