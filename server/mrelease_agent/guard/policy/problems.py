"""What is wrong with a policy, in the words of its file: the line, the path of the value, and what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mrelease_agent.config.values import ConfigError, quote
from mrelease_agent.guard.policy.strict_yaml import Document, Path, show
from mrelease_agent.guard.policy.types import METHODS, CallerMatch, Limits, PolicyFile, Rule, Targets

_PLACE: Final = re.compile(r"(.*) - at `\$(.*)`", re.DOTALL)
_PART: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")
_BELOW_RULE: Final[Mapping[str, type[msgspec.Struct]]] = {"callers": CallerMatch, "targets": Targets, "limits": Limits}

#: What to write, by the last key on the path of what is wrong.
_FORMS: Final[Mapping[str, str]] = {
    "": "write a mapping with `version: 1` and `rules:`",
    "version": "write `version: 1`",
    "rules": "write a list of rules, each a mapping; the empty list `[]` denies everything",
    "name": "write 1 to 64 letters, digits, `.`, `_` or `-`",
    "callers": "list at least one mapping, for example [{transport: unix}]",
    "uri": "write a URI such as spiffe://cluster.local/ns/kueue/sa/controller",
    "dns": "write a DNS name such as sched.example",
    "cn": "write a common name such as ops",
    "unix_uid": "write a user id from 0 to 4294967294",
    "unix_gid": "write a group id from 0 to 4294967294",
    "transport": "write unix, mtls, loopback or local",
    "methods": f'list at least one of {", ".join(METHODS)}, or "*"',
    "targets": "write a mapping of conditions, or leave it out to mean any target",
    "kinds": "list at least one of process, container, pod, cgroup, custom, custom:slurm, or leave it out to mean any",
    "namespaces": 'list at least one namespace such as ml or "batch-*", or leave it out to mean any',
    "cgroups": "list at least one path such as /kubepods/besteffort, or leave it out to mean any",
    "users": "list at least one user id or name, or leave it out to mean any",
    "limits": "write a mapping with max_kills or max_bytes, or leave it out",
    "max_kills": "write a whole number from 1 to 1000000000",
    "max_bytes": "write a size such as 64GiB, or a number of bytes",
    "window": "write a duration from 1s to 24h, such as 1m",
}
#: Keys whose values are texts: a number or `true` may be one too, in quotes.
_TEXTS: Final = frozenset({"name", "uri", "dns", "cn", "namespaces", "cgroups"})


def wrong(document: Document, file: str, path: Path, problem: str, remedy: str) -> ConfigError:
    """The error that ``file`` has at ``path``."""
    return ConfigError(f"{file}:{document.line(path)}: {show(path) or 'the policy'} {problem}: {remedy}")


def undecodable(error: msgspec.ValidationError, document: Document, file: str) -> ConfigError:
    """Say in the file's words what msgspec found."""
    problem = str(error)
    path: Path = ()
    if placed := _PLACE.fullmatch(problem):
        problem, path = placed[1], _path(placed[2])
    if unknown := _UNKNOWN.fullmatch(problem):
        return wrong(document, file, (*path, unknown[1][:80]), "is no key that is known there", _suggest(unknown[1], path))
    if missing := _MISSING.fullmatch(problem):
        return wrong(document, file, path, f"has no {missing[1]}", _FORMS[missing[1]])
    value = _at(document.value, path)
    return wrong(document, file, path, f"is {_shown(value)}", _remedy(path, value))


def _remedy(path: Path, value: Any) -> str:
    key = next((part for part in reversed(path) if isinstance(part, str)), "")
    if key in _TEXTS and isinstance(value, int):
        return "write it in quotes: it is a text"
    return _FORMS[key]


def _suggest(key: str, path: Path) -> str:
    here = PolicyFile if not path else _BELOW_RULE.get(str(path[2]), Rule) if len(path) > 2 else Rule
    known = [field.encode_name for field in msgspec.structs.fields(here)]
    near = difflib.get_close_matches(key[:80], known, n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else f"write one of {', '.join(known)}"


def _shown(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, dict | list):
        return ("an empty " if not value else "a ") + ("mapping" if isinstance(value, dict) else "list")
    return quote(value) if isinstance(value, str) else str(value).lower()


def _path(text: str) -> Path:
    return tuple(int(found[2]) if found[2] else found[1] for found in _PART.finditer(text))


def _at(value: Any, path: Path) -> Any:
    for part in path:
        value = value[part]
    return value
