"""Agents older than this SDK: what they refuse by its number, the SDK has a name for."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message


def named(message: str, path: str, request: Message | None) -> str:
    """What an agent says of the field ``path`` of a request, with the field's name in it: ``target.custom`` for ``target.5``.

    An agent that does not know a field has nothing but its number, which it puts behind the names of the messages that the field is in.
    """
    *messages, number = path.split(".")
    if not (number.isdecimal() and number.isascii() and len(number) < 10 and message.startswith(f"{path} ")):
        return message
    at: Any = None if request is None else request.DESCRIPTOR  # its stubs have two types of it
    for name in messages:
        found = None if at is None else at.fields_by_name.get(name.partition("[")[0])
        at = None if found is None else found.message_type
    field = None if at is None else at.fields_by_number.get(int(number))
    return message if field is None else ".".join([*messages, field.name]) + message[len(path) :]
