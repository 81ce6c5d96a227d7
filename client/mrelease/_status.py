"""google.rpc.Status and its details, as they travel in the trailer ``grpc-status-details-bin``.

Both sides use it: the agent writes, the SDK reads. The messages are those of googleapis (google/rpc/status.proto, error_details.proto),
declared here in a pool of their own: googleapis-common-protos would be a third dependency of the SDK for four messages, and a second
declaration in the default pool would clash with it where a caller has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from mrelease.v1 import error_reason_pb2

#: Metadata key of the serialized google.rpc.Status.
TRAILER: Final = "grpc-status-details-bin"
#: ``ErrorInfo.domain`` of every error that an agent makes.
DOMAIN: Final = "mrelease.dev"

#: The longest Duration that there is, google/protobuf/duration.proto: some 10,000 years.
MOST_SECONDS: Final = 315_576_000_000

_PREFIX = "type.googleapis.com/google.rpc."


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """What a failed call says beside code and message.

    ``reason`` is the name of an ``ErrorReason`` without its prefix; ``metadata`` is what the reason names, with ``remedy``;
    ``retry_after`` in seconds (google.rpc.RetryInfo), None where a retry is not invited.
    """

    reason: str
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    retry_after: float | None = None
    domain: str = DOMAIN


def reason_name(reason: error_reason_pb2.ErrorReason.ValueType) -> str:
    """``ErrorInfo.reason`` for an enum value: its name without the prefix (AIP-193)."""
    return error_reason_pb2.ErrorReason.Name(reason).removeprefix("ERROR_REASON_")


def encode(code: grpc.StatusCode, message: str, details: ErrorDetails) -> bytes:
    """Serialize a google.rpc.Status with one ErrorInfo, RetryInfo where asked for, and BadRequest where a field is to blame."""
    status = _new("Status", code=code.value[0], message=message)
    packed = [_new("ErrorInfo", reason=details.reason, domain=details.domain, metadata=dict(details.metadata))]
    if details.retry_after is not None:
        whole = int(details.retry_after)
        delay = _new("Duration", seconds=whole, nanos=int((details.retry_after - whole) * 1e9))
        packed.append(_new("RetryInfo", retry_delay=delay))
    if code is grpc.StatusCode.INVALID_ARGUMENT and "field" in details.metadata:
        violation = _new("FieldViolation", field=details.metadata["field"], description=message)
        packed.append(_new("BadRequest", field_violations=[violation]))
    for part in packed:
        status.details.append(_new("Any", type_url=_PREFIX + part.DESCRIPTOR.name, value=part.SerializeToString()))
    return bytes(status.SerializeToString())


def decode(trailers: Sequence[tuple[str, str | bytes]] | None) -> ErrorDetails | None:
    """Read the details of a failed call; None where there are none, or none that make sense: a proxy may have made the status."""
    raw = next((value for key, value in trailers or () if key == TRAILER), None)
    if not isinstance(raw, bytes):
        return None
    try:
        status = _new("Status")
        status.ParseFromString(raw)
        found: dict[str, Any] = {}
        for part in status.details:
            name = part.type_url.removeprefix(_PREFIX)
            if name in ("ErrorInfo", "RetryInfo"):
                found[name] = _new(name)
                found[name].ParseFromString(part.value)
    except DecodeError:
        return None
    info, retry = found.get("ErrorInfo"), found.get("RetryInfo")
    if info is None:
        return None
    retry_after = None if retry is None else retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    if retry_after is not None and not 0 <= retry_after <= MOST_SECONDS:
        retry_after = None
    return ErrorDetails(reason=info.reason, metadata=dict(info.metadata), retry_after=retry_after, domain=info.domain)


def _declare() -> dict[str, Any]:
    """Build the message classes: field numbers and types are googleapis' own."""
    kind = descriptor_pb2.FieldDescriptorProto
    one, many = kind.LABEL_OPTIONAL, kind.LABEL_REPEATED
    messages: dict[str, list[tuple[str, int, int, Any]]] = {
        "Duration": [("seconds", 1, one, kind.TYPE_INT64), ("nanos", 2, one, kind.TYPE_INT32)],
        "Any": [("type_url", 1, one, kind.TYPE_STRING), ("value", 2, one, kind.TYPE_BYTES)],
        "Status": [("code", 1, one, kind.TYPE_INT32), ("message", 2, one, kind.TYPE_STRING), ("details", 3, many, "Any")],
        "ErrorInfo": [
            ("reason", 1, one, kind.TYPE_STRING),
            ("domain", 2, one, kind.TYPE_STRING),
            ("metadata", 3, many, "ErrorInfo.MetadataEntry"),
        ],
        "RetryInfo": [("retry_delay", 1, one, "Duration")],
        "FieldViolation": [("field", 1, one, kind.TYPE_STRING), ("description", 2, one, kind.TYPE_STRING)],
        "BadRequest": [("field_violations", 1, many, "FieldViolation")],
    }
    file = descriptor_pb2.FileDescriptorProto(name="mrelease/status.proto", package="google.rpc", syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field_name, number, label, type_ in fields:
            entry = message.field.add(name=field_name, number=number, label=label)
            if isinstance(type_, str):
                entry.type, entry.type_name = kind.TYPE_MESSAGE, f".google.rpc.{type_}"
            else:
                entry.type = type_
    entries = next(m for m in file.message_type if m.name == "ErrorInfo").nested_type.add(name="MetadataEntry")
    entries.options.map_entry = True
    for number, field_name in ((1, "key"), (2, "value")):
        entries.field.add(name=field_name, number=number, label=one, type=kind.TYPE_STRING)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"google.rpc.{name}")) for name in messages}


_CLASSES = _declare()


def _new(name: str, **fields: Any) -> Any:
    return _CLASSES[name](**fields)
