"""Every answer of process_mrelease(2), made by the real kernel or by a seccomp filter, and what the agent makes of it.

What is expected is written out here a second time: whoever changes the agent's table, or adds to it, has to say so here too, and has to
bring a case that makes the kernel give the answer.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mrelease import Client, Feature, Outcome, Process, ProcessResult, Proof, Wait, errors
from mrelease_agent.reaping.outcome import ANSWERS, UNEXPECTED
from support import lab, seam_agent
from support.agent import Agent, running_agent

SIZE = 32 * lab.MIB
LONG, SHORT = 30.0, 0.5

pytestmark = pytest.mark.usefixtures("process_mrelease")

#: What follows an answer, and the outcome where the memory is not back by the deadline.
TABLE = {
    0: ("MEASURE", "PARTIAL"),
    errno.ESRCH: ("AWAIT_EXIT", "HELD"),
    errno.EINVAL: ("DIAGNOSE", "NOT_DYING"),
    errno.EAGAIN: ("RETRY", "HELD"),
    errno.EINTR: ("RETRY", "HELD"),
    errno.ENOSYS: ("AWAIT_EXIT", "UNSUPPORTED"),
    errno.EPERM: ("AWAIT_EXIT", "UNSUPPORTED"),
}


@contextlib.contextmanager
def stands_at_its_exit() -> Generator[lab.Victim, None, None]:
    """Alive; when it is killed its memory stays until it is reaped."""
    with lab.live(SIZE) as victim, lab.hold_at_exit(victim):
        yield victim


@contextlib.contextmanager
def shares_and_stands_at_its_exit() -> Generator[lab.Victim, None, None]:
    """The same, with its address space also a living process's."""
    with lab.clone_vm_sharer(SIZE) as victim, lab.hold_at_exit(victim):
        yield victim


@dataclass(frozen=True, slots=True)
class Case:
    """A victim, a request, perhaps a filter around the agent: then the answer is ``errno`` and this comes of it."""

    name: str
    errno: int
    victim: Callable[[], AbstractContextManager[lab.Victim]]
    outcome: Outcome
    proof: Proof = Proof.UNSPECIFIED
    errno_name: str = ""
    kill: bool = True
    attempts: int = 1
    seccomp: dict[str, Any] = field(default_factory=dict[str, Any])

    def __str__(self) -> str:
        return self.name


def always(name: str) -> dict[str, Any]:
    """Every call answers so, but not the probe at the agent's start: the answer comes when it is needed."""
    return {"error": name, "spare_probe": True}


def thrice(name: str) -> dict[str, Any]:
    """Three calls answer so, then the kernel does."""
    return {"error": name, "times": 3}


CASES = [
    Case("0-reaped", 0, lambda: lab.held_at_exit(SIZE), Outcome.RELEASED, Proof.RELEASE, kill=False),
    Case("0-reaped-after-a-kill", 0, stands_at_its_exit, Outcome.RELEASED, Proof.RELEASE),
    Case("ESRCH-inside-exit-mm", errno.ESRCH, lambda: lab.inside_exit_mm(SIZE), Outcome.HELD, errno_name="ESRCH", kill=False),
    Case("ESRCH-past-exit-mm", errno.ESRCH, lambda: lab.past_exit_mm(SIZE), Outcome.HELD, errno_name="ESRCH", kill=False),
    Case("EINVAL-core-dump", errno.EINVAL, lambda: lab.core_dumping(SIZE), Outcome.CORE_DUMPING, errno_name="EINVAL", kill=False),
    Case("EINVAL-clone-vm", errno.EINVAL, shares_and_stands_at_its_exit, Outcome.SHARED_MM, errno_name="EINVAL"),
    Case("EAGAIN-for-a-while", errno.EAGAIN, stands_at_its_exit, Outcome.RELEASED, Proof.RELEASE, attempts=4, seccomp=thrice("EAGAIN")),
    Case("EAGAIN-for-ever", errno.EAGAIN, stands_at_its_exit, Outcome.HELD, errno_name="EAGAIN", attempts=2, seccomp=always("EAGAIN")),
    Case("EINTR-for-a-while", errno.EINTR, stands_at_its_exit, Outcome.RELEASED, Proof.RELEASE, attempts=4, seccomp=thrice("EINTR")),
    Case("EINTR-for-ever", errno.EINTR, stands_at_its_exit, Outcome.HELD, errno_name="EINTR", attempts=2, seccomp=always("EINTR")),
    Case("ENOSYS-when-needed", errno.ENOSYS, stands_at_its_exit, Outcome.UNSUPPORTED, errno_name="ENOSYS", seccomp=always("ENOSYS")),
    Case("EPERM-when-needed", errno.EPERM, stands_at_its_exit, Outcome.UNSUPPORTED, errno_name="EPERM", seccomp=always("EPERM")),
]
#: What mm/oom_kill.c does not document, and what would be a defect of ours.
UNDOCUMENTED = [
    Case(f"{name}-undocumented", getattr(errno, name), stands_at_its_exit, Outcome.HELD, errno_name=name, seccomp=always(name))
    for name in ("EIO", "EBADF", "EFAULT")
]


def prefix(seccomp: dict[str, Any], command: list[str] | None = None) -> list[str]:
    return lab.filtered(command or [], **seccomp) if seccomp else command or []


def observe(node: Client, case: Case, timeout: float) -> ProcessResult:
    """Make the case and the request."""
    with case.victim() as victim:
        call = node.kill_and_release if case.kill else node.release
        (process,) = call(Process(victim.pid), timeout=timeout).processes
        return process


