"""Logs: one event, one line on standard error, as text for people or as JSON.

Names of processes, reasons and exception texts are chosen by others: no character of theirs may begin a new line or drive a terminal.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import time
from typing import Any, Final, Literal, TextIO

from mrelease_agent.telemetry.background import BackgroundStream

#: Attribute of a LogRecord that carries the fields of ``event``.
_FIELDS: Final = "mrelease_fields"
_OWN_KEYS: Final = frozenset({"ts", "level", "msg", "logger", "exception"})
_BARE: Final = re.compile(r"[A-Za-z0-9_./:@%+,-]+", re.ASCII)


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


def _report_lost(lines: int) -> None:
    event(logging.getLogger("mrelease"), logging.WARNING, "log lines lost", lines=lines, why="standard error was not read")


def event(logger: logging.Logger, level: int, message: str, /, *, exc_info: bool | BaseException = False, **fields: object) -> None:
    """Log one event: a fixed ``message`` and its ``fields``. A field whose value is None is left out."""
    if logger.isEnabledFor(level):
        logger.log(level, "%s", message, exc_info=exc_info, extra={_FIELDS: fields})


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
