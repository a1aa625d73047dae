"""Structured logs: one line each, redacted last of all.

A line that can't be written (a full disk, a reader that has gone) is lost, and is nobody's error: what a request was
about goes on as it would have. What must not be lost is in the audit trail, which refuses instead.
"""

import contextlib
import logging
import sys
from typing import Any, Final, TextIO, cast

import msgspec
import structlog

from smcp.kernel import redact, settings

Logger = structlog.typing.FilteringBoundLogger
_MULTILINE: Final = frozenset({"exception", "stack"})
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def logger(log: settings.Log, stream: TextIO | None = None) -> Logger:
    """A logger of its own, for `stream` (default: stderr), that touches nothing global."""
    out = stream or sys.stderr
    return structlog.wrap_logger(
        structlog.WriteLogger(_forgiving(out)),
        processors=[*_processors(), _renderer(log, out)],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[log.level]),
    )


def configure(log: settings.Log, stream: TextIO | None = None) -> None:
    """Make this the process's logging: for structlog's default loggers and for libraries that use `logging`.

    Called once, by the process that serves; never by a library or a test of one room.
    """
    out = stream or sys.stderr
    structlog.configure(
        processors=[*_processors(), _renderer(log, out)],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[log.level]),
        logger_factory=structlog.WriteLoggerFactory(_forgiving(out)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(_forgiving(out))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_processors(),
                _renderer(log, out),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries are noisy below warning; their debug output is also where headers and bodies would be printed.
    root.setLevel(max(_LEVELS[log.level], logging.WARNING))


def redacted(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """The processor that every line passes last: nothing secret and no control character leaves it."""
    safe: dict[str, Any] = {}
    for name, item in event.items():
        if name in _MULTILINE and isinstance(item, str):
            safe[name] = redact.text(item, lines=True)
        elif name == "event":
            safe[name] = redact.text(str(item))
        else:
            safe.update(redact.mapping({name: item}))
    return safe


class _Forgiving:
    """A stream on which nothing fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _forgiving(stream: TextIO) -> TextIO:
    return cast("TextIO", _Forgiving(stream))  # all that loggers use of one


def _processors() -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        # Text, without local variables: those are where secrets live.
        structlog.processors.format_exc_info,
        redacted,
    ]


def _renderer(log: settings.Log, stream: TextIO) -> structlog.typing.Processor:
    if log.format == "json":
        return structlog.processors.JSONRenderer(serializer=_json)
    return structlog.dev.ConsoleRenderer(colors=stream.isatty(), timestamp_key="time", pad_event_to=36)


def _json(event: Any, **_options: Any) -> str:
    return msgspec.json.encode(event).decode()
