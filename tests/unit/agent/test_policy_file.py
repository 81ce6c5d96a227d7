"""The file of an access policy: what is taken, and what is refused with its line, its path and the remedy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mrelease_agent.config.values import ConfigError
from mrelease_agent.guard.caller import Caller
from mrelease_agent.guard.policy.load import WatchedPolicy, load
from mrelease_agent.guard.policy.rules import Limit
from mrelease_agent.guard.policy.strict_yaml import MAX_BYTES, parse

UNIX = Caller("unix", uid=0, gid=0)
HEAD = "version: 1\nrules:\n"
RULE = HEAD + "- name: a\n  callers: [{transport: unix}]\n  methods: ['*']\n"


def refused(text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text.encode() if isinstance(text, str) else text, "p.yaml", {"ada": 1000}.__getitem__)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    assert message.startswith("p.yaml")
    assert ": " in message  # problem, then remedy
    return message


def rule(more: str) -> str:
    return RULE + more + "\n"


def caller(match: str) -> str:
    return f"{HEAD}- name: a\n  callers: [{match}]\n  methods: [Release]\n"


@pytest.mark.parametrize(
    ("text", "where", "remedy"),
    [
        ("", "p.yaml is empty", "write `version: 1`"),
        ("[]", "p.yaml:1: the policy is an empty list", "write a mapping"),
        ("version: 2\nrules: []", "p.yaml:1: version is 2", "write `version: 1`"),
        ("version: true\nrules: []", "p.yaml:1: version is true", "write `version: 1`"),
        ("version: 1", "the policy has no rules", "`[]` denies everything"),
        (HEAD, "p.yaml:2: rules is empty", "`[]` denies everything"),
        (HEAD + "- 1", "rules[0] is 1", "write a list of rules"),
        (HEAD + "- name: a", "p.yaml:3: rules[0] has no callers", "list at least one"),
        (HEAD + "- {name: a b, callers: [{transport: unix}], methods: ['*']}", 'rules[0].name is "a b"', "letters, digits"),
        (RULE + RULE[len(HEAD) :], "p.yaml:6: rules[1].name is that of rules[0]", "a name of its own"),
        (rule("  target: {}"), "p.yaml:6: rules[0].target is no key", 'did you mean "targets"?'),
        (rule("  deny: true"), "rules[0].deny is no key", "write one of name, callers"),
        # What a template leaves empty must not mean "any".
        (rule("  targets:"), "rules[0].targets is empty", "leave it out"),
        (rule("  targets: {}"), "rules[0].targets has no condition", "leave `targets` out"),
        (rule("  targets: {namespaces: }"), "rules[0].targets.namespaces is empty", "list at least one"),
        (rule("  targets: {namespaces: []}"), "rules[0].targets.namespaces is an empty list", "list at least one"),
        (rule("  targets: {namespaces: ['']}"), 'rules[0].targets.namespaces[0] is ""', "list at least one"),
        (rule("  targets: {namespaces: ml}"), 'rules[0].targets.namespaces is "ml"', "list at least one"),
        (rule("  targets: {namespaces: [ML]}"), 'namespaces[0] is "ML"', "such as ml"),
        (rule("  targets: {namespaces: [a*b]}"), 'namespaces[0] is "a*b"', "such as ml"),
        (rule("  targets: {namespaces: [12]}"), "namespaces[0] is 12", "write it in quotes"),
        (rule("  targets: {cgroups: [kubepods]}"), 'cgroups[0] is "kubepods"', "such as /kubepods"),
        (rule("  targets: {cgroups: [/]}"), 'cgroups[0] is "/"', "other than /"),
        (rule("  targets: {cgroups: [/a/../b]}"), 'cgroups[0] is "/a/../b"', "without a trailing slash"),
        (rule("  targets: {cgroups: [/a/]}"), 'cgroups[0] is "/a/"', "without a trailing slash"),
        (rule("  targets: {cgroups: [//a]}"), 'cgroups[0] is "//a"', "without a trailing slash"),
        (rule("  targets: {cgroups: [/a/*]}"), 'cgroups[0] is "/a/*"', "without a wildcard"),
        (rule("  targets: {users: [bob]}"), 'users[0] is "bob", whom this machine does not know', "write the number"),
        (rule("  targets: {users: [-1]}"), "users[0] is -1", "user id or name"),
        (rule("  targets: {users: [4294967295]}"), "users[0] is 4294967295", "user id or name"),
        (rule("  targets: {users: [true]}"), "users[0] is true", "user id or name"),
        (rule("  targets: {kinds: [pods]}"), 'kinds[0] is "pods"', "process, container, pod, cgroup"),
        (rule("  limits: {}"), "rules[0].limits limits nothing", "write max_kills or max_bytes"),
        (rule("  limits: {window: 1m}"), "rules[0].limits limits nothing", "write max_kills or max_bytes"),
        (rule("  limits: {max_kills: 0}"), "limits.max_kills is 0", "from 1"),
        (rule("  limits: {max_bytes: 64GB}"), 'limits.max_bytes is "64GB"', "such as 64GiB"),
        (rule("  limits: {max_bytes: 0B}"), 'limits.max_bytes is "0B"', "such as 64GiB"),
        (rule("  limits: {max_kills: 1, window: 1d}"), 'limits.window is "1d"', "from 1s to 24h"),
        (rule("  limits: {max_kills: 1, window: 1ms}"), 'limits.window is "1ms"', "from 1s to 24h"),
        (rule("  limits: {max_kills: 1, window: 25h}"), 'limits.window is "25h"', "from 1s to 24h"),
        (rule("  limits: {max_kils: 1}"), "rules[0].limits.max_kils is no key", 'did you mean "max_kills"?'),
        (HEAD + "- {name: a, callers: [{transport: unix}], methods: [Kill]}", 'methods[0] is "Kill"', "KillAndRelease"),
        (HEAD + "- {name: a, callers: [{transport: unix}], methods: []}", "methods is an empty list", "KillAndRelease"),
        (HEAD + "- {name: a, callers: [], methods: ['*']}", "callers is an empty list", "list at least one"),
        (caller("{}"), "callers[0] has no key, so it would be everybody", "write for example"),
        (caller("{uri: }"), "callers[0].uri is empty", "write a URI"),
        (caller("{uri: 'no uri'}"), 'callers[0].uri is "no uri"', "write a URI"),
        (caller("{uri: 'spiffe://*/a'}"), "callers[0].uri is", "a wildcard stands in the path"),
        (caller("{uri: '*'}"), "callers[0].uri is", "write a URI"),
        (caller("{uri: 'spiffe://c/a*b'}"), "callers[0].uri is", "at the end of a segment"),
        (caller("{uri: 'spiffe://c/**/b'}"), "callers[0].uri is", "as the whole last one"),
        (caller("{uri: 'spiffe://c/a**'}"), "callers[0].uri is", "as the whole last one"),
        (caller("{uri: 'spiffe://c/***'}"), "callers[0].uri is", "as the whole last one"),
        (caller("{uri: 'spiffe://c/../*'}"), "callers[0].uri is", "none that is . or .."),
        (caller("{uri: 'spiffe://c//*'}"), "callers[0].uri is", "no empty segment"),
        (caller("{dns: '*'}"), "callers[0].dns is", "write a DNS name"),
        (caller("{dns: 'a.*'}"), "callers[0].dns is", "write a DNS name"),
        (caller("{dns: 'Sched.example'}"), "callers[0].dns is", "in lower case"),
        (caller("{cn: 'ops*'}"), "callers[0].cn is", "no wildcard"),
        (caller("{cn: 17}"), "callers[0].cn is 17", "write it in quotes"),
        (caller("{unix_uid: root}"), 'callers[0].unix_uid is "root"', "write a user id"),
        (caller("{unix_uid: 99999999999999999999999}"), "callers[0].unix_uid is", "write a user id"),
        (caller("{transport: tcp}"), 'callers[0].transport is "tcp"', "unix, mtls"),
        (caller("{user: 0}"), "callers[0].user is no key", "write one of uri, dns"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_what_to_write(text: str, where: str, remedy: str) -> None:
    message = refused(text)
    assert where in message
    assert remedy in message


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"a: 1\nb: {c: 1,\n c: 2}", "p.yaml:3: b.c is there twice (before on line 2)"),
        (b"a: &x [1]\nb: [*x, *x]", "has an anchor or alias"),
        (b"a: &a [z,z]\nb: &b [*a,*a]\nc: [*b,*b]", "has an anchor or alias"),
        (b"a: !!python/object/apply:os.system [id]", "p.yaml:1: a has a YAML tag"),
        (b"a: !!binary aGk=", "has a YAML tag"),
        (b"a: 1\n---\nb: 1", "begins a second document"),
        (b"? [a]\n: 1", "a key that is not a plain word"),
        (b"[" * 5000, "is nested too deeply"),
        (b"- " * 5000, "is nested too deeply"),
        (b"{a: " * 5000, "is nested too deeply"),
        (b"a: \xff", "is not UTF-8 (byte 3)"),
        (b"a: \x00", "is not YAML"),
        (b"a: 'x", "is not YAML"),
        (b"a\n b: 1: 2", "is not YAML"),
        (b"%YAML 9.9\n---\na: 1", "is not YAML"),
        (b'version: "1\\n"', "has characters that nobody sees"),
        ("cn: o\u202eps".encode(), "has characters that nobody sees"),
        (b"a: |\n  x\n  y", "has characters that nobody sees"),
        (b"#" * (MAX_BYTES + 1), f"is larger than {MAX_BYTES} bytes"),
        (b"<<: {a: 1}", "<< is no key"),
    ],
)
def test_hostile_yaml_is_refused(raw: bytes, problem: str) -> None:
    assert problem in refused(raw)


def test_words_that_yaml_takes_for_something_else_are_texts() -> None:
    text = b"{a: no, b: on, c: 1:30, d: 0o7, e: 010, f: 1_000, g: 2026-01-01, h: =, i: 1e3, j: .inf}"
    assert list(parse(text, "f").value.values()) == ["no", "on", "1:30", "0o7", "010", "1_000", "2026-01-01", "=", "1e3", ".inf"]
    assert parse(b"[1, -2, 0, true, null, '1', \"true\"]", "f").value == [1, -2, 0, True, None, "1", "true"]


def test_an_empty_list_of_rules_denies_everything() -> None:
    policy = load(b"version: 1\nrules: []\n", "p.yaml")
    assert policy.grant(UNIX, "GetNode") is None


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ("{max_kills: 10}", Limit("a", 10, None, 60.0)),
        ("{max_bytes: 64GiB, window: 1h}", Limit("a", None, 64 << 30, 3600.0)),
        ("{max_kills: 1, max_bytes: 1.5KiB, window: 1.5s}", Limit("a", 1, 1536, 1.5)),
        ("{max_bytes: 5}", Limit("a", None, 5, 60.0)),
    ],
)
def test_limits_are_the_grants(limits: str, expected: Limit) -> None:
    grant = load(rule(f"  limits: {limits}").encode(), "p.yaml").grant(UNIX, "KillAndRelease")
    assert grant is not None
    assert [each.limit for each in grant.rules] == [expected]


class Tell:
    def __init__(self) -> None:
        self.told: list[tuple[str, bool, str]] = []

    def __call__(self, what: str, stale: bool, why: str) -> None:
        self.told.append((what, stale, why))


def replace(file: Path, text: str) -> None:
    """As Kubernetes, Ansible and editors do: another file under the name."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o644)
    new.rename(file)