def test_the_table_is_this_one() -> None:
    assert {number: (entry.then.name, entry.outcome.name) for number, entry in ANSWERS.items()} == TABLE
    assert (UNEXPECTED.then.name, UNEXPECTED.outcome.name) == ("AWAIT_EXIT", "HELD")
    assert all(entry.meaning for entry in ANSWERS.values())


def test_every_answer_has_a_case() -> None:
    assert {case.errno for case in CASES} == ANSWERS.keys()
    assert not {case.errno for case in UNDOCUMENTED} & ANSWERS.keys()


@pytest.mark.parametrize("case", [*CASES, *UNDOCUMENTED], ids=str)
def test_an_answer(case: Case, agent: Agent, run_dir: Path) -> None:
    with contextlib.ExitStack() as stack:
        chosen = stack.enter_context(running_agent(run_dir, prefix=prefix(case.seccomp))) if case.seccomp else agent
        node = stack.enter_context(chosen.client())
        found = observe(node, case, LONG if case.proof is Proof.RELEASE else SHORT)
    assert (found.outcome, found.proof) == (case.outcome, case.proof), found
    assert found.release_attempts >= case.attempts, found
    if case.errno_name:
        assert (found.errno_name, found.errno_number) == (case.errno_name, case.errno)
        assert found.cause
    if case.outcome in (Outcome.HELD, Outcome.UNSUPPORTED):
        assert found.released_bytes == 0
        if case.outcome is Outcome.HELD:
            assert found.cause
            assert found.remedy
    if case.proof is Proof.RELEASE:
        assert found.released_bytes >= SIZE * 0.98
        assert found.errno_name == ""


@pytest.mark.parametrize("number", TABLE, ids=lambda number: errno.errorcode.get(number, "0"))
def test_a_wrong_entry_shows(number: int, run_dir: Path) -> None:
    """The cases above see the table: with one entry wrong, a case of that answer ends otherwise."""
    case = next(case for case in CASES if case.errno == number)
    with running_agent(run_dir, prefix=prefix(case.seccomp, seam_agent.seam("break", str(number)))) as agent, agent.client() as node:
        found = observe(node, case, SHORT)
        assert found.outcome is Outcome.PROTECTED
        assert found.outcome is not case.outcome


@pytest.mark.parametrize("method", ["live", "stopped", "zombie_leader"])
def test_einval_of_the_living_signals_nothing(node: Client, method: str) -> None:
    with getattr(lab, method)(SIZE) as victim:
        with pytest.raises(errors.NotDying):
            node.release(Process(victim.pid))
        assert not victim.exited(0)
        assert lab.rss_anon(victim.pid) >= SIZE


def test_esrch_of_a_zombie_is_an_exit(node: Client) -> None:
    with lab.zombie(SIZE) as victim:
        (found,) = node.release(Process(victim.pid)).processes
    assert (found.outcome, found.proof, found.released_bytes) == (Outcome.EXITED, Proof.EXIT, 0)


FORBIDDEN: dict[str, tuple[dict[str, Any], str]] = {
    "ENOSYS": ({"error": "ENOSYS"}, "has no process_mrelease"),
    "EPERM": ({"error": "EPERM"}, "EPERM"),
    "EIO": ({"error": "EIO"}, "EIO"),
    "SIGSYS-trap": ({"trap": True}, "SIGSYS"),
    "SIGSYS-kill": ({"kill": True}, "SIGSYS"),
}


@pytest.mark.parametrize("how", FORBIDDEN)
def test_where_the_call_is_forbidden_the_agent_says_so_and_kills_all_the_same(how: str, run_dir: Path) -> None:
    seccomp, named = FORBIDDEN[how]
    with running_agent(run_dir, prefix=prefix(seccomp)) as agent, agent.client() as node:
        described = node.get_node()
        (capability,) = (found for found in described.capabilities if found.feature is Feature.PROCESS_MRELEASE)
        assert not described.can(Feature.PROCESS_MRELEASE)
        assert named in capability.reason
        assert "RELEASED is never claimed" in capability.reason
        assert capability.remedy

        with lab.live(SIZE) as victim:
            (found,) = node.kill_and_release(Process(victim.pid), wait=Wait.EXITED).processes
            assert (found.outcome, found.proof) == (Outcome.EXITED, Proof.EXIT)
            assert found.released_bytes >= SIZE * 0.98
            assert victim.exited(0)
        with stands_at_its_exit() as victim:
            (found,) = node.kill_and_release(Process(victim.pid), timeout=SHORT).processes
            assert (found.outcome, found.proof, found.released_bytes) == (Outcome.UNSUPPORTED, Proof.UNSPECIFIED, 0)
            assert found.release_attempts == 0
            assert "doctor" in found.remedy
        with lab.live(SIZE) as victim:
            with pytest.raises(errors.NotDying):
                node.release(Process(victim.pid))
            assert not victim.exited(0)
        assert agent.process.poll() is None


def test_a_cgroup_of_its_own_proves_what_the_call_cannot(run_dir: Path) -> None:
    """Without process_mrelease(2), of a victim past exit_mm that has not exited, the charge of its cgroup shows that the memory is back."""
    with (
        running_agent(run_dir, prefix=prefix({"error": "EPERM"})) as agent,
        agent.client() as node,
        lab.memory_cgroup() as group,
        lab.live(SIZE, within=[group]) as victim,
    ):
        (found,) = node.kill_and_release(Process(victim.pid)).processes
        assert found.outcome is Outcome.EXITED
        assert found.proof in (Proof.CGROUP, Proof.EXIT)
        assert found.released_bytes >= SIZE * 0.98
