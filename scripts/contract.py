"""The contract with its comments: what ``proto/mrelease/v1`` says of each service, call, message, field and enum, as data."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

PROTO = Path(__file__).resolve().parent.parent / "proto"
PACKAGE = "mrelease.v1"
#: Where something is in a file: numbers of fields and indexes, as SourceCodeInfo.Location has them.
_Path: TypeAlias = tuple[int, ...]
_SCALARS = {number: name.removeprefix("TYPE_").lower() for name, number in FieldDescriptorProto.Type.items()}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message. ``type``: as .proto files write it; ``refers_to``: the message or enum of the contract that it is, or empty."""

    name: str
    number: int
    type: str
    refers_to: str
    oneof: str
    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """A message with its fields, in the order of the file. ``oneofs``: what is said of each."""

    name: str
    text: str
    fields: tuple[Field, ...]
    oneofs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Enum:
    """An enum: the names of its values without the prefix, their numbers and meanings."""

    name: str
    text: str
    values: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a service. ``streams``: whether it answers more than once."""

    name: str
    text: str
    request: str
    response: str
    streams: bool


@dataclass(frozen=True, slots=True)
class Service:
    """A service with its calls."""

    name: str
    text: str
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class File:
    """One file of the contract."""

    name: str
    services: tuple[Service, ...]
    messages: tuple[Message, ...]
    enums: tuple[Enum, ...]


@cache
def files() -> tuple[File, ...]:
    """The files of the contract: those with services first, the others by name."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "set")
        names = sorted(str(file.relative_to(PROTO)) for file in PROTO.glob("mrelease/v1/*.proto"))
        command = [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={PROTO}",
            "--include_source_info",
            f"--descriptor_set_out={out}",
        ]
        subprocess.run([*command, *names], check=True)
        found = FileDescriptorSet.FromString(out.read_bytes())
    return tuple(sorted(map(_file, found.file), key=lambda file: (not file.services, file.name)))


def messages() -> dict[str, Message]:
    """Every message by its name."""
    return {message.name: message for file in files() for message in file.messages}


def enums() -> dict[str, Enum]:
    """Every enum by its name."""
    return {enum.name: enum for file in files() for enum in file.enums}


def _file(file: FileDescriptorProto) -> File:
    said: dict[_Path, str] = {tuple(place.path): _text(place.leading_comments) for place in file.source_code_info.location}
    numbers = FileDescriptorProto
    return File(
        file.name,
        tuple(_service(each, (numbers.SERVICE_FIELD_NUMBER, at), said) for at, each in enumerate(file.service)),
        tuple(_message(each, (numbers.MESSAGE_TYPE_FIELD_NUMBER, at), said) for at, each in enumerate(file.message_type)),
        tuple(_enum(each, (numbers.ENUM_TYPE_FIELD_NUMBER, at), said) for at, each in enumerate(file.enum_type)),
    )


def _service(service: ServiceDescriptorProto, path: _Path, said: Mapping[_Path, str]) -> Service:
    def call(at: int, each: MethodDescriptorProto) -> Call:
        text = said[_at(path, ServiceDescriptorProto.METHOD_FIELD_NUMBER, at)]
        return Call(each.name, text, _last(each.input_type), _last(each.output_type), each.server_streaming)

    return Service(service.name, said[path], tuple(call(at, each) for at, each in enumerate(service.method)))


def _message(message: DescriptorProto, path: _Path, said: Mapping[_Path, str]) -> Message:
    maps = {each.name: each for each in message.nested_type if each.options.map_entry}

    def fields() -> Iterator[Field]:
        for at, each in enumerate(message.field):
            entry = maps.get(_last(each.type_name))
            kind = f"map<{', '.join(map(_type, entry.field))}>" if entry else _type(each)
            if each.label == FieldDescriptorProto.LABEL_REPEATED and not entry:
                kind = f"repeated {kind}"
            if each.proto3_optional:
                kind = f"optional {kind}"
            # A field that is `optional` is in a oneof of its own, which is no one's business.
            oneof = message.oneof_decl[each.oneof_index].name if each.HasField("oneof_index") and not each.proto3_optional else ""
            refers_to = _last(each.type_name) if each.type_name.startswith(f".{PACKAGE}.") and not entry else ""
            yield Field(each.name, each.number, kind, refers_to, oneof, said[_at(path, DescriptorProto.FIELD_FIELD_NUMBER, at)])

    oneofs = {each.name: said.get(_at(path, DescriptorProto.ONEOF_DECL_FIELD_NUMBER, at), "") for at, each in enumerate(message.oneof_decl)}
    return Message(message.name, said[path], tuple(fields()), oneofs)


def _enum(enum: EnumDescriptorProto, path: _Path, said: Mapping[_Path, str]) -> Enum:
    prefix = "".join(f"_{letter}" if letter.isupper() and at else letter for at, letter in enumerate(enum.name)).upper() + "_"
    texts = (said[_at(path, EnumDescriptorProto.VALUE_FIELD_NUMBER, at)] for at in range(len(enum.value)))
    return Enum(
        enum.name,
        said[path],
        tuple((each.name.removeprefix(prefix), each.number, text) for each, text in zip(enum.value, texts, strict=True)),
    )


def _at(path: _Path, number: int, index: int) -> _Path:
    return (*path, number, index)


def _type(field: FieldDescriptorProto) -> str:
    return field.type_name.removeprefix(f".{PACKAGE}.").lstrip(".") if field.type_name else _SCALARS[field.type]


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _text(comment: str) -> str:
    """Paragraphs of a comment, each on one line."""
    paragraphs = "\n".join(line.strip() for line in comment.splitlines()).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())