def take(policy: WatchedPolicy) -> None:
    """Two polls: a file is read when it was still between them."""
    policy.watched.poll()
    policy.watched.poll()


def test_a_changed_file_is_taken_and_a_broken_one_is_not(tmp_path: Path) -> None:
    file, tell = tmp_path / "policy.yaml", Tell()
    replace(file, RULE)
    policy = WatchedPolicy(str(file), tell)
    before = policy.grant(UNIX, "Release")
    assert before is not None

    replace(file, RULE.replace("'*'", "GetNode"))
    take(policy)
    assert policy.grant(UNIX, "Release") is None
    assert policy.grant(UNIX, "GetNode") is not None
    assert before.unrestricted  # what was granted stays what it was

    replace(file, "version: 1\nrules: {}\n")
    take(policy)
    assert policy.grant(UNIX, "GetNode") is not None
    file.unlink()
    take(policy)
    assert policy.grant(UNIX, "GetNode") is not None
    replace(file, RULE)
    take(policy)
    assert policy.grant(UNIX, "Release") is not None
    assert [(what, stale) for what, stale, _ in tell.told] == [("policy", False), ("policy", True), ("policy", True), ("policy", False)]
    assert "rules is an empty mapping" in tell.told[1][2]


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o622])
def test_a_file_that_others_can_change_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(RULE)
    file.chmod(mode)
    with pytest.raises(ConfigError, match="chmod go-w"):
        WatchedPolicy(str(file), Tell())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(RULE)
    file.chmod(0o644)
    os.chown(file, 65534, 65534)
    with pytest.raises(ConfigError, match="belongs to user 65534"):
        WatchedPolicy(str(file), Tell())


def test_a_policy_of_several_hundred_rules_is_taken() -> None:
    text = HEAD + "".join(f"- {{name: r{n}, callers: [{{dns: h{n}.example}}], methods: [Release]}}\n" for n in range(500))
    policy = load(text.encode(), "p.yaml")
    assert policy.grant(Caller("mtls", dns=("h499.example",)), "Release") is not None
    assert policy.grant(Caller("mtls", dns=("h500.example",)), "Release") is None


def test_more_callers_than_are_remembered_are_each_judged() -> None:
    policy = load(f"{HEAD}- {{name: a, callers: [{{unix_uid: 7}}], methods: [Release]}}\n".encode(), "p.yaml")
    for uid in (*range(5000), 7, 8):
        assert (policy.grant(Caller("unix", uid=uid, pid=uid), "Release") is not None) == (uid == 7)
