"""What has to be known before the signal, because it cannot be found out after it: memory, its cgroup, and who shares it."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import Final

from mrelease_agent.linux.cgroups import MemoryCgroup
from mrelease_agent.reaping.errors import LIMITS, LimitError
from mrelease_agent.reaping.measuring import Measured, measure, sharers_among
from mrelease_agent.reaping.tools import Tools
from mrelease_agent.reaping.victim import Victim

#: Seconds for which the search for who shares an address space is waited for.
_SEARCH: Final = 0.25


@contextlib.contextmanager
def limits_of_the_agent() -> Generator[None, None, None]:
    """Raises LimitError for an OSError that says that this process has no descriptor or memory left."""
    try:
        yield
    except OSError as error:
        if error.errno not in LIMITS:
            raise
        raise LimitError(error) from error


class Before:
    """What is known of one victim ahead of the signal, written into its report.

    ``measured`` is given for one process of many: they are measured, and their sharers searched, together, and the charge of a memory
    cgroup is not the one's alone. ``alike``: pids of relatives that may share its address space.
    """

    __slots__ = ("_measured", "_one_of_many", "alike", "tools", "victim")

    def __init__(self, victim: Victim, tools: Tools, measured: Measured | None) -> None:
        self.victim = victim
        self.tools = tools
        self._measured = measured
        self._one_of_many = measured is not None
        self.alike: list[int] = []

    async def measure(self) -> None:
        """Measure it. Raises OSError, LimitError."""
        ref, report, proving = self.victim.ref, self.victim.report, self.victim.proving
        if not self._one_of_many:
            before, proving.cgroup = proving.cgroup, MemoryCgroup.of(ref.pid, ref.proc, ref.stat.ppid)
            if before is not None:
                before.close()
        measured = self._measured or measure([ref])[0]
        self._measured = None
        report.before = measured.memory
        report.sharers, self.alike = [], measured.alike
        if not self._one_of_many:
            await search_sharers([self])

    async def measure_again(self) -> None:
        """Measure it as it is now; where a limit of the agent's process forbids that, what was measured before stands."""
        with contextlib.suppress(OSError, LimitError):
            await self.measure()
            if self._one_of_many:
                await search_sharers([self])


async def search_sharers(measured: Sequence[Before]) -> None:
    """Find out who shares the address spaces of those that are measured. Raises LimitError."""
    asking = [each for each in measured if each.alike]
    if not asking:
        return
    with limits_of_the_agent():
        found = await sharers_among(asking[0].tools.reapers, [(each.victim.ref, each.alike) for each in asking], _SEARCH)
    for each in asking:
        each.victim.report.sharers = found.get(each.victim.ref.pid, [])
