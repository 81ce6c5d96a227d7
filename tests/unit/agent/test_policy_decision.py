"""What an access policy decides: each way to recognise a caller and a target, and what holds for every policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrelease_agent.guard.caller import LOCAL, Caller
from mrelease_agent.guard.policy.compiler import Compiler
from mrelease_agent.guard.policy.decide import AccessPolicy
from mrelease_agent.guard.policy.explain import Supposed, explain
from mrelease_agent.guard.policy.load import node_user
from mrelease_agent.guard.policy.strict_yaml import Document
from mrelease_agent.guard.policy.types import METHODS, PolicyFile

HEX = "0123456789abcdef" * 4
SPIFFE = Caller("mtls", uris=("spiffe://cluster.local/ns/kueue/sa/controller",), dns=("sched.example", "db.example"), common_name="ops")


@dataclass(frozen=True)
class Seen:
    """A process as the policy sees it."""

    cgroup: str = "/"
    pod: tuple[str, str] | None = None
    uids: frozenset[int] = field(default_factory=lambda: frozenset({0}))


def made(rules: list[dict[str, Any]]) -> AccessPolicy:
    """A policy, without the reading of YAML: there are thousands of them here."""
    file = msgspec.convert({"version": 1, "rules": rules}, PolicyFile)
    return AccessPolicy(list(Compiler(Document({}, {}), "p.yaml", node_user).rules(file)))


def allows(rules: list[dict[str, Any]], caller: Caller, method: str, kind: str, seen: Seen) -> bool:
    grant = made(rules).grant(caller, method, kind)
    return grant is not None and grant.covers(seen)


def knows(match: dict[str, Any], caller: Caller) -> bool:
    return allows([{"name": "a", "callers": [match], "methods": ["*"]}], caller, "Release", "pod", Seen())


def covers(targets: dict[str, Any], seen: Seen, kind: str = "pod") -> bool:
    return allows([{"name": "a", "callers": [{"transport": "unix"}], "methods": ["*"], "targets": targets}], UNIX, "Release", kind, seen)


UNIX = Caller("unix", uid=1000, gid=100, pid=1)


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("spiffe://c/ns/k/sa/x", "spiffe://c/ns/k/sa/x", True),
        ("spiffe://c/ns/k/sa/x", "spiffe://c/ns/k/sa/X", False),
        ("spiffe://c/ns/k/sa/x", "spiffe://c/ns/k/sa/x/", False),
        ("spiffe://c/ns/k/sa/x", "spiffe://c/ns/k/sa/xy", False),
        ("spiffe://c/ns/k/sa/*", "spiffe://c/ns/k/sa/x", True),
        ("spiffe://c/ns/k/sa/*", "spiffe://c/ns/k/sa/", False),
        ("spiffe://c/ns/k/sa/*", "spiffe://c/ns/k/sa", False),
        ("spiffe://c/ns/k/sa/*", "spiffe://c/ns/k/sa/x/y", False),
        ("spiffe://c/ns/k/sa/*", "spiffe://c/ns/k/sa/x?y", False),
        ("spiffe://c/ns/k/sa/*", "spiffe://c/ns/k/sa/x%2fy", False),
        ("spiffe://c/ns/k/sa/*", "spiffe://c/ns/k/sa/x\n", False),
        ("spiffe://c/ns/k/sa/*", "spiffe://c.evil/ns/k/sa/x", False),
        ("spiffe://c/ns/k/sa/*", "xspiffe://c/ns/k/sa/x", False),
        ("spiffe://c.d/ns/*", "spiffe://cxd/ns/a", False),
        ("spiffe://c/ns/batch-*/sa/x", "spiffe://c/ns/batch-7/sa/x", True),
        ("spiffe://c/ns/batch-*/sa/x", "spiffe://c/ns/batch-/sa/x", True),
        ("spiffe://c/ns/batch-*/sa/x", "spiffe://c/ns/batch/sa/x", False),
        ("spiffe://c/ns/batch-*/sa/x", "spiffe://c/ns/batch-7/y/sa/x", False),
        ("spiffe://c/ns/*/sa/x", "spiffe://c/ns/../sa/x", False),
        ("spiffe://c/ns/*/sa/x", "spiffe://c/ns/./sa/x", False),
        ("spiffe://c/ns/*/sa/x", "spiffe://c/ns//sa/x", False),
        ("spiffe://c/ns/*/sa/x", "spiffe://c/ns/.../sa/x", True),
        ("spiffe://c/**", "spiffe://c/a/b/c", True),
        ("spiffe://c/**", "spiffe://c/a", True),
        ("spiffe://c/**", "spiffe://c/", False),
        ("spiffe://c/**", "spiffe://c", False),
        ("spiffe://c/**", "spiffe://c/a/../b", False),
        ("spiffe://c/**", "spiffe://c/a//b", False),
        ("urn:uuid:1", "urn:uuid:1", True),
    ],
)
def test_uris(pattern: str, name: str, fits: bool) -> None:
    assert knows({"uri": pattern}, Caller("mtls", uris=(name,))) is fits


def test_a_certificate_with_two_uris_is_nobody() -> None:
    both = Caller("mtls", uris=("spiffe://c/a", "spiffe://c/b"))
    assert not knows({"uri": "spiffe://c/a"}, both)
    assert not knows({"uri": "spiffe://c/**"}, both)
    assert not knows({"uri": "spiffe://c/**"}, Caller("mtls"))


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("sched.example", "sched.example", True),
        ("sched.example", "SCHED.Example", True),
        ("sched.example", "xsched.example", False),
        ("sched.example", "sched.example.evil", False),
        ("sched.example", "sched.example.", False),
        ("sched.example", "schedxexample", False),
        ("*.example", "sched.example", True),
        ("*.example", "a.sched.example", False),
        ("*.example", "example", False),
        ("*.example", ".example", False),
        ("*.example", "*.example", False),
        ("*.example", "sched.example\n", False),
    ],
)
def test_dns_names(pattern: str, name: str, fits: bool) -> None:
    assert knows({"dns": pattern}, Caller("mtls", dns=("other.test", name))) is fits


def test_common_names_are_compared_exactly() -> None:
    assert knows({"cn": "ops"}, SPIFFE)
    assert not knows({"cn": "Ops"}, SPIFFE)
    assert not knows({"cn": "op"}, SPIFFE)
    assert not knows({"cn": "ops"}, Caller("mtls", dns=("ops",), uris=("cn:ops",)))


def test_unix_peers() -> None:
    assert knows({"unix_uid": 1000}, UNIX)
    assert knows({"unix_gid": 100}, UNIX)
    assert knows({"transport": "unix"}, UNIX)
    assert knows({"unix_uid": 1000, "unix_gid": 100, "transport": "unix"}, UNIX)
    assert not knows({"unix_uid": 1000, "unix_gid": 101}, UNIX)
    assert not knows({"unix_uid": 0}, Caller("unix"))  # not known is nobody
    assert not knows({"unix_uid": 1000}, Caller("mtls", uid=1000))


@pytest.mark.parametrize("transport", ["unix", "mtls", "loopback", "local"])
def test_transports(transport: Any) -> None:
    for caller in (UNIX, SPIFFE, Caller("loopback"), LOCAL):
        assert knows({"transport": transport}, caller) is (caller.transport == transport)


def test_all_keys_of_one_match_have_to_fit_and_one_match_of_several() -> None:
    assert knows({"dns": "db.example", "cn": "ops", "uri": "spiffe://cluster.local/**"}, SPIFFE)
    assert not knows({"dns": "db.example", "cn": "dev"}, SPIFFE)
    rules = [{"name": "a", "callers": [{"cn": "dev"}, {"dns": "db.example"}], "methods": ["Release"]}]
    assert allows(rules, SPIFFE, "Release", "pod", Seen())


@pytest.mark.parametrize(
    ("pattern", "namespace", "fits"),
    [
        ("ml", "ml", True),
        ("ml", "ml-2", False),
        ("ml*", "ml", True),
        ("ml*", "ml-2", True),
        ("ml-*", "ml", False),
        ("*", "ml", True),
    ],
)
def test_namespaces(pattern: str, namespace: str, fits: bool) -> None:
    assert covers({"namespaces": [pattern]}, Seen(pod=(namespace, "p"))) is fits


def test_a_process_without_a_known_namespace_is_in_none() -> None:
    assert not covers({"namespaces": ["*"]}, Seen(cgroup=f"/kubepods/besteffort/pod{HEX[:32]}/{HEX}"))


@pytest.mark.parametrize(
    ("path", "fits"),
    [
        ("/kubepods/besteffort", True),
        ("/kubepods/besteffort/pod1/c", True),
        ("/kubepods/besteffort ", False),
        ("/kubepods/besteffortX", False),
        ("/kubepods/besteffort-x/pod1", False),
        ("/kubepods", False),
        ("/", False),
        ("/x/kubepods/besteffort/pod1", False),
        ("/../kubepods/besteffort/pod1", False),
        ("/kubepods/Besteffort", False),
        ("kubepods/besteffort", False),
    ],
)
def test_cgroups(path: str, fits: bool) -> None:
    assert covers({"cgroups": ["/system.slice", "/kubepods/besteffort"]}, Seen(cgroup=path)) is fits


@pytest.mark.parametrize(
    ("uids", "fits"),
    [({1000}, True), ({1000, 1001}, True), ({0}, False), ({1000, 0}, False), (set[int](), False)],
)
def test_every_user_id_of_a_process_has_to_be_allowed(uids: set[int], fits: bool) -> None:
    assert covers({"users": [1000, 1001]}, Seen(uids=frozenset(uids))) is fits


def test_users_may_be_named() -> None:
    assert covers({"users": ["root"]}, Seen(uids=frozenset({0})))
    assert not covers({"users": ["root"]}, Seen(uids=frozenset({1})))


def test_kinds_say_how_a_target_may_be_named() -> None:
    assert covers({"kinds": ["pod"]}, Seen(), "pod")
    assert not covers({"kinds": ["pod"]}, Seen(), "process")
    assert covers({"kinds": ["custom:slurm"]}, Seen(), "custom:slurm")
    assert covers({"kinds": ["pod", "custom"]}, Seen(), "custom:slurm")
    for kinds in (["custom:slurm"], ["process", "container", "pod", "cgroup"]):
        assert not covers({"kinds": kinds}, Seen(), "custom:slurmd")
    assert not covers({"kinds": ["custom"]}, Seen(), "process")
    assert covers({"kinds": ["pod"]}, Seen(), "")  # a request that names none, as ListProcesses


def test_limits_are_those_of_the_rules_that_cover_and_one_without_lifts_them() -> None:
    def named(name: str, users: list[int], **more: Any) -> dict[str, Any]:
        return {"name": name, "callers": [{"transport": "unix"}], "methods": ["*"], "targets": {"users": users}, **more}

    rules = [named("a", [1, 2], limits={"max_kills": 1}), named("b", [2, 3], limits={"max_kills": 2}), named("c", [3])]
    grant = made(rules).grant(UNIX, "KillAndRelease", "process")
    assert grant is not None
    assert not grant.unrestricted
    limits = {uid: [limit.rule for limit in grant.limits(Seen(uids=frozenset({uid})))] for uid in (1, 2, 3)}
    assert limits == {1: ["a"], 2: ["a", "b"], 3: []}


# What holds for every policy. Few words, so that they meet.

NAMESPACES = ["ml", "ml-2", "kube-system"]
CGROUPS = ["/kubepods", "/kubepods/besteffort", "/kubepods/besteffortX", "/system.slice"]
MATCHES = [
    {"uri": "spiffe://c/ns/*"},
    {"uri": "spiffe://c/**"},
    {"dns": "*.example"},
    {"cn": "ops"},
    {"cn": "ops", "dns": "a.example"},
    {"unix_uid": 1000},
    {"transport": "unix"},
    {"transport": "mtls"},
]
CALLERS = [
    UNIX,
    Caller("unix", uid=0),
    LOCAL,
    Caller("mtls", uris=("spiffe://c/ns/a",)),
    Caller("mtls", uris=("spiffe://c/x/y",), dns=("a.example",)),
    Caller("mtls", dns=("a.example",), common_name="ops"),
]


def some(values: list[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3)


CONDITIONS: dict[str, st.SearchStrategy[Any]] = {
    "kinds": some(["pod", "process"]),
    "namespaces": some([*NAMESPACES, "ml*", "*"]),
    "cgroups": some(CGROUPS),
    "users": some([0, 1000]),
}
RULES = st.fixed_dictionaries(
    {"callers": some(MATCHES), "methods": some(["*", *METHODS])},
    optional={"targets": st.fixed_dictionaries({}, optional=CONDITIONS).filter(bool)},
)
ASKS = st.tuples(
    st.sampled_from(CALLERS),
    st.sampled_from(METHODS),
    st.sampled_from(["pod", "process", "cgroup"]),
    st.builds(
        Seen,
        cgroup=st.sampled_from([*CGROUPS, "/kubepods/besteffort/pod1", "/"]),
        pod=st.none() | st.tuples(st.sampled_from(NAMESPACES), st.just("p")),
        uids=st.sampled_from([frozenset({0}), frozenset({1000}), frozenset({0, 1000})]),
    ),
)


#: The same ones each time: a failure that comes and goes helps nobody.
EXAMPLES = settings(max_examples=400, deadline=None, derandomize=True, database=None)


def numbered(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": f"r{index}", **rule} for index, rule in enumerate(rules)]


@EXAMPLES
@given(rules=st.lists(RULES, max_size=4), more=RULES, ask=ASKS, at=st.integers(0, 4))
def test_one_more_rule_never_allows_less_and_order_means_nothing(rules: list[Any], more: Any, ask: Any, at: int) -> None:
    before = allows(numbered(rules), *ask)
    after = allows(numbered([*rules[:at], more, *rules[at:]]), *ask)
    assert after or not before
    assert after == (before or allows(numbered([more]), *ask))
    assert allows(numbered(rules[::-1]), *ask) == before


@EXAMPLES
@given(rule=RULES, ask=ASKS, data=st.data())
def test_one_more_condition_never_allows_more(rule: dict[str, Any], ask: Any, data: st.DataObject) -> None:
    targets: dict[str, Any] = rule.get("targets", {})
    missing = sorted(CONDITIONS.keys() - targets.keys())
    if missing:
        key = data.draw(st.sampled_from(missing))
        stricter = {**rule, "targets": {**targets, key: data.draw(CONDITIONS[key])}}
        assert allows(numbered([rule]), *ask) or not allows(numbered([stricter]), *ask)
    key = data.draw(st.sampled_from(["unix_gid", "transport", "cn"]))
    value = {"unix_gid": 100, "transport": "mtls", "cn": "ops"}[key]
    narrower = {**rule, "callers": [{key: value, **match} for match in rule["callers"]]}
    assert allows(numbered([rule]), *ask) or not allows(numbered([narrower]), *ask)


@EXAMPLES
@given(rules=st.lists(RULES, max_size=4), ask=ASKS, hidden=st.sets(st.sampled_from(["namespace", "path", "user"])))
def test_the_explanation_is_the_decision(rules: list[Any], ask: Any, hidden: set[str]) -> None:
    caller, method, kind, seen = ask
    known = {"namespace": seen.pod[0] if seen.pod else None, "path": seen.cgroup, "user": min(seen.uids) if len(seen.uids) == 1 else None}
    said = Supposed(**{key: None if key in hidden else value for key, value in known.items()})
    policy = made(numbered(rules))
    told = explain(policy, caller, method, kind, said)
    grant = policy.grant(caller, method, kind)
    if method in ("GetNode", "WatchRelease"):
        assert told.decision == ("DENIED" if grant is None else "ALLOWED")
    elif told.decision == "DENIED":
        assert grant is None or not grant.covers(seen)
    elif told.decision == "ALLOWED":
        assert grant is not None
        assert grant.covers(seen)
    else:
        assert None in (said.namespace, said.path, said.user)
