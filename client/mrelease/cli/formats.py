"""Results as data for ``-o json`` and ``-o yaml``: valid proto3 JSON of ``mrelease.v1``.

Names are the contract's, in snake_case; enums are their full names (``OUTCOME_RELEASED``), durations ``"0.013s"``, times RFC 3339 in UTC.
int64 values are numbers, not strings, and what is absent is ``null``: both are accepted where proto3 JSON is read, and every key is there.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from mrelease import errors


def to_data(value: Any) -> Any:
    """A model of the SDK as dicts, lists, strings and numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_data(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [to_data(entry) for entry in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, IntEnum):
        # A number of a newer agent has no name in proto3 JSON.
        return f"{snake(type(value).__name__)}_{value.name}" if value.name in type(value).__members__ else int(value)
    if isinstance(value, timedelta):
        duration = Duration()
        duration.FromTimedelta(value)
        return duration.ToJsonString()
    if isinstance(value, datetime):
        timestamp = Timestamp()
        timestamp.FromDatetime(value)
        return timestamp.ToJsonString()
    return dict(value) if isinstance(value, Mapping) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def error_data(error: errors.MreleaseError) -> dict[str, Any]:
    """An error: the same keys for each."""
    if not isinstance(error, errors.AgentError):
        nothing: dict[str, Any] = {"code": None, "reason": "", "remedy": "", "metadata": {}, "retry_after": None}
        if isinstance(error, errors.ResolutionError):
            nothing |= {"reason": snake(type(error).__name__), "remedy": error.remedy}
            return nothing | {"message": error.message, "nothing_signalled": True}
        return nothing | {"message": str(error), "nothing_signalled": True}
    return {
        "code": error.code.name,
        "reason": error.reason,
        "remedy": error.remedy,
        "metadata": error.metadata,
        "retry_after": to_data(error.retry_after),
        "message": error.message,
        "nothing_signalled": error.nothing_signalled,
    }


def dump(data: Any, output: str) -> str:
    """Data as the text of ``json`` or ``yaml``."""
    if output == "json":
        return json.dumps(data, indent=2)
    import yaml

    # ASCII with escapes, as JSON: names of processes may be anything.
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=False).rstrip("\n")


def dump_one(data: Any, output: str) -> str:
    """One of many: a line of ``json``, or a document of ``yaml``."""
    return json.dumps(data) if output == "json" else f"---\n{dump(data, output)}"


def snake(name: str) -> str:
    """``ProcessNotFound`` as ``PROCESS_NOT_FOUND``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()
