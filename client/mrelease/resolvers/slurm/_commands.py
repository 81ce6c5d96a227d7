"""Slurm's commands, run as the caller: what they may see and cancel is what Slurm lets this user.

They are started without a shell, with an absolute deadline. What is asked for is the output of ``--format``, squeue(1), which has been the
same since Slurm 2; JSON needs a plugin that not every site has, and changed its shape with each of its versions.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mrelease import _text
from mrelease.errors import OrchestratorDenied, OrchestratorUnavailable, ReferenceNotFound

#: Where Slurm is on many sites without being in PATH.
_PLACES: Final = ("/usr/local/bin", "/usr/bin", "/opt/slurm/bin", "/usr/local/slurm/bin", "/cm/shared/apps/slurm/current/bin")
# Variables that change what the commands print, ask or select; SLURM_CONF and SLURM_CLUSTERS say which Slurm is meant.
_MISLEADING: Final = ("SQUEUE_", "SCANCEL_", "SACCT_", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN", "SLURM_DEBUG")
_FORMAT: Final = "%A|%i|%F|%U|%T|%B|%N"
_SACCT: Final = "JobIDRaw,JobID,UID,State,NodeList"
#: As of a broken command: nobody reads megabytes of an answer.
_LONGEST: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """A job as Slurm knows it, an array task or component each for itself.

    ``job``: the number that nodes know it by; ``name``: as people see it, ``1234_5`` or ``1234+0``; ``array``: the number of the array;
    ``user``: the id of its user; ``first``: the node of its batch script; ``nodes``: a host list expression, empty where it is on none.
    """

    job: int
    name: str
    array: int
    user: int
    state: str
    first: str
    nodes: str


class Commands:
    """squeue, sacct, scontrol and scancel. Each method takes ``end``, the time.monotonic() by which it is over.

    All raise ResolutionError: OrchestratorUnavailable where the command is not installed, fails or is late, OrchestratorDenied where
    Slurm refuses.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._environment = {name: value for name, value in environment.items() if not name.startswith(_MISLEADING)} | {"LC_ALL": "C"}

    def jobs(self, job: int, end: float) -> list[Row]:
        """A job, every task of it, or every component, for as long as slurmctld remembers it; empty: it does not."""
        try:
            said = self._run(end, "squeue", "--noheader", "--array", "--all", "--states=all", f"--jobs={job}", f"--format={_FORMAT}")
        except ReferenceNotFound:
            return []
        return [_row(line) for line in said.splitlines() if line.count("|") == _FORMAT.count("|")]

    def past_jobs(self, job: int, end: float) -> list[Row]:
        """The same from the accounting, of jobs that are long over; empty where there is no accounting."""
        if self._path("sacct") is None:
            return []
        try:
            said = self._run(end, "sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", f"--format={_SACCT}")
        except (OrchestratorUnavailable, ReferenceNotFound):
            return []
        return [_past_row(line) for line in said.splitlines() if line.count("|") == _SACCT.count(",")]

    def step_nodes(self, step: str, end: float) -> str:
        """The nodes of a step that runs, as a host list expression; empty: it does not, or not any more."""
        try:
            said = self._run(end, "squeue", "--noheader", "--all", f"--steps={step}", "--format=%i|%N")
        except ReferenceNotFound:
            return ""
        # Named here as people see it: 1234_5.0 for the step 0 of a task with another number.
        found = [line.strip().partition("|") for line in said.splitlines() if line.count("|") == 1]
        return next((_placed(nodes) for name, _, nodes in found if name.rpartition(".")[2] == step.rpartition(".")[2]), "")

    def hosts(self, expression: str, end: float) -> list[str]:
        """The nodes of a host list expression, each once."""
        if "[" in expression:
            expression = self._run(end, "scontrol", "show", "hostnames", expression).replace("\n", ",")
        return list(dict.fromkeys(name for name in expression.split(",") if name))

    def cancel(self, name: str, end: float) -> None:
        """Tell Slurm that a job or step is to end. Nothing happens where it has ended, or is forgotten."""
        with contextlib.suppress(ReferenceNotFound):
            self._run(end, "scancel", name)

    def _path(self, command: str) -> str | None:
        path = os.pathsep.join((self._environment.get("PATH", ""), *_PLACES))
        return shutil.which(command, path=path)

    def _run(self, end: float, command: str, *arguments: str) -> str:
        program = self._path(command)
        if program is None:
            where = "run this where Slurm's commands are, put them into PATH, or name the nodes: ?nodes=n1,n2"
            raise OrchestratorUnavailable(f"Slurm's {command} is not installed here", where)
        left = end - time.monotonic()
        try:
            if left <= 0:
                raise subprocess.TimeoutExpired(command, 0)
            ran = subprocess.run(  # noqa: S603 -- no shell, and every argument has a form that was checked
                [program, *arguments], env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=left, check=False
            )
        except subprocess.TimeoutExpired:
            raise OrchestratorUnavailable(f"{command} gave no answer in time", "does slurmctld answer? scontrol ping") from None
        except OSError as error:
            raise OrchestratorUnavailable(f"{program} cannot be run: {error.strerror}", "is Slurm installed properly here?") from None
        if ran.returncode != 0:
            raise _failure(command, ran.stderr[:_LONGEST].decode("utf-8", "replace"))
        return ran.stdout[:_LONGEST].decode("utf-8", "replace")


def _failure(command: str, stderr: str) -> OrchestratorDenied | OrchestratorUnavailable | ReferenceNotFound:
    said = _text.printable(" ".join(stderr.split()))[:300] or "it does not say why"
    # slurm_errno.c: texts of ESLURM_INVALID_JOB_ID, ESLURM_ALREADY_DONE, ESLURM_ACCESS_DENIED and ESLURM_USER_ID_MISSING.
    if "Invalid job id" in said or "already complet" in said:
        return ReferenceNotFound(f"{command}: {said}", "see squeue")
    if "ermission denied" in said or "Invalid user id" in said:
        return OrchestratorDenied(f"{command}: {said}", "ask the job's owner, or an operator of Slurm")
    return OrchestratorUnavailable(f"{command} failed: {said}", "does slurmctld answer? scontrol ping")


def _row(line: str) -> Row:
    job, name, array, user, state, first, nodes = (part.strip() for part in line.split("|"))
    try:
        return Row(int(job), name, int(array), int(user), state, _placed(first), _placed(nodes))
    except ValueError:
        raise OrchestratorUnavailable(f"squeue said what it should not: {_text.printable(line)[:200]}", "is it Slurm's own?") from None


def _past_row(line: str) -> Row:
    job, name, user, state, nodes = (part.strip() for part in line.split("|"))
    array = name.partition("_")[0].partition("+")[0]
    try:
        return Row(int(job), name, int(array), int(user), state, "", _placed(nodes))
    except ValueError:
        raise OrchestratorUnavailable(f"sacct said what it should not: {_text.printable(line)[:200]}", "is it Slurm's own?") from None


def _placed(nodes: str) -> str:
    """What squeue prints for no node at all."""
    return "" if nodes in ("(null)", "n/a", "None assigned") else nodes
