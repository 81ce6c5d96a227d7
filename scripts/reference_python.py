"""The reference page of the Python SDK, from its docstrings and, for what mirrors the contract, the contract's comments."""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import contract

import mrelease
from mrelease import errors

SOURCE = Path(inspect.getfile(mrelease))
#: Classes that have another name than the message that they mirror; targets are `Process` for `ProcessTarget`.
_MIRRORS = {"NodeRef": "NodeIdentity"}


def page(notice: str) -> str:
    """Every public name, grouped as in ``mrelease.__all__``."""
    groups = "".join(f"\n## {title[0].upper()}{title[1:]}\n{''.join(map(_entry, names))}" for title, names in groups_of_names())
    return f"""{notice}
# Python SDK

`from mrelease import ...`: every public name of the SDK, which needs `grpcio` and `protobuf` alone. Sizes are bytes; a duration that is
given is seconds or a `timedelta`, one that is returned a `timedelta`; times are `datetime` with a time zone; None where a field is absent.
What is returned is frozen, and mirrors a message of the [contract](api.md). Exceptions: [errors](errors.md).
{groups}"""


def groups_of_names() -> list[tuple[str, list[str]]]:
    """The names of ``__all__`` below the comments that group them there."""
    groups: list[tuple[str, list[str]]] = []
    text = SOURCE.read_text().partition("__all__ = [")[2].partition("]")[0]
    for line in text.splitlines():
        found = re.fullmatch(r'\s*(?:# (.+)|"(\w+)",)', line)
        if found and found[1]:
            groups.append((found[1], []))
        elif found:
            groups[-1][1].append(found[2])
    assert [name for _, names in groups for name in names] == mrelease.__all__, "a name of __all__ belongs to no group"
    return groups


def undocumented() -> list[str]:
    """What is public and says nothing of itself: names, methods, fields, values of enums, exceptions."""
    return [name for name, text in _all_texts() if not text]


def _all_texts() -> Iterator[tuple[str, str]]:
    for name in mrelease.__all__:
        value = getattr(mrelease, name)
        if isinstance(value, ModuleType):
            yield from ((f"{name}.{kind.__name__}", _doc(kind)) for kind in _exceptions())
        elif isinstance(value, str):
            continue
        elif inspect.isclass(value):
            yield name, _doc(value)
            yield from ((f"{name}.{method}", _doc(what)) for method, what in _members(value))
            yield from ((f"{name}.{field}", text) for field, _, _, text in _fields(value))
            yield from ((f"{name}.{each}", text) for each, _, text in _values(value))
        else:
            yield name, _alias(name) if get_args(value) else _doc(value)


def _entry(name: str) -> str:
    value = getattr(mrelease, name)
    if isinstance(value, ModuleType):
        rows = "".join(f"| `{kind.__name__}` | `{kind.__bases__[0].__name__}` | {_cell(_doc(kind))} |\n" for kind in _exceptions())
        return f"\n### {name}\n\nThe module `mrelease.errors`.\n\n| exception | base | meaning |\n|---|---|---|\n{rows}"
    if isinstance(value, str):
        return f"\n### {name}\n\nThe version of the SDK, as text.\n"
    if get_args(value) and not inspect.isclass(value):
        return f"\n### {name}\n\n{_alias(name)} One of {', '.join(_link(kind.__name__) for kind in get_args(value))}.\n"
    if not inspect.isclass(value):
        return f"\n### {name}\n\n{_signature(name, value)}\n\n{_doc(value)}\n"
    return f"\n### {name}\n\n{_head(value)}{_doc(value)}\n{_field_table(value)}{_value_table(value)}{_methods(value)}"


def _head(kind: type[Any]) -> str:
    if issubclass(kind, enum.Enum) or dataclasses.is_dataclass(kind):
        return ""
    if issubclass(kind, Exception):
        return f"A {_link(kind.__bases__[0].__name__)}.\n\n" if kind.__bases__[0] is not Exception else ""
    return f"{_signature(kind.__name__, kind.__init__)}\n\n"


def _methods(kind: type[Any]) -> str:
    parts: list[str] = []
    for name, what in _members(kind):
        if isinstance(what, property):
            annotation = inspect.signature(what.fget).return_annotation if what.fget else ""
            parts.append(f"\n#### {kind.__name__}.{name}\n\nProperty, `{annotation}`. {_doc(what)}\n")
        else:
            parts.append(f"\n#### {kind.__name__}.{name}\n\n{_signature(f'{kind.__name__}.{name}', what)}\n\n{_doc(what)}\n")
    return "".join(parts)


