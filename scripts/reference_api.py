"""The reference page of the API, from the comments of the contract."""

from __future__ import annotations

import contract
from contract import Call, Enum, Field, File, Message


def page(notice: str) -> str:
    """Services with their calls first, then messages and enums, file by file."""
    services = "".join(_services(file) for file in contract.files())
    rest = "".join(_rest(file) for file in contract.files() if file.messages or file.enums)
    return f"""{notice}
# API

The contract, `proto/mrelease/v1`, is plain gRPC (package `{contract.PACKAGE}`, proto3): any language that has gRPC can call an agent. Sizes
are bytes, durations and times the well-known types, pids and ids as the node has them. Fields and values are only ever added: numbers and
names stay what they are.

A request that fails has a gRPC status with one `google.rpc.ErrorInfo`: [errors](errors.md). What became of a process is a result, not an
error: [outcomes](outcomes.md). Beside these services an agent serves `grpc.health.v1.Health` and, with `reflection`, server reflection.
{services}{rest}"""


def _services(file: File) -> str:
    return "".join(f"\n## {service.name}\n\n{service.text}\n{''.join(map(_call, service.calls))}" for service in file.services)


def _call(call: Call) -> str:
    answer = f"{'a stream of ' if call.streams else ''}{_link(call.response)}"
    return f"\n### {call.name}\n\n{_link(call.request)} → {answer}\n\n{call.text}\n"


def _rest(file: File) -> str:
    return f"\n## {file.name}\n{''.join(map(_message, file.messages))}{''.join(map(_enum, file.enums))}"


def _message(message: Message) -> str:
    rows = "".join(map(_field, message.fields))
    oneofs = "".join(f"\nOne of `{name}`: {text}\n" for name, text in message.oneofs.items() if text)
    table = f"\n| field | number | type | meaning |\n|---|---|---|---|\n{rows}" if rows else "\nIt has no fields.\n"
    return f"\n### {message.name}\n\n{message.text}\n{table}{oneofs}"


def _field(field: Field) -> str:
    kind = f"`{field.type}`"
    if field.refers_to:
        before, _, _ = field.type.rpartition(field.refers_to)
        kind = f"{f'`{before.strip()}` ' if before else ''}{_link(field.refers_to)}"
    name = f"`{field.name}`" + (f" (one of `{field.oneof}`)" if field.oneof else "")
    return f"| {name} | {field.number} | {kind} | {_cell(field.text)} |\n"


def _enum(enum: Enum) -> str:
    rows = "".join(f"| `{name}` | {number} | {_cell(text)} |\n" for name, number, text in enum.values)
    return f"\n### {enum.name}\n\n{enum.text}\n\n| value | number | meaning |\n|---|---|---|\n{rows}"


def _link(name: str) -> str:
    return f"[`{name}`](#{name.lower()})"


def _cell(text: str) -> str:
    return text.replace("\n\n", "<br>").replace("|", "\\|")
