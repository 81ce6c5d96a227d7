"""What the agent does for a call, counted: a guard against doing more without noticing.

No time is looked at: the counts are the same on every machine and under every load; the ceilings leave 5 % to versions of Python. Who
means to do more raises the ceiling, and says in the commit what that buys. docs/explanation/measured-limits.md has what these cost.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.agent import PATIENCE, clean_environment, running_agent
from support.markdown import ROOT

Counts = dict[str, dict[str, int]]

#: For one kill: calls of the agent's own functions, of 327 when this was written.
KILL_CALLS = 345
#: Its directory, stat (who?); cgroup, children, descriptors (2), oom_score_adj (protected?); cgroup, its charge, the parent's cgroup
#: (proof); status (memory); children, the parent's statm (who shares?).
KILL_OPENS = 13
#: For one more process in a group, before the signal: calls, of 39; directory, stat; children, descriptors (2), oom_score_adj; status,
#: children. In a container, where no runtime can be, it is three fewer.
MEMBER_CALLS = 41
MEMBER_OPENS = 8
#: GetNode tells what is known: it reads nothing.
NODE_CALLS = 55
#: A kill may do so many times as much as GetNode; of 6.4.
RATIO = 6.8

#: Of the idle agent: modules of its own, of 124, and what it must not have loaded before it is asked for.
OWN_MODULES = 128
NOT_IDLE = {
    "cryptography": "mTLS reads certificates by itself",
    "yaml": "policy files",
    "prometheus_client": "metrics by HTTP",
    "psutil": "nothing reads processes by it",
    "opentelemetry": "spans",
    "click": "the command line",
    "rich": "the command line",
    "lightkube": "the controller",
    "http": "HTTP is served by sockets",
    "email": "no mail, and what comes with http and importlib.metadata",
    "multiprocessing": "agents fork for probes alone",
    "unittest": "tests",
    "xml": "nothing",
}
NOT_IDLE_OWN = ("reaping.diagnosis", "guard.policy.load", "guard.audit.log", "rpc.tls", "rpc.custom_target", "targets.plugins")


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Counts:
    """What an agent counted of itself, see support.counted_agent."""
    folder = tmp_path_factory.mktemp("counted")
    folder.chmod(0o700)
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "support.counted_agent", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2 * PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    found: Counts = json.loads(done.stdout)
    return found


def test_a_kill_takes_no_more_calls_files_and_threads_than_it_did(counts: Counts) -> None:
    kill = counts["KillAndRelease"]
    assert kill["calls"] <= KILL_CALLS
    assert kill["opens"] <= KILL_OPENS
    assert kill["hops"] == 0, "who exits by itself is followed on the event loop alone: each hand-over costs two context switches"


def test_a_kill_is_no_more_of_a_multiple_of_a_question_than_it_was(counts: Counts) -> None:
    assert counts["GetNode"]["calls"] <= NODE_CALLS
    assert counts["GetNode"]["opens"] == counts["GetNode"]["hops"] == 0
    assert counts["KillAndRelease"]["calls"] <= RATIO * counts["GetNode"]["calls"]


def test_one_more_process_in_a_group_takes_no_more_than_it_did(counts: Counts) -> None:
    if "group of 24" not in counts:
        pytest.skip("no memory cgroup may be made here: needs root and a memory hierarchy")
    more = {name: (count - counts["group of 8"][name]) / 16 for name, count in counts["group of 24"].items()}
    assert more["calls"] <= MEMBER_CALLS
    assert more["opens"] <= MEMBER_OPENS
    assert more["hops"] == 0, "all members are opened and measured by one job"


def test_the_idle_agent_has_loaded_nothing_that_it_is_not_asked_for(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    with running_agent(run_dir) as agent:
        log = agent.log
    loaded = set(re.findall(r"^import time: +\d+ \| +\d+ \| +([\w.]+)$", log, re.MULTILINE))
    own = {name.removeprefix("mrelease_agent.") for name in loaded if name.startswith("mrelease_agent")}
    assert "rpc.release_service" in own, log
    assert {name.partition(".")[0] for name in loaded} & NOT_IDLE.keys() == set()
    assert own.isdisjoint(NOT_IDLE_OWN)
    assert len(own) <= OWN_MODULES
