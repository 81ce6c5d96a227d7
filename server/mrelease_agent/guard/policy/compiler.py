"""From what a policy file says, as far as its types let it, to rules that can decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from msgspec import UnsetType

from mrelease_agent.config.values import ConfigError, parse_duration, parse_size, quote
from mrelease_agent.guard.caller import Caller
from mrelease_agent.guard.policy import patterns
from mrelease_agent.guard.policy.patterns import Test
from mrelease_agent.guard.policy.problems import wrong
from mrelease_agent.guard.policy.rules import CallerTest, CompiledRule, Condition, Facts, Limit
from mrelease_agent.guard.policy.strict_yaml import Document, Path
from mrelease_agent.guard.policy.types import CallerMatch, Limits, PolicyFile, Rule, Targets

#: User id of a user's name; raises KeyError.
Users = Callable[[str], int]

_MOST_BYTES: Final = 1 << 62
_SHORTEST_WINDOW, _LONGEST_WINDOW = 1.0, 86400.0


class Compiler:
    """Compiles the rules of one file; every method raises ConfigError for what is wrong in it."""

    def __init__(self, document: Document, file: str, users: Users) -> None:
        self._document = document
        self._file = file
        self._users = users

    def rules(self, policy: PolicyFile) -> Iterator[CompiledRule]:
        """Every rule, in the order of the file."""
        before: dict[str, int] = {}
        for index, rule in enumerate(policy.rules):
            if rule.name in before:
                where = ("rules", index, "name")
                raise self._wrong(where, f"is that of rules[{before[rule.name]}] too", "give each rule a name of its own")
            before[rule.name] = index
            yield self._rule(rule, ("rules", index))

    def _rule(self, rule: Rule, path: Path) -> CompiledRule:
        kinds: frozenset[str] | None = None
        conditions: tuple[Condition, ...] = ()
        if not isinstance(rule.targets, UnsetType):
            kinds = None if isinstance(rule.targets.kinds, UnsetType) else frozenset(rule.targets.kinds)
            conditions = tuple(self._conditions(rule.targets, (*path, "targets")))
            if kinds is None and not conditions:
                raise self._wrong((*path, "targets"), "has no condition", "write one, or leave `targets` out to mean any target")
        return CompiledRule(
            name=rule.name,
            callers=tuple(self._caller(match, (*path, "callers", index)) for index, match in enumerate(rule.callers)),
            methods=None if "*" in rule.methods else frozenset(rule.methods),
            kinds=kinds,
            conditions=conditions,
            limit=None if isinstance(rule.limits, UnsetType) else self._limit(rule.name, rule.limits, (*path, "limits")),
        )

    def _caller(self, match: CallerMatch, path: Path) -> CallerTest:
        tests: list[Callable[[Caller], bool]] = []
        if not isinstance(match.uri, UnsetType):
            uri = self._pattern(patterns.uri, match.uri, (*path, "uri"))
            # Who has two is nobody in particular: X.509-SVID 2 wants such certificates rejected.
            tests.append(lambda caller: len(caller.uris) == 1 and uri(caller.uris[0]))
        if not isinstance(match.dns, UnsetType):
            dns = self._pattern(patterns.dns, match.dns, (*path, "dns"))
            tests.append(lambda caller: any(map(dns, caller.dns)))
        if not isinstance(match.cn, UnsetType):
            name = self._pattern(patterns.common_name, match.cn, (*path, "cn"))
            tests.append(lambda caller: name(caller.common_name))
        uid, gid, transport = match.unix_uid, match.unix_gid, match.transport
        if not isinstance(uid, UnsetType):
            tests.append(lambda caller: caller.transport == "unix" and caller.uid == uid)
        if not isinstance(gid, UnsetType):
            tests.append(lambda caller: caller.transport == "unix" and caller.gid == gid)
        if not isinstance(transport, UnsetType):
            tests.append(lambda caller: caller.transport == transport)
        if not tests:
            raise self._wrong(path, "has no key, so it would be everybody", "write for example {dns: sched.example} or {transport: unix}")
        given = {key: getattr(match, key) for key in match.__struct_fields__ if not isinstance(getattr(match, key), UnsetType)}
        text = ", ".join(f"{key}: {value}" for key, value in given.items())
        return CallerTest(text, tests[0] if len(tests) == 1 else lambda caller: all(test(caller) for test in tests))

    def _conditions(self, targets: Targets, path: Path) -> Iterator[Condition]:
        if not isinstance(targets.namespaces, UnsetType):
            yield Condition("namespaces", tuple(targets.namespaces), _in_namespace([patterns.namespace(p) for p in targets.namespaces]))
        if not isinstance(targets.cgroups, UnsetType):
            tests = [self._pattern(patterns.cgroup, text, (*path, "cgroups", index)) for index, text in enumerate(targets.cgroups)]
            yield Condition("cgroups", tuple(targets.cgroups), _in_cgroup(tests))
        if not isinstance(targets.users, UnsetType):
            users = frozenset(self._user(user, (*path, "users", index)) for index, user in enumerate(targets.users))
            yield Condition("users", tuple(map(str, targets.users)), _of_users(users))

    def _user(self, user: int | str, path: Path) -> int:
        if isinstance(user, int):
            return user
        try:
            return self._users(user)
        except (KeyError, ValueError):
            remedy = "write the number (in a container the node's users have no names), or create the user"
            raise self._wrong(path, f"is {quote(user)}, whom this machine does not know", remedy) from None

    def _limit(self, rule: str, limits: Limits, path: Path) -> Limit:
        if isinstance(limits.max_kills, UnsetType) and isinstance(limits.max_bytes, UnsetType):
            raise self._wrong(path, "limits nothing", "write max_kills or max_bytes, or leave `limits` out")
        window = parse_duration(limits.window)
        if not _SHORTEST_WINDOW <= window <= _LONGEST_WINDOW:
            raise self._wrong((*path, "window"), f"is {quote(limits.window)}", "write a duration from 1s to 24h, such as 1m")
        most = None if isinstance(limits.max_bytes, UnsetType) else limits.max_bytes
        if isinstance(most, str):
            most = parse_size(most)
        if most is not None and not 1 <= most <= _MOST_BYTES:
            raise self._wrong((*path, "max_bytes"), f"is {quote(str(limits.max_bytes))}", "write a size such as 64GiB")
        return Limit(rule, None if isinstance(limits.max_kills, UnsetType) else limits.max_kills, most, window)

    def _pattern(self, make: Callable[[str], Test], text: str, path: Path) -> Test:
        try:
            return make(text)
        except ValueError as error:
            raise self._wrong(path, f"is {quote(text)}", str(error)) from None

    def _wrong(self, path: Path, problem: str, remedy: str) -> ConfigError:
        return wrong(self._document, self._file, path, problem, remedy)


def _in_namespace(tests: Sequence[Test]) -> Callable[[Facts], bool]:
    def holds(facts: Facts) -> bool:
        pod = facts.pod
        return pod is not None and any(test(pod[0]) for test in tests)

    return holds


def _in_cgroup(tests: Sequence[Test]) -> Callable[[Facts], bool]:
    return lambda facts: any(test(facts.cgroup) for test in tests)


def _of_users(users: frozenset[int]) -> Callable[[Facts], bool]:
    # All of them: a process of root that acts for a user for a moment, as sshd(8) does, is not that user's.
    def holds(facts: Facts) -> bool:
        found = facts.uids
        return bool(found) and found <= users

    return holds
