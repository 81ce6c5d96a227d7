"""What an inventory says, checked whole before any of it is used.

.. code-block:: yaml

    groups:
      - nodes: ["node[01-16]", login]
        address: "{node}.example.org:7443"
        context: lab               # whose certificates; without it those of the environment
        server_name: "{node}.lab"  # the name that the agent's certificate has, where it is not the host of the address
        name: "{node}"             # what the agent calls its node: then a request that reaches another one does nothing
      - nodes: gpu7
        address: 10.0.0.7:7443
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final, cast

from mrelease import _contexts, _text
from mrelease._tls import TLS
from mrelease.addresses._given import NODE, address
from mrelease.errors import InvalidInventory

#: Nodes of one inventory at most.
MOST: Final = 50_000
_KEYS: Final = ("nodes", "address", "context", "server_name", "name")
_PATTERN: Final = re.compile(r"([A-Za-z0-9._:%-]*)\[([0-9,-]*)\]|([A-Za-z0-9._:%-]+)", re.ASCII)
_RANGE: Final = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)
_FORM: Final = "see docs/plugins/index.md"


@dataclass(frozen=True, slots=True)
class Entry:
    """What is said of one node; ``{node}`` is filled in but in ``address``."""

    address: str
    context: str = ""
    server_name: str = ""
    name: str = ""

    def with_name(self, tls: TLS | None) -> TLS | None:
        """Certificates with the name that is expected of this agent."""
        return tls if tls is None or not self.server_name else dataclasses.replace(tls, server_name=self.server_name)


def decode(raw: bytes, file: Path) -> dict[str, Entry]:
    """The entries by their nodes. Raises InvalidInventory, which names the field."""
    if len(raw) > _contexts.MAX_BYTES:
        raise InvalidInventory(f"{file} is larger than {_contexts.MAX_BYTES} bytes", "write ranges: node[001-512]")
    data = _mapping(_parsed(raw, file), f"{file}", ("groups",))
    groups = data.get("groups")
    if not isinstance(groups, list) or not groups:
        raise InvalidInventory(f"{file}: groups is not a list of groups", _FORM)
    found: dict[str, Entry] = {}
    for number, item in enumerate(cast("list[object]", groups)):
        where = f"{file}: groups[{number}]"
        group = _mapping(item, where, _KEYS)
        texts = {key: _said(group, key, where) for key in _KEYS[1:]}
        if not texts["address"]:
            raise InvalidInventory(f"{where} has no address", f'for example address: "{NODE}.example.org:7443"')
        if texts["context"] and texts["address"].startswith("unix:"):
            raise InvalidInventory(f"{where}: a socket of this machine has no certificates", "remove context")
        nodes = list(_nodes(group.get("nodes"), where))
        if len(nodes) > 1 and NODE not in texts["address"]:
            raise InvalidInventory(
                f"{where}: {len(nodes)} nodes have the same address", f"write where {NODE} goes in it, or a group for each"
            )
        for node in nodes:
            if node in found:
                raise InvalidInventory(f"{where}: node {node} is named twice", "which of the two is it? leave one")
            if len(found) == MOST:
                raise InvalidInventory(f"{where}: the inventory has more than {MOST} nodes", "check the ranges")
            filled = {key: texts[key].replace(NODE, node) for key in ("server_name", "name")}
            found[node] = Entry(texts["address"], texts["context"], **filled)
        address(texts["address"], "node", f"{where}: address")
    return found


def expand(pattern: str) -> Iterator[str]:
    """``rack[1-2]n[01-16]``: the names that it stands for. Ranges keep the leading zeros of their first number. Raises ValueError."""
    pieces: list[list[str]] = []
    at = 0
    while at < len(pattern):
        found = _PATTERN.match(pattern, at)
        if found is None:
            raise ValueError(f"{pattern!r} is not the name of a node, nor one with ranges: node[01-16]")
        pieces.append([found[3] or found[1]])
        if found[2] is not None:
            pieces.append(list(_numbers(found[2], pattern)))
        at = found.end()
    if not pieces:
        raise ValueError("the name of a node is empty")
    count = 1
    for piece in pieces:
        count *= len(piece)
    if count > MOST:
        raise ValueError(f"{pattern!r} names {count} nodes, and an inventory has at most {MOST}")
    return map("".join, product(*pieces))


def _numbers(text: str, pattern: str) -> Iterator[str]:
    for part in text.split(","):
        found = _RANGE.fullmatch(part)
        first, last = (found[1], found[2] or found[1]) if found else ("1", "0")
        if int(first) > int(last) or int(last) - int(first) >= MOST:
            raise ValueError(f"{pattern!r}: [{text}] is not a range of at most {MOST} numbers such as [01-16,20]")
        for number in range(int(first), int(last) + 1):
            yield f"{number:0{len(first)}}"


def _parsed(raw: bytes, file: Path) -> object:
    if file.suffix == ".json":
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            raise InvalidInventory(f"{file} is not JSON", _FORM) from None
    try:
        import yaml
    except ModuleNotFoundError:
        message = f"{file} needs PyYAML, which is not installed"
        raise InvalidInventory(message, "pip install 'mrelease[cli]', or write it as JSON in a file that ends with .json") from None
    try:
        return yaml.safe_load(raw)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InvalidInventory(f"{file} is not YAML{line}: {_text.printable(str(error.problem))}", _FORM) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise InvalidInventory(f"{file} is not YAML", _FORM) from None


def _mapping(value: object, where: str, keys: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInventory(f"{where} is not a mapping with {', '.join(keys)}", _FORM)
    found = cast("dict[object, Any]", value)
    for key in found:
        if key not in keys:
            raise InvalidInventory(f"{where}: {_text.printable(repr(key)[:80])} is not known", f"known are {', '.join(keys)}")
    return cast("Mapping[str, Any]", found)


def _said(group: Mapping[str, Any], key: str, where: str) -> str:
    value = group.get(key, "")
    if not isinstance(value, str) or not value.isprintable() or (key in group and not value):
        raise InvalidInventory(f"{where}: {key} is not a text, or empty", "put it into quotation marks, or remove it")
    return value


def _nodes(value: object, where: str) -> Iterator[str]:
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, list) or not patterns:
        raise InvalidInventory(f"{where}: nodes is not a name or a list of names", 'for example nodes: ["node[01-16]", login]')
    for pattern in cast("list[object]", patterns):
        if not isinstance(pattern, str):
            raise InvalidInventory(
                f"{where}: {_text.printable(repr(pattern)[:80])} is not the name of a node", "put it into quotation marks"
            )
        try:
            yield from expand(pattern)
        except ValueError as error:
            raise InvalidInventory(f"{where}: {error}", _FORM) from None
