"""Privileges that an agent may have or lack: one cell of the matrix each, how it is started, and what was measured of it.

docs/least-privilege.md is made of MEASURED (scripts/least_privilege.py); tests/kernel/test_least_privilege.py measures it again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from support import lab

#: What the agent asks for, and what the systemd unit and the container profile give it.
LEAST = ("kill", "sys_nice", "sys_ptrace", "ipc_lock")


@dataclass(frozen=True, slots=True)
class Cell:
    """One set of privileges. ``caps``: the bounding set, None for all; ``uid``: of the agent, whose capabilities are ambient then."""

    text: str
    caps: Sequence[str] | None = LEAST
    uid: int = 0
    #: Shell script, run before the agent, which it ends with `exec "$@"`, in a mount namespace of its own; $RUN is the agent's directory.
    mounts: str = ""
    user_namespace: bool = False
    no_new_privs: bool = False

    def prefix(self, run: Path, *, reads_all: bool = False) -> list[str]:
        """What is put before the agent's command. Raises Unavailable where a tool is missing.

        ``reads_all``: for where only root can read the interpreter: it may read and enter everything, and do nothing else that it may not.
        """
        command: list[str] = []
        script = self.mounts
        if self.mounts:
            command += [tool("unshare"), "--mount", "--propagation", "private"]
        if self.uid and self.caps is not None and os.geteuid() == 0:
            script += '; chown "$ID" "$RUN" "$RUN/notify"'
        if script:
            command += ["env", f"RUN={run}", f"ID={self.uid}", "sh", "-ec", f'{script.strip("; ")}; exec "$@"', "-"]
        if self.caps is not None:
            given = ",".join(["-all", *(f"+{cap}" for cap in self.caps), *(["+dac_read_search"] if reads_all else [])])
            command += [tool("setpriv"), "--bounding-set", given, "--inh-caps", given]
            if self.uid:
                command += ["--reuid", str(self.uid), "--regid", str(self.uid), "--clear-groups", "--ambient-caps", given]
        if self.no_new_privs:
            command += [tool("setpriv"), "--no-new-privs"]
        if self.user_namespace:
            command += [tool("unshare"), "--user", "--map-root-user"]
        return command


@dataclass(frozen=True, slots=True)
class Measured:
    """What an agent of one cell does less than one of root's with everything.

    ``lost``: features of GetNode. ``own``, ``other``: outcome of killing a process of its user, and of another user. ``sharing``: whether
    it sees which processes of another user share one address space. ``locked``: whether its memory stays in RAM.
    """

    lost: frozenset[str] = frozenset()
    own: str = "RELEASED"
    other: str = "RELEASED"
    sharing: bool = True
    locked: bool = True


def tool(name: str) -> str:
    """Path of a program. Raises Unavailable."""
    found = shutil.which(name)
    if found is None:
        raise lab.Unavailable(f"{name} is not installed")
    return found


def without(cap: str) -> tuple[str, ...]:
    """The least set but for one."""
    return tuple(each for each in LEAST if each != cap)


#: A directory that may be written below a root that may not.
_READ_ONLY = 'mount --bind "$RUN" "$RUN"; mount -o remount,bind,ro /; ! touch /usr/mrelease.test 2>/dev/null'
_HIDDEN = "mount -t proc -o hidepid=2 proc /proc"

CELLS: Mapping[str, Cell] = {
    "root": Cell("root, every capability", caps=None),
    "least": Cell(f"root, only {', '.join(LEAST).upper()}"),
    "without kill": Cell("the same without CAP_KILL", caps=without("kill")),
    "without sys_nice": Cell("the same without CAP_SYS_NICE", caps=without("sys_nice")),
    "without sys_ptrace": Cell("the same without CAP_SYS_PTRACE", caps=without("sys_ptrace")),
    "without ipc_lock": Cell("the same without CAP_IPC_LOCK", caps=without("ipc_lock")),
    "none": Cell("root without any capability", caps=()),
    "user": Cell("another user, with these four as ambient capabilities", uid=lab.NOBODY),
    "user and files": Cell("another user, with these four and CAP_DAC_OVERRIDE", caps=(*LEAST, "dac_override"), uid=lab.NOBODY),
    "user alone": Cell("another user, without any capability", caps=(), uid=lab.NOBODY),
    "no new privileges": Cell("root, the four, no_new_privs", no_new_privs=True),
    "read-only": Cell("root, the four, a read-only root file system", mounts=_READ_ONLY),
    "user namespace": Cell("root of a user namespace of its own", caps=None, user_namespace=True),
    "hidden": Cell("another user, the four, /proc mounted with hidepid=2", uid=lab.NOBODY, mounts=_HIDDEN),
    "hidden without sys_ptrace": Cell("the same without CAP_SYS_PTRACE", without("sys_ptrace"), lab.NOBODY, mounts=_HIDDEN),
}

_NICE = frozenset({"RAISED_PRIORITY", "BOOST_PRIORITY"})
_CGROUPS = frozenset({"BOOST_EVACUATION", "BOOST_LIFT"})
_REFUSED = "NotPermitted"

MEASURED: Mapping[str, Measured] = {
    "root": Measured(),
    "least": Measured(),
    "without kill": Measured(frozenset({"KILL_ANY_USER"}), other=_REFUSED),
    "without sys_nice": Measured(_NICE),
    "without sys_ptrace": Measured(frozenset({"COMPARE_MM"}), sharing=False),
    "without ipc_lock": Measured(locked=False),
    "none": Measured(frozenset({"KILL_ANY_USER", "COMPARE_MM"}) | _NICE, other=_REFUSED, sharing=False, locked=False),
    "user": Measured(_CGROUPS),
    "user and files": Measured(),
    "user alone": Measured(frozenset({"KILL_ANY_USER", "COMPARE_MM"}) | _NICE | _CGROUPS, other=_REFUSED, sharing=False, locked=False),
    "no new privileges": Measured(),
    "read-only": Measured(),
    "user namespace": Measured(frozenset({"KILL_ANY_USER", "COMPARE_MM"}) | _NICE, other=_REFUSED, sharing=False, locked=False),
    "hidden": Measured(_CGROUPS),
    "hidden without sys_ptrace": Measured(frozenset({"KILL_ANY_USER", "COMPARE_MM"}) | _CGROUPS, other="ProcessNotFound", sharing=False),
}


def needs_root(cell: Cell) -> None:
    """Raise Unavailable for who cannot give privileges up."""
    if os.geteuid() != 0 and cell != CELLS["user alone"]:
        raise lab.Unavailable("giving up some privileges and keeping others needs root")
