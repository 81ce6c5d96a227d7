"""The seccomp profile for containers: it has every call that a real agent makes and none that could harm the node."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

from support import lab
from support.agent import Agent
from support.certified import Certified, certified_agent
from support.exercise import FLAGS, calls_in, exercise, exercise_tls, traced
from support.markdown import ROOT
from support.privileges import LEAST, tool

PROFILE = ROOT / "deploy" / "seccomp" / "mrelease.json"
LAUNCHER = ROOT / "tests" / "support" / "in_container.py"
HARMFUL = {
    "bpf", "chroot", "delete_module", "finit_module", "fsopen", "init_module", "io_uring_setup", "ioperm", "iopl", "kexec_file_load",
    "kexec_load", "keyctl", "mount", "mount_setattr", "move_mount", "name_to_handle_at", "open_by_handle_at", "open_tree", "pidfd_getfd",
    "perf_event_open", "personality", "pivot_root", "process_vm_writev", "ptrace", "quotactl", "reboot", "setns", "setuid", "swapon",
    "umount2", "unshare", "userfaultfd",
}  # fmt: skip


def profile() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(PROFILE.read_text())
    return loaded


def allowed() -> set[str]:
    return {name for rule in profile()["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}


def test_it_answers_and_does_not_kill() -> None:
    assert (profile()["defaultAction"], profile()["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    assert {rule["action"] for rule in profile()["syscalls"]} == {"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"}


def test_nothing_harmful_is_in_it() -> None:
    assert sorted(allowed() & HARMFUL) == []


def test_no_call_is_in_it_twice_without_a_condition() -> None:
    names = [name for rule in profile()["syscalls"] if "args" not in rule for name in rule["names"]]
    assert len(names) == len(set(names))


def test_every_call_that_an_agent_makes_is_in_it(tmp_path: Path) -> None:
    """From its start to its end, with TLS, audit, metrics, streams and every boost."""
    tool("strace")
    (tmp_path / "calls").mkdir()
    with certified_agent(tmp_path / "agent", *FLAGS, "--audit-dir", str(tmp_path / "audit"), prefix=traced(tmp_path / "calls")) as served:
        exercise(served.agent)
        exercise_tls(served)
        assert served.agent.terminate() == 0
    made = calls_in(tmp_path / "calls")
    assert {"process_mrelease", "pidfd_send_signal", "epoll_wait", "accept4", "kcmp"} <= made
    # Of clone3 the C library knows that it may not be there.
    assert sorted(made - allowed() - {"clone3"}) == []


@contextlib.contextmanager
def contained(folder: Path, *flags: str) -> Generator[Certified, None, None]:
    """An agent in a container as that of the DaemonSet, under the profile."""
    lab.need_root("a container")
    tool("runc")
    id_ = f"mrelease-test-{os.getpid()}-{folder.name[-8:]}"
    interpreter = {*sys.path, sys.prefix, sys.base_prefix, str(ROOT)} - {""}
    seen = [argument for path in sorted(interpreter) for argument in ("--read", path)]
    launch = [
        sys.executable,
        "-E",
        "-s",
        str(LAUNCHER),
        "--folder",
        str(folder / "bundle"),
        "--seccomp",
        str(PROFILE),
        "--caps",
        ",".join(LEAST),
    ]
    prefix = [*launch, "--id", id_, *seen, "--write", str(folder), "--"]
    try:
        with certified_agent(folder / "agent", *flags, "--audit-dir", str(folder / "audit"), prefix=prefix) as served:
            yield served
    finally:
        subprocess.run(["runc", "--root", str(folder / "bundle/state"), "delete", "--force", id_], check=False, capture_output=True)


def agent_in(container: Agent) -> int:
    """The agent's process: the one that runc started."""
    (pid,) = (int(pid) for task in Path(f"/proc/{container.pid}/task").iterdir() for pid in (task / "children").read_text().split())
    return pid


def test_an_agent_in_a_container_does_everything_under_it(tmp_path: Path) -> None:
    with contained(tmp_path, *FLAGS) as served:
        fields = lab.status_fields(agent_in(served.agent))
        assert (fields["Seccomp"], fields["NoNewPrivs"]) == ("2", "1")
        assert int(fields["CapEff"], 16) == 1 << 5 | 1 << 14 | 1 << 19 | 1 << 23
        exercise(served.agent)
        exercise_tls(served)
        assert served.agent.terminate() == 0
