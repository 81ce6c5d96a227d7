"""Access policies: one that is not understood grants nothing, one that is never gives what no rule of it says."""

from __future__ import annotations

import msgspec

from fuzz.kit import assert_readable
from mrelease_agent.config.values import ConfigError
from mrelease_agent.guard.caller import Caller
from mrelease_agent.guard.policy.load import load
from mrelease_agent.guard.policy.strict_yaml import parse
from mrelease_agent.guard.policy.types import METHODS, CallerMatch, PolicyFile

NAME = "p.yaml"
#: Names that anybody could have, in the place of an input that brings none.
USUAL = ("spiffe://cluster.local/ns/a/sa/b", "a.example", "ops")


def one_input(data: bytes) -> None:
    """A file; what comes after a NUL is the name that a caller's certificate has."""
    raw, _, brought = data.partition(b"\0")
    try:
        policy = load(raw, NAME, {"ada": 1000}.__getitem__)
    except ConfigError as error:
        assert_readable(str(error), about=NAME)
        return
    rules = msgspec.convert(parse(raw, NAME).value, PolicyFile).rules
    matches = [match for rule in rules for match in rule.callers]
    texts = (brought.decode("utf-8", "backslashreplace"),) if brought else USUAL
    callers = [Caller("unix"), Caller("mtls"), Caller("unix", uid=1000, gid=1000)]
    callers += [caller for text in texts for caller in named(text)]
    for caller in callers:
        might = any(may_fit(match, caller) for match in matches)
        for method in (*METHODS, "NoSuchMethod"):
            grant = policy.grant(caller, method, "process")
            if grant is None:
                continue
            assert might, caller
            assert all(rule.has_method(method) and rule.has_kind("process") for rule in grant.rules)
            assert any({method, "*"} & set(rule.methods) for rule in rules)


def named(text: str) -> list[Caller]:
    """Certificates with this name, each of another kind."""
    return [Caller("mtls", uris=(text,)), Caller("mtls", dns=(text,)), Caller("mtls", common_name=text)]


def may_fit(match: CallerMatch, caller: Caller) -> bool:
    """A coarse idea of its own of whom a rule can mean: kinds of names are never mixed, letters are those that were written."""
    if isinstance(match.uri, str) and not (len(caller.uris) == 1 and like(match.uri, caller.uris[0])):
        return False
    if isinstance(match.dns, str) and not any(like(match.dns, name.lower()) and name.isascii() for name in caller.dns):
        return False
    if isinstance(match.cn, str) and caller.common_name != match.cn:
        return False
    if isinstance(match.unix_uid, int) and (caller.transport != "unix" or caller.uid != match.unix_uid):
        return False
    if isinstance(match.unix_gid, int) and (caller.transport != "unix" or caller.gid != match.unix_gid):
        return False
    return not isinstance(match.transport, str) or caller.transport == match.transport


def like(pattern: str, name: str) -> bool:
    """What is before the first wildcard and after the last one is there, letter by letter."""
    if "*" not in pattern:
        return name == pattern
    return name.startswith(pattern[: pattern.index("*")]) and name.endswith(pattern[pattern.rindex("*") + 1 :])
