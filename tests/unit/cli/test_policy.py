"""`mrelease policy check`: what is wrong with a policy, what it says, and why it decides as it does."""

from __future__ import annotations

import builtins
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mrelease.cli.commands.policy import METHODS as OFFERED
from mrelease_agent.guard.policy.schema import schema
from mrelease_agent.guard.policy.types import METHODS
from support.sdk_cli import Cli, cli_in

POLICY = """
version: 1
rules:
- name: admins
  callers: [{transport: unix}]
  methods: ["*"]
- name: preemptor
  callers: [{uri: "spiffe://cluster.local/ns/kueue/sa/*"}, {dns: sched.example}]
  methods: [KillAndRelease, Reclaim]
  targets: {kinds: [pod], namespaces: [ml, "batch-*"]}
  limits: {max_kills: 1, max_bytes: 64GiB, window: 1m}
- name: owners
  callers: [{cn: ops}]
  methods: [Release, ListProcesses, GetNode]
  targets: {users: [1000, root], cgroups: [/kubepods]}
"""
PREEMPTOR = "spiffe://cluster.local/ns/kueue/sa/controller"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return cli_in(capsys)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return str(path)


def test_a_valid_policy_is_shown(cli: Cli, file: str) -> None:
    done = cli("policy", "check", file)
    assert (done.code, done.err) == (0, "")
    assert done.lines[0] == f"{file} is valid: 3 rules; what none of them allows is denied"
    assert done.lines[1].split() == ["RULE", "CALLERS", "METHODS", "TARGETS", "LIMITS"]
    assert "kinds: pod; namespaces: ml, batch-*" in done.lines[3]
    assert "1 kill and 64 GiB in 1m" in done.lines[3]


def test_a_valid_policy_as_data(cli: Cli, file: str) -> None:
    rules = cli("policy", "check", file, "-o", "json").data["rules"]
    assert [rule["name"] for rule in rules] == ["admins", "preemptor", "owners"]
    assert (rules[0]["callers"], rules[0]["methods"]) == (["transport: unix"], ["*"])
    assert (rules[0]["kinds"], rules[0]["conditions"], rules[0]["limits"]) == (None, {}, None)
    assert rules[1]["limits"] == {"max_kills": 1, "max_bytes": 64 << 30, "window": "60s", "text": "1 kill and 64 GiB in 1m"}
    assert yaml.safe_load(cli("-o", "yaml", "policy", "check", file).out)["rules"] == rules


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_what_is_wrong_is_said_with_its_place(cli: Cli, tmp_path: Path, form: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.replace("namespaces:", "namespace:"))
    done = cli("policy", "check", str(path), "-o", form)
    assert done.code == 2
    message = f'{path}:10: rules[1].targets.namespace is no key that is known there: did you mean "namespaces"?'
    if form == "table":
        assert (done.out, done.err) == ("", f"mrelease: {message}\n")
    else:
        assert yaml.safe_load(done.out) == {"file": str(path), "valid": False, "error": message}
    assert cli("policy", "check", str(tmp_path / "nowhere")).code == 2


def test_users_that_this_machine_does_not_know_may_be_the_nodes(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.replace("1000, root", "no-such-user"))
    done = cli("policy", "check", str(path))
    assert done.code == 0
    assert "this machine has no user no-such-user" in done.err
    assert cli("policy", "check", str(path), "-o", "json").data["unknown_users"] == ["no-such-user"]


