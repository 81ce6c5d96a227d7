"""The enums of the contract, with its numbers, and its names without their prefix; meanings are documented in ``proto/mrelease/v1``.

A number that this version does not know, from a newer agent, reads as a value named ``UNKNOWN_<number>`` that keeps its number.
"""

from __future__ import annotations

from enum import IntEnum


class _OpenEnum(IntEnum):
    """An enum that takes numbers of the future, as proto3 enums do."""

    @classmethod
    def _missing_(cls, value: object) -> _OpenEnum | None:
        if not isinstance(value, int):
            return None
        unknown = int.__new__(cls, value)
        unknown._name_ = f"UNKNOWN_{value}"
        unknown._value_ = value
        return unknown

    def __str__(self) -> str:
        return self._name_

    def __reduce_ex__(self, proto: object) -> tuple[type[_OpenEnum], tuple[int]]:
        # By its number: early Python 3.11 pickles by the name, which a number of the future does not have.
        return type(self), (int(self),)

    def __format__(self, spec: str) -> str:
        # IntEnum formats as a name or as a number depending on the Python version.
        return format(self._name_, spec)


class Outcome(_OpenEnum):
    """What became of one process."""

    UNSPECIFIED = 0
    RELEASED = 1
    EXITED = 2
    PARTIAL = 3
    HELD = 4
    SHARED_MM = 5
    CORE_DUMPING = 6
    NOT_DYING = 7
    NOT_FOUND = 8
    IDENTITY_MISMATCH = 9
    PROTECTED = 10
    KERNEL_THREAD = 11
    NOT_PERMITTED = 12
    UNSUPPORTED = 13
    VALIDATED = 14


class Verdict(_OpenEnum):
    """What became of the target as a whole: the worst of its processes' outcomes."""

    UNSPECIFIED = 0
    RELEASED = 1
    EXITED = 2
    PARTIAL = 3
    HELD = 4
    UNKNOWN = 5
    VALIDATED = 6


class Step(_OpenEnum):
    """The step of the operation that decided an outcome."""

    UNSPECIFIED = 0
    RESOLVE = 1
    GUARD = 2
    KILL = 3
    RELEASE = 4
    EXIT = 5
    GRACE = 6


class Boost(_OpenEnum):
    """How a victim is given CPU time. In a request UNSPECIFIED: the agent chooses; in a result: none was needed."""

    UNSPECIFIED = 0
    NONE = 1
    PRIORITY = 2
    EVACUATION = 3
    LIFT = 4


class HeldCause(_OpenEnum):
    """What keeps the memory of a process that was killed; UNSPECIFIED: nothing, or not found out."""

    UNSPECIFIED = 0
    UNINTERRUPTIBLE = 1
    TRACED = 2
    FROZEN = 3
    STARVED = 4
    SHARED_MM = 5
    PINNED = 6
    CORE_DUMP = 7
    MMAP_LOCK = 8
    NO_REAPER = 9
    UNSUPPORTED = 10
    EXITING = 11


class Proof(_OpenEnum):
    """What shows that the memory is back; UNSPECIFIED: nothing does."""

    UNSPECIFIED = 0
    RELEASE = 1
    CGROUP = 2
    EXIT = 3


class Wait(_OpenEnum):
    """What a request waits for before it is answered: the memory proven back, or also the exit of the process."""

    UNSPECIFIED = 0
    RELEASED = 1
    EXITED = 2


class UnreleasedCause(_OpenEnum):
    """Why memory of a killed process is not given back by reaping."""

    UNSPECIFIED = 0
    HELD = 1
    SHMEM = 2
    HUGETLB = 3
    SHARED_MM = 4
    COPY_ON_WRITE = 5


class QosClass(_OpenEnum):
    """Quality of service class of a pod; UNSPECIFIED: in no pod, or not to be told."""

    UNSPECIFIED = 0
    GUARANTEED = 1
    BURSTABLE = 2
    BEST_EFFORT = 3


class Feature(_OpenEnum):
    """What an agent may be able to do, depending on kernel and privileges."""

    UNSPECIFIED = 0
    PROCESS_MRELEASE = 1
    PIDFD_INODE = 2
    KILL_ANY_USER = 3
    MEMORY_CGROUP = 4
    COMPARE_MM = 5
    RAISED_PRIORITY = 6
    BOOST_PRIORITY = 7
    BOOST_EVACUATION = 8
    BOOST_LIFT = 9
    MEMORY_PRESSURE = 10
    AUDIT = 11


class PressureKind(_OpenEnum):
    """Which stalls count as pressure: SOME, at least one task stalled; FULL, all that were not idle stalled at once."""

    UNSPECIFIED = 0
    SOME = 1
    FULL = 2
