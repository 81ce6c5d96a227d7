"""Who shares address spaces, for a whole list of processes: on a thread, since kcmp(2) can wait for a process that is in execve(2)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from typing import Final

from mrelease_agent.linux.sharing import shared_among
from mrelease_agent.reaping.reapers import Reapers

#: Seconds after which a search compares no more, and after which nobody waits for it.
_SECONDS: Final = 0.25
_PATIENCE: Final = 0.5


class SharerSearch:
    """One search at a time: however many ask, one that the kernel does not let go holds a single thread of ``threads``."""

    def __init__(self, threads: Reapers) -> None:
        self._threads = threads
        self._free = asyncio.Semaphore(1)

    async def among(self, pids: Collection[int]) -> dict[int, list[int]]:
        """Find the other processes with the address space of each of ``pids``, see shared_among(); empty where it takes too long.

        Raises OSError for limits of the agent's process.
        """
        if not pids:
            return {}
        loop = asyncio.get_running_loop()

        def ended() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
                loop.call_soon_threadsafe(self._free.release)

        try:
            await asyncio.wait_for(self._free.acquire(), _PATIENCE)
            return await self._threads.run(lambda: shared_among(pids, _SECONDS), _PATIENCE, ended)
        except (TimeoutError, asyncio.TimeoutError):
            return {}
