"""An agent without privileges serves the processes that its user may signal, and says what is off and what to change."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import grpc
import pytest

from mrelease import Feature, Outcome, Process, errors
from mrelease_agent.linux.procfs import ancestors
from support import lab, raw
from support.agent import Agent, running_agent

NOBODY = lab.NOBODY
SIZE = 16 * lab.MIB
#: For where only root can read the interpreter: nobody, who may read and enter everything and do nothing else that users may not.
READS_ALL = (
    *("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"),
    *("--inh-caps", "-all,+dac_override", "--ambient-caps", "-all,+dac_override"),
)


def runs(*command: str, user: int | None = None) -> bool:
    try:
        return (
            subprocess.run(
                [*command, sys.executable, "-c", "import mrelease_agent.agent"],
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                capture_output=True,
                check=False,
                cwd="/",
            ).returncode
            == 0
        )
    except OSError:
        return False


@pytest.fixture(scope="module")
def unprivileged() -> Generator[Agent, None, None]:
    """The agent of nobody, or of the user who runs the tests."""
    with contextlib.ExitStack() as stack:
        # pytest's own folders are closed to other users.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mrelease-test-", dir="/tmp")))
        folder.chmod(0o711)
        run = folder / "run"
        if os.geteuid() != 0:
            yield stack.enter_context(running_agent(run))
        elif runs(user=NOBODY):
            yield stack.enter_context(running_agent(run, user=NOBODY))
        elif shutil.which("setpriv") and runs(*READS_ALL):
            run.mkdir(mode=0o700)
            os.chown(run, NOBODY, NOBODY)
            yield stack.enter_context(running_agent(run, prefix=READS_ALL))
        else:
            pytest.skip("another user than root cannot run this interpreter, and there is no setpriv(1)")


def own_user(agent: Agent) -> int | None:
    """The user that a victim has to be given to; None: it is the user's own anyway."""
    return NOBODY if os.geteuid() == 0 else None


def test_it_serves_the_processes_of_its_user(unprivileged: Agent) -> None:
    with unprivileged.client() as node, lab.live(SIZE, uid=own_user(unprivileged)) as victim, lab.hold_at_exit(victim):
        (killed,) = node.kill_and_release(Process(victim.pid)).processes
        assert killed.outcome is Outcome.RELEASED
        assert killed.released_bytes >= SIZE * 0.98


def roots_process() -> int:
    """A process of root's that no rule but the kernel's protects: the agent's ancestors, which are the tests', are refused for that."""
    mine = {1, *ancestors()}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in mine:
            fields = lab.status_fields(int(entry.name))
            if fields.get("Uid", "").split()[:2] == ["0", "0"] and "RssAnon" in fields:
                return int(entry.name)
    raise lab.Unavailable("no process of root's is visible here but those that started the tests")


def test_it_refuses_the_processes_of_others(unprivileged: Agent) -> None:
    with contextlib.ExitStack() as stack:
        pid = stack.enter_context(lab.live(SIZE)).pid if os.geteuid() == 0 else roots_process()
        with unprivileged.client() as node:
            for validate_only in (True, False):
                with pytest.raises(errors.NotPermitted) as caught:
                    node.kill_and_release(Process(pid), validate_only=validate_only)
                assert caught.value.nothing_signalled
                assert "CAP_KILL" in caught.value.remedy
        with raw.caller(unprivileged.address) as call:
            raw.assert_refused(call(raw.KILL, raw.process(pid)), grpc.StatusCode.PERMISSION_DENIED, "NOT_PERMITTED")
        assert lab.state(pid) not in ("Z", "X", "")


def test_it_says_what_is_off_and_what_to_change(unprivileged: Agent) -> None:
    with unprivileged.client() as node:
        described = node.get_node()
    uid = os.geteuid() or NOBODY
    assert described.agent_uid == uid
    off = {found.feature: found for found in described.capabilities if not found.available}
    assert {Feature.KILL_ANY_USER, Feature.COMPARE_MM} <= off.keys()
    assert str(uid) in off[Feature.KILL_ANY_USER].reason
    assert all(found.reason and found.remedy for found in off.values())
    assert "CAP_KILL" in off[Feature.KILL_ANY_USER].remedy


def test_it_lists_every_process_that_it_may_see(unprivileged: Agent) -> None:
    with unprivileged.client() as node, lab.live(SIZE, uid=own_user(unprivileged)) as victim:
        found = {info.pid: info for info in node.list_processes(limit=None, uid=os.geteuid() or NOBODY)}
        assert victim.pid in found
        assert {info.uid for info in found.values()} == {os.geteuid() or NOBODY}
