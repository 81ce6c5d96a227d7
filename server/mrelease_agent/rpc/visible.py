"""What a caller may know of: processes and groups that the access policy gives it by the method in use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager

from mrelease_agent.guard.caller import current
from mrelease_agent.guard.gate import Ask, Found, Gate, Grant, may
from mrelease_agent.linux.process import NotALeaderError, ProcessRef
from mrelease_agent.linux.procfs import ProcessGoneError
from mrelease_agent.rpc.errors import RpcError
from mrelease_agent.rpc.refusals import refusals, told_refusal, veiled
from mrelease_agent.targets.group import Group
from mrelease_agent.targets.listing import Row


class Visible:
    """The view of the caller of the call that is being served. Raises RpcError (PERMISSION_DENIED) where it has none.

    Its methods open each process that they judge: they belong on a thread.
    """

    def __init__(self, gate: Gate, method: str, kind: str = "") -> None:
        self._gate = gate
        self._ask = Ask(current.get(), method, kind)
        with refusals(self._ask):
            self._grant: Grant = gate.grant(self._ask)

    @property
    def everything(self) -> bool:
        """Whether there is nothing that the caller may not know of."""
        return self._grant.unrestricted

    def refuse(self) -> RpcError:
        """The answer where what was asked for is not there, or not the caller's to know of."""
        return told_refusal(self._gate.refuse(self._ask), self._ask)

    def veiled(self) -> AbstractContextManager[None]:
        """Make errors of the search for a group that one answer; see refusals.veiled()."""
        return veiled(self._gate, self._ask, self._grant)

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """Those of ``rows`` that it may see, in their order."""
        return [row for row in rows if self._sees(row.pid)]

    def groups(self, groups: Iterable[Group]) -> bool:
        """Whether it may see all processes of ``groups``, and there is one."""
        pids = [pid for group in groups for pid in group.members()]
        return bool(pids) and all(self._sees(pid) for pid in pids)

    def _sees(self, pid: int) -> bool:
        with contextlib.suppress(ProcessGoneError, NotALeaderError), ProcessRef.open(pid) as ref:
            return may(self._grant, self._gate.subjects([Found(ref)])[0])
        return False