def _members(kind: type[Any]) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that the class itself has; constants of exceptions are no methods."""
    if issubclass(kind, enum.Enum):
        return
    for name in vars(kind):
        what = getattr(kind, name)
        if not name.startswith("_") and (isinstance(what, property) or inspect.isroutine(what)):
            yield name, what


def _signature(name: str, what: Callable[..., Any]) -> str:
    """A call as one would write it: the annotations are those of the source, on any version of Python."""
    signature = inspect.signature(what)
    given = [each for each in signature.parameters.values() if each.name != "self"]
    words: list[str] = []
    for at, each in enumerate(given):
        if each.kind is each.KEYWORD_ONLY and (at == 0 or given[at - 1].kind is not each.KEYWORD_ONLY):
            words.append("*")
        default = "" if each.default is each.empty else f" = {_literal(each.default)}"
        words.append(f"{each.name}: {each.annotation}{default}")
    prefix = "async " if inspect.iscoroutinefunction(what) else ""
    answer = signature.return_annotation
    arrow = "" if answer in ("None", signature.empty) and name[0].isupper() and "." not in name else f" -> {answer}"
    line = f"{prefix}{name}({', '.join(words)}){arrow}"
    if len(line) > 100:
        line = f"{prefix}{name}(\n" + "".join(f"    {word},\n" for word in words) + f"){arrow}"
    # No console or python block: nobody is meant to run it.
    return f"```text\n{line}\n```"


def _literal(value: object) -> str:
    return f"{type(value).__name__}.{value.name}" if isinstance(value, enum.Enum) else repr(value)


def _field_table(kind: type[Any]) -> str:
    rows = "".join(
        f"| `{name}` | `{_cell(annotation)}` | {default} | {_cell(text)} |\n" for name, annotation, default, text in _fields(kind)
    )
    return f"\n| field | type | default | meaning |\n|---|---|---|---|\n{rows}" if rows else ""


def _fields(kind: type[Any]) -> Iterator[tuple[str, str, str, str]]:
    """Fields of a frozen value: name, type, default, and what the contract says of it, else the class."""
    if not dataclasses.is_dataclass(kind):
        return
    message = contract.messages().get(_MIRRORS.get(kind.__name__, kind.__name__)) or contract.messages().get(f"{kind.__name__}Target")
    said = {field.name: field.text for field in message.fields} if message else {}
    for field in dataclasses.fields(kind):
        default = "" if field.default is dataclasses.MISSING else f"`{_literal(field.default)}`"
        if field.default_factory is not dataclasses.MISSING:
            default = f"`{_empty(field.default_factory())}`"
        text = said.get(field.name) or ("see above" if f"``{field.name}``" in (kind.__doc__ or "") else "")
        yield field.name, str(field.type), default, text


def _empty(value: object) -> str:
    return "{}" if isinstance(value, Mapping) else repr(value)


def _values(kind: type[Any]) -> Iterator[tuple[str, int, str]]:
    """Values of an enum with what the contract says of them."""
    if issubclass(kind, enum.Enum):
        said = {name: text for name, _, text in contract.enums()[kind.__name__].values}
        yield from ((name, int(value.value), said.get(name, "")) for name, value in kind.__members__.items())


def _value_table(kind: type[Any]) -> str:
    rows = "".join(f"| `{name}` | {number} | {_cell(text)} |\n" for name, number, text in _values(kind))
    return f"\n| value | number | meaning |\n|---|---|---|\n{rows}" if rows else ""


def _exceptions() -> list[type[Exception]]:
    """The classes of ``mrelease.errors``, in the order of the source."""
    found = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.MreleaseError)]
    return [kind for kind in found if kind.__module__ == errors.__name__]


def _alias(name: str) -> str:
    """What the source says of a type alias: the comment ``#:`` above it."""
    for file in sorted(SOURCE.parent.glob("_*models.py")):
        lines = file.read_text().splitlines()
        for at, line in enumerate(lines):
            if line.startswith(f"{name}: TypeAlias = "):
                return lines[at - 1].removeprefix("#:").strip() if lines[at - 1].startswith("#:") else ""
    return ""


def _doc(what: object) -> str:
    """The docstring that something has itself, as Markdown; a dataclass without one would get its signature for it."""
    text = inspect.cleandoc(getattr(what, "__doc__", None) or "")
    if dataclasses.is_dataclass(what) and not _has_docstring(what):
        text = ""
    paragraphs = [" ".join(part.split()) for part in text.replace("``", "`").split("\n\n")]
    return "\n\n".join(paragraphs)


def _has_docstring(kind: object) -> bool:
    [node] = ast.parse(inspect.cleandoc(inspect.getsource(kind))).body  # type: ignore[arg-type]
    return isinstance(node, ast.ClassDef) and ast.get_docstring(node) is not None


def _link(name: str) -> str:
    return f"[`{name}`](#{name.lower()})" if name in mrelease.__all__ else f"`{name}`"


def _cell(text: str) -> str:
    return text.replace("\n\n", "<br>").replace("|", "\\|")
