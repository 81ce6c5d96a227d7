"""How the calling thread is scheduled, sched(7): nice value, CPUs and class. On Linux each thread has its own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from mrelease_agent.linux import forbidden

#: ``inherit``: as the thread that made this one. No class below ``other``: reaping is there because others wait for CPU time. Real time
#: is ``rr`` and not SCHED_FIFO, so that reapers on one CPU take turns.
SchedulingClass = Literal["inherit", "other", "rr"]

_ITEM: Final = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
#: The least real-time priority: above all that is not real time, below all else that is.
_PRIORITY: Final = 1


@dataclass(frozen=True, slots=True)
class Refusal:
    """A setting that the kernel did not take, why, and what to change."""

    setting: str
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class ThreadScheduling:
    """What a thread is to be like; the defaults leave it as it is."""

    nice: int | None = None
    cpus: frozenset[int] = frozenset()
    policy: SchedulingClass = "inherit"

    def apply(self) -> list[Refusal]:
        """Apply it to the calling thread; what the kernel refuses stays as it was."""
        return list(self._apply())

    def _apply(self) -> Iterator[Refusal]:
        if self.cpus:
            try:
                forbidden.check("sched_setaffinity")
                os.sched_setaffinity(0, self.cpus)
            except OSError as error:
                reason = f"none of the CPUs {format_cpus(self.cpus)} may be used ({error.strerror})"
                yield Refusal("cpus", reason, "name CPUs that the cpuset of the agent's cgroup has")
        if self.policy != "inherit":
            try:
                forbidden.check("sched_setscheduler")
                if self.policy == "rr":
                    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_PRIORITY))
                else:
                    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            except OSError as error:
                yield Refusal(
                    "class",
                    f"the class {self.policy} is refused ({error.strerror})",
                    "give the agent CAP_SYS_NICE; with RT_GROUP_SCHED its cgroup needs real-time runtime, too (cpu.rt_runtime_us)",
                )
        if self.nice is not None:
            try:
                forbidden.check("setpriority")
                os.setpriority(os.PRIO_PROCESS, 0, self.nice)  # of 0 the kernel takes the calling thread alone, setpriority(2)
            except OSError as error:
                reason = f"nice {self.nice} is refused ({error.strerror})"
                yield Refusal("nice", reason, "run the agent as root, give it CAP_SYS_NICE, or raise RLIMIT_NICE")


def parse_cpus(text: str) -> frozenset[int]:
    """CPUs of a list such as ``0-3,8``, cpuset(7); none of an empty text. Raises ValueError with what to write instead."""
    cpus: set[int] = set()
    for item in text.split(",") if text else ():
        match = _ITEM.fullmatch(item)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ValueError("write a list of CPUs such as 0-3,8")
        cpus.update(range(first, last + 1))
    return frozenset(cpus)


def format_cpus(cpus: frozenset[int]) -> str:
    """Write CPUs as the list that parse_cpus() reads."""
    parts: list[str] = []
    for cpu in sorted(cpus):
        if cpu - 1 not in cpus:
            parts.append(str(cpu))
        elif cpu + 1 not in cpus:
            parts[-1] += f"-{cpu}"
    return ",".join(parts)


def present_cpus() -> frozenset[int]:
    """CPUs that the node has, also those that are offline; none where that is not known."""
    try:
        with open("/sys/devices/system/cpu/present", encoding="ascii") as file:
            return parse_cpus(file.read().strip())
    except (OSError, ValueError):
        return frozenset()
