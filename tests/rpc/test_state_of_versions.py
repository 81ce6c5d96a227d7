"""What another version of the agent has left on disk: an older one's is gone on with, a newer one's is kept or refused, nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from mrelease import Process, _audit_chain
from mrelease._audit_chain import read_head
from mrelease._version import VERSION
from mrelease_agent.boosting.journal import NAME
from mrelease_agent.linux import cgroup_tree
from mrelease_agent.linux.node import boot_id
from support import lab, scrape
from support.agent import agent_command, clean_environment, running_agent
from support.audit_log import records, sound

STATES = sorted((Path(__file__).parents[1] / "data").glob("state-*"))
JSON = ("--log-format", "json")


@pytest.fixture(params=STATES, ids=lambda path: path.name)
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of what an agent of that version has left, as private as it left it."""
    copy = shutil.copytree(request.param, tmp_path / "state")
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return copy


@pytest.fixture
def lifted() -> Generator[tuple[lab.Cgroup, str]]:
    """A group whose CPU weight an agent has lifted before it died, and the file of it."""
    with lab.cpu_cgroup() as group:
        yield group, "cpu.weight" if group.version == 2 else "cpu.shares"


def journal(template: str, group: lab.Cgroup, file: str, was: str) -> str:
    tree = cgroup_tree.tree("cpu")
    assert tree is not None
    mine = next(path for path, fd in tree.walk() if os.fstat(fd).st_ino == group.path.stat().st_ino)
    values = {
        "BOOT": boot_id(), "VERSION": str(group.version), "PATH": mine, "INODE": str(group.path.stat().st_ino), "FILE": file,
        "WAS": was, "NOW": group.read(file),
    }  # fmt: skip
    for name, value in values.items():
        template = template.replace(f"@{name}@", value)
    return template


# An upgrade


def test_an_audit_log_is_gone_on_with_and_what_was_left_open_is_closed(state: Path, run_dir: Path) -> None:
    log = state / "audit"
    before, last = records(log), sound(log).last
    with running_agent(run_dir, "--audit-dir", str(log)) as agent, agent.client() as node, lab.live(lab.MIB) as victim:
        assert node.kill_and_release(Process(victim.pid)).is_released
        assert agent.terminate() == 0
    after = records(log)
    assert after[: len(before)] == before
    assert after[len(before)]["prev"] == last.hash
    ended = {record["intent"] for record in before if record["event"] == "result"}
    (left,) = [record["seq"] for record in before if record["event"] == "intent" and record["seq"] not in ended]
    assert [record["event"] for record in after[len(before) :]] == ["start", "interrupted", "intent", "result", "stop"]
    assert after[len(before) + 1]["intent"] == left
    assert {record["agent"] for record in after if record["event"] == "start"} == {state_version(before), VERSION}
    sound(log)


def state_version(log: list[dict[str, object]]) -> object:
    return next(record["agent"] for record in log if record["event"] == "start")


def test_weights_that_were_lifted_are_put_back(state: Path, lifted: tuple[lab.Cgroup, str], run_dir: Path) -> None:
    group, file = lifted
    was = group.read(file)
    group.write(file, "10000")
    left = state / NAME
    left.write_text(journal(left.read_text(), group, file, was))
    with running_agent(run_dir, "--state-dir", str(state), *JSON) as agent:
        assert group.read(file) == was
        assert "CPU weights restored: 1" in scrape.wait_event(agent, "recovered")["what"]
    assert left.read_text() == ""