@pytest.mark.parametrize(
    ("asked", "decision", "rule", "because"),
    [
        ("unix KillAndRelease", "ALLOWED", 0, "transport: unix"),
        ("uid:0 WatchMemory", "ALLOWED", 0, "transport: unix"),
        ("mtls KillAndRelease", "DENIED", 0, "the caller is none of: transport: unix"),
        (f"{PREEMPTOR} Release", "DENIED", 1, "the method is none of: KillAndRelease, Reclaim"),
        (f"uri:{PREEMPTOR} Reclaim --target process", "DENIED", 1, "the kind of target is none of: pod"),
        (f"{PREEMPTOR} Reclaim", "DEPENDS", 1, "where the kind of target is one of: pod; namespaces: ml, batch-*"),
        (f"{PREEMPTOR} Reclaim --target pod", "DEPENDS", 1, "where namespaces: ml, batch-*"),
        (
            "dns:sched.example Reclaim --target pod --namespace batch-7",
            "ALLOWED",
            1,
            "dns: sched.example; namespaces: ml, batch-*; at most 1 kill and 64 GiB in 1m",
        ),
        (f"{PREEMPTOR} Reclaim --target pod --namespace mlx", "DENIED", 1, "outside of namespaces: ml, batch-*"),
        ("cn:ops Release --user 1000 --cgroup /kubepods/x", "ALLOWED", 2, "cn: ops; cgroups: /kubepods; users: 1000, root"),
        ("cn:ops Release --user root --cgroup /kubepods", "ALLOWED", 2, "cn: ops; cgroups: /kubepods; users: 1000, root"),
        ("cn:ops Release --user 7", "DENIED", 2, "outside of users: 1000, root"),
        ("cn:ops ListProcesses --cgroup /kubepodsX", "DENIED", 2, "outside of cgroups: /kubepods"),
        ("cn:ops GetNode", "ALLOWED", 2, "cn: ops"),
        ("cn:ops GetNode --as dns:sched.example", "ALLOWED", 2, "cn: ops"),
    ],
)
def test_a_decision_is_explained(cli: Cli, file: str, asked: str, decision: str, rule: int, because: str) -> None:
    caller, method, *more = asked.split()
    options = ["--as", caller, "--method", method, *more]
    done = cli("policy", "check", file, *options, "-o", "json")
    assert done.data["decision"] == decision
    says = {"ALLOWED": "allows", "DEPENDS": "depends", "DENIED": "no"}[decision]
    assert done.data["reasons"][rule] == {"rule": ["admins", "preemptor", "owners"][rule], "says": says, "because": because}
    assert done.code == (4 if decision == "DENIED" else 0)
    table = cli("policy", "check", file, *options)
    assert table.code == done.code
    assert table.lines[0].split() == ["RULE", "SAYS", "BECAUSE"]
    assert table.lines[rule + 1].endswith(because)
    assert table.lines[-1] == decision


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (["--method", "Release"], "add --as"),
        (["--namespace", "ml"], "add --as"),
        (["--as", "unix"], "add --method"),
        (["--as", "root", "--method", "Release"], "'root' names no caller"),
        (["--as", "cn:", "--method", "Release"], "'cn:' names no caller"),
        (["--as", "uid:root", "--method", "Release"], "'root' is no number"),
        (["--as", "uid:1", "--as", "cn:ops", "--method", "Release"], "no caller is all of that"),
        (["--as", "cn:a", "--as", "cn:b", "--method", "Release"], "no caller is all of that"),
        (["--as", "unix", "--as", "mtls", "--method", "Release"], "no caller is all of that"),
        (["--as", "unix", "--method", "Release", "--user", "no-such-user"], "has no user 'no-such-user'"),
        (["--as", "unix", "--method", "Kill"], "'Kill' is not one of"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(cli: Cli, file: str, asked: list[str], problem: str) -> None:
    done = cli("policy", "check", file, *asked)
    assert done.code == 2
    assert problem in " ".join(done.err.split())


def test_without_the_agents_libraries_it_says_which_extra_is_missing(cli: Cli, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith("mrelease_agent.guard.policy") or name == "mrelease_agent.config.values":
            monkeypatch.delitem(sys.modules, name)
    real: Any = builtins.__import__

    def without_msgspec(name: str, *rest: Any, **more: Any) -> Any:
        if name == "msgspec":
            raise ModuleNotFoundError("No module named 'msgspec'", name="msgspec")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_msgspec)
    done = cli("policy", "check", file)
    assert done.code == 2
    assert "needs msgspec: pip install 'mrelease[agent,cli]'" in done.err


def test_it_offers_every_method_of_the_contract() -> None:
    assert set(OFFERED) == set(METHODS)


def test_the_schema_describes_every_key() -> None:
    """docs/reference/policy.schema.json; that it is up to date is tests/docs/test_reference.py."""
    definitions: dict[str, Any] = schema()["$defs"]
    assert definitions.keys() == {"PolicyFile", "Rule", "CallerMatch", "Targets", "Limits"}
    undescribed = [
        f"{name}.{key}"
        for name, definition in definitions.items()
        for key, value in definition["properties"].items()
        if "description" not in value and not any("description" in each for each in value.get("anyOf", []))
    ]
    assert undescribed == []
    assert all(definition["additionalProperties"] is False for definition in definitions.values())


def test_a_policy_of_another_user_can_be_checked(cli: Cli, file: str) -> None:
    """In a pipeline it is whoever's; an agent on a node wants it to be root's."""
    Path(file).chmod(0o666)
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
    assert cli("policy", "check", file).code == 0
