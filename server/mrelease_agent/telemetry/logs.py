"""Logs: one event, one line on standard error, as text for people or as JSON.

Names of processes, reasons and exception texts are chosen by others: no character of theirs may begin a new line or drive a terminal.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import math
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TextIO

from mrelease_agent.telemetry import trace_context
from mrelease_agent.telemetry.background import BackgroundStream

#: Attribute of a LogRecord that carries the fields of ``event``.
_FIELDS: Final = "mrelease_fields"
_OWN_KEYS: Final = frozenset({"ts", "level", "msg", "logger", "exception"})
_BARE: Final = re.compile(r"[A-Za-z0-9_./:@%+,-]+", re.ASCII)
#: Seconds that an event of event_soon() may wait.
_SOON: Final = 0.02
#: What waits: time of the event, logger, level, message, what makes the fields, and those of its trace.
_waiting: deque[tuple[float, logging.Logger, int, str, Callable[[], Mapping[str, object]], Mapping[str, str]]] = deque()


def setup(format: Literal["text", "json"], level: str, stream: TextIO | None = None) -> None:  # noqa: A002 - named as in the configuration
    """Send every logger's events of at least ``level`` (debug, info, warning, error) to ``stream``.

    Without ``stream``: to standard error, where a reader that does not keep up loses lines instead of stopping the agent.
    """
    handler: logging.Handler = _Handler(BackgroundStream(sys.stderr, _report_lost) if stream is None else stream)
    handler.setFormatter(_Json() if format == "json" else _Text())
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, _Handler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # After the stream has asked for the same: what waits here is written before the stream is closed.
    atexit.unregister(write_waiting)
    atexit.register(write_waiting)


def _report_lost(lines: int) -> None:
    event(logging.getLogger("mrelease"), logging.WARNING, "log lines lost", lines=lines, why="standard error was not read")


def event(logger: logging.Logger, level: int, message: str, /, *, exc_info: bool | BaseException = False, **fields: object) -> None:
    """Log one event: a fixed ``message`` and its ``fields``. A field whose value is None is left out.

    In a call that belongs to a trace it has ``trace_id`` and ``span_id``, too.
    """
    if logger.isEnabledFor(level):
        write_waiting()
        logger.log(level, "%s", message, exc_info=exc_info, extra={_FIELDS: {**fields, **trace_context.fields()}})


def event_soon(logger: logging.Logger, level: int, message: str, fields: Callable[[], Mapping[str, object]], /) -> None:
    """Log one event a moment later, with the time that it is now: to make a line of it takes longer than an answer should wait for.

    On an event loop, which calls ``fields`` then. The order of events stays as it was, and what waits when Python ends is written.
    """
    if logger.isEnabledFor(level):
        if not _waiting:
            asyncio.get_running_loop().call_later(_SOON, write_waiting)
        _waiting.append((time.time(), logger, level, message, fields, trace_context.fields()))


def write_waiting() -> None:
    """Write what event_soon() was told."""
    while _waiting:
        try:
            created, logger, level, message, fields, trace = _waiting.popleft()
        except IndexError:  # another thread was faster
            return
        record = logger.makeRecord(logger.name, level, "", 0, "%s", (message,), None, extra={_FIELDS: {**fields(), **trace}})
        record.created = created
        logger.handle(record)


class _Handler(logging.StreamHandler):  # type: ignore[type-arg] # it takes none before Python 3.11
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Drop the line: a full disk or a closed pipe must not stop a release, and there is nowhere to say so."""


class _Formatter(logging.Formatter):
    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        given: dict[str, object] = getattr(record, _FIELDS, {})
        return {name + "_" * (name in _OWN_KEYS): value for name, value in given.items() if value is not None}

    def trace(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""


class _Json(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {"ts": _timestamp(record), "level": record.levelname.lower(), "msg": record.getMessage()}
        if record.name != "root":
            line["logger"] = record.name
        line.update((name, _plain(value)) for name, value in self.fields(record).items())
        if trace := self.trace(record):
            line["exception"] = trace
        # Escapes everything outside ASCII: no collector has to agree with us on what ends a line.
        return json.dumps(line, ensure_ascii=True, default=str)


class _Text(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        parts = [_timestamp(record), f"{record.levelname:<7}", _escape(record.getMessage())]
        parts += [f"{name}={_word(value)}" for name, value in self.fields(record).items()]
        # Indented, so that no line of an exception's text can pass for an event.
        trace = "".join(f"\n    {_escape(line)}" for line in self.trace(record).splitlines())
        return " ".join(parts) + trace


def _timestamp(record: logging.LogRecord) -> str:
    """Time of the event, RFC 3339 in UTC with milliseconds."""
    whole = math.floor(record.created)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((record.created - whole) * 1000):03d}Z"


def _plain(value: object) -> Any:
    """Make a value one that JSON has: JSON has no NaN and no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _word(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if _BARE.fullmatch(text):
        return text
    return '"' + _escape(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _escape(text: str) -> str:
    """Escape what cannot be printed: control characters, line separators, direction overrides, lone surrogates."""
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
