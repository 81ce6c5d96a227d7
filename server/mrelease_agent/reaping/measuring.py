"""What an operation has to know of a process before the signal."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.linux.procfs import Memory
from mrelease_agent.linux.sharing import alike_relatives, sharers
from mrelease_agent.linux.syscalls import same_address_space
from mrelease_agent.reaping.reapers import Reapers


class Measured(NamedTuple):
    """A process before the signal: its memory, and the relatives that may share it."""

    memory: Memory | None
    alike: list[int]


def measure(refs: Sequence[ProcessRef]) -> list[Measured]:
    """Read it of each. Raises OSError for limits of the agent's process."""
    memories = [ref.memory() for ref in refs]
    alike = alike_relatives(refs)
    return [Measured(memory, alike.get(ref.pid, [])) for ref, memory in zip(refs, memories, strict=True)]


async def sharers_among(threads: Reapers, asked: Sequence[tuple[ProcessRef, list[int]]], timeout: float) -> dict[int, list[int]]:
    """Find which candidates have the address space of each process, by its pid; what takes longer than ``timeout`` seconds is left out.

    One thread of ``threads`` does it: kcmp(2) can wait for a process that is in execve(2).

    Raises OSError for limits of the agent's process.
    """
    found: dict[int, list[int]] = {}
    with contextlib.ExitStack() as stack:
        own = [(stack.enter_context(ref.dup()), candidates) for ref, candidates in asked]
        close = stack.pop_all().close

    def search() -> None:
        for ref, candidates in own:
            # The address space itself is looked at where there is something to find: that takes ten times as long.
            alike = [pid for pid in candidates if same_address_space(ref.pid, pid) is not False]
            if alike and (sharing := sharers(ref.pid, ref.proc, alike)):
                found[ref.pid] = sharing

    with contextlib.suppress(TimeoutError):
        await threads.run(search, timeout, close)
    return dict(found)
