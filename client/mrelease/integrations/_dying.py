"""Give back the memory of a process that someone else has killed, as soon as it turns out that it does not end. Kills nothing itself."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Final

from mrelease._client import Client
from mrelease._models import NodeRef, ReleaseResult
from mrelease.errors import MreleaseError, Unavailable
from mrelease.integrations._identity import identify
from mrelease.integrations._located import Located, located, on_node

#: Seconds between two looks at whether a process has been killed.
INTERVAL: Final = 0.1
#: Seconds that a killed process has to end by itself. An ordinary one takes milliseconds, and no agent is asked about it.
GRACE: Final = 0.15
#: Seconds until an agent that did not answer is asked again.
PAUSE: Final = 0.5

# proc_pid_status(5): SigPnd and ShdPnd are hexadecimal, bit 0 is signal 1.
_SIGKILL: Final = 1 << (signal.SIGKILL - 1)
# sched.h; field 9 of proc_pid_stat(5).
_PF_EXITING: Final = 0x4


class Watched:
    """One process, held by a pidfd: whoever gets its number later is another one. Closed by ``close()`` or ``with``."""

    def __init__(self, pid: int) -> None:
        """Raises OSError, ProcessLookupError where there is no such process."""
        self._pidfd = os.pidfd_open(pid)
        try:
            self.located: Located = located(identify(pid))
            # Not reaped yet, so it was this process that was looked at.
            with contextlib.suppress(PermissionError):
                signal.pidfd_send_signal(self._pidfd, 0)
        except BaseException:
            os.close(self._pidfd)
            raise

    @property
    def pid(self) -> int:
        """Its number here."""
        return self.located.process.pid

    def has_exited(self, timeout: float = 0.0) -> bool:
        """Wait for its end for at most so many seconds."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(max(0.0, timeout) * 1000))

    def is_killed(self) -> bool:
        """Whether it is dying for certain: SIGKILL is pending for a thread, or all of them exit."""
        try:
            threads = os.listdir(f"/proc/{self.pid}/task")
        except OSError:
            return False
        exiting = 0
        for tid in threads:
            pending, is_exiting = _thread(f"/proc/{self.pid}/task/{tid}")
            if pending & _SIGKILL:
                return not self.has_exited()
            exiting += is_exiting
        return bool(threads) and exiting == len(threads) and not self.has_exited()

    def close(self) -> None:
        """Give the pidfd back."""
        os.close(self._pidfd)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wait_killed(watched: Watched, patience: float, stopped: Callable[[], bool] = lambda: False) -> bool:
    """Wait until the process has been killed and does not end. False: it has ended, or ``patience`` seconds are over, or ``stopped()``."""
    end = time.monotonic() + patience
    while not watched.is_killed():
        if time.monotonic() >= end or stopped() or watched.has_exited(INTERVAL):
            return False
    return not watched.has_exited(GRACE)


def release(watched: Watched, client: Client, *, reason: str, timeout: float, patience: float) -> ReleaseResult | None:
    """Have the agent release it; None: it has ended meanwhile. An agent that is not there is asked again for ``patience`` seconds.

    Raises ``errors.AgentError``, and LookupError where the process cannot be named to the agent.
    """
    end = time.monotonic() + patience
    while True:
        try:
            return client.release(
                on_node(client, watched.located), node=NodeRef(boot_id=watched.located.boot_id), reason=reason, timeout=timeout
            )
        except (MreleaseError, LookupError) as error:  # noqa: PERF203 -- asking again is what the loop is for
            # An answer that it is not there, or the wait for another answer, may be because it has ended just now.
            is_worth_asking = isinstance(error, Unavailable) and time.monotonic() < end
            if watched.has_exited(PAUSE if is_worth_asking else 0.0):
                return None
            if not is_worth_asking:
                raise


def _thread(path: str) -> tuple[int, bool]:
    """The signals that wait for one thread, and whether it is on its way out; (0, True) where it is gone."""
    try:
        with open(f"{path}/status", encoding="utf-8", errors="replace") as file:
            fields = {key: value for key, _, value in (line.partition(":") for line in file)}
        with open(f"{path}/stat", encoding="utf-8", errors="replace") as file:
            stat = file.read()
        flags = int(stat[stat.rindex(")") + 2 :].split()[6])
        return int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16), bool(flags & _PF_EXITING)
    except (OSError, KeyError, ValueError, IndexError):
        return 0, True