def test_every_key_of_a_configuration_is_known_still(state: Path) -> None:
    text = (state / "agent.yaml").read_text()
    done = subprocess.run(
        agent_command("--config", str(state / "agent.yaml"), "--print-config"),
        capture_output=True, text=True, env=clean_environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    for line in text.splitlines():
        key = line.partition(":")[0]
        (shown,) = [each for each in printed if each.startswith(f"{key}: ")]
        assert "agent.yaml:" in shown, f"{key} is not taken from the file"


def test_a_policy_is_valid_still(state: Path) -> None:
    command = [sys.executable, "-m", "mrelease", "policy", "check", str(state / "policy.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# And back


def test_an_audit_log_of_a_later_format_is_gone_on_with_and_verified(tmp_path: Path, run_dir: Path) -> None:
    """The rule of the chain is the same in every version: what an older agent does not know of a record it does not need."""
    log = tmp_path / "audit"
    with running_agent(run_dir, "--audit-dir", str(log)) as agent:
        assert agent.terminate() == 0
    last = sound(log).last
    new: list[tuple[str, dict[str, object]]] = [("intent", {"processes": [], "new": {"deep": [1]}}), ("planned", {"of": 1}), ("stop", {})]
    with next(log.glob("audit-*")).open("ab") as file:
        for event, more in new:
            when = "2027-01-01T00:00:00.000000000Z"
            body: dict[str, object] = {"event": event, "v": 2, "seq": last.seq + 1, "time": when, "prev": last.hash, **more}
            line, digest = _audit_chain.seal(json.dumps(body, separators=(",", ":")).encode())
            file.write(line)
            last = _audit_chain.Head(last.seq + 1, digest)
    (log / "head").write_bytes(_audit_chain.write_head(last))
    with running_agent(run_dir, "--audit-dir", str(log)) as agent:
        assert agent.terminate() == 0
    assert len(list(log.glob("audit-*"))) == 1, "no new file was begun: the old one is trusted"
    after = records(log)
    assert [record["event"] for record in after[-3:]] == ["start", "interrupted", "stop"]
    assert after[-2]["intent"] == after[-6]["seq"]
    assert after[-3]["prev"] == last.hash
    head = read_head((log / "head").read_bytes())
    assert head is not None
    assert head.seq == sound(log).last.seq
    show = subprocess.run([sys.executable, "-m", "mrelease", "audit", "show", str(log)], capture_output=True, text=True, check=False)
    assert show.returncode == 0, show.stderr
    assert "planned" in show.stdout


def test_a_journal_of_a_later_format_is_kept_for_it(lifted: tuple[lab.Cgroup, str], tmp_path: Path, run_dir: Path) -> None:
    group, file = lifted
    was = group.read(file)
    group.write(file, "10000")
    (tmp_path / "state").mkdir(mode=0o700)
    template = next(path for path in STATES if (path / NAME).exists()) / NAME
    later = journal(template.read_text(), group, file, was).replace('"number":1', '"v":2,"number":7,"more":{}')
    (tmp_path / "state" / NAME).write_text(later)
    with running_agent(run_dir, "--state-dir", str(tmp_path / "state"), *JSON) as agent:
        said = scrape.wait_event(agent, "recovered")["what"]
        assert "of a later version, kept: start that version once" in said
        assert group.read(file) == "10000", "what it does not understand it does not touch"
        assert agent.terminate() == 0
    assert (tmp_path / "state" / NAME).read_text() == later


def test_a_key_of_a_later_version_is_refused_by_name_place_and_version(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("reap_delay: 5ms\nzzz_of_the_future: 7\n")
    refused = subprocess.run(
        agent_command("--config", str(file)), capture_output=True, text=True, env=clean_environment(), check=False
    )  # fmt: skip
    assert refused.returncode == 2
    assert f'unknown key "zzz_of_the_future" in {file}:2' in refused.stderr
    assert f"mrelease-agent {VERSION}" in refused.stderr


def test_a_policy_of_a_later_version_is_refused(tmp_path: Path, run_dir: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("version: 2\nrules: []\n")
    run_dir.mkdir(mode=0o700)
    refused = subprocess.run(
        agent_command("--listen", f"unix://{run_dir}/agent.sock", "--policy", str(file)),
        capture_output=True, text=True, env=clean_environment(), check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert "version" in refused.stderr
    assert not (run_dir / "agent.sock").exists()
