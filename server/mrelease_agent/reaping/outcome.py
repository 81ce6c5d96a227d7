"""Outcomes, and the one table that says what each answer of process_mrelease(2) means."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final


class Outcome(IntEnum):
    """The contract's Outcome, with its numbers: a test compares them."""

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


class Verdict(IntEnum):
    """The contract's Verdict, with its numbers."""

    RELEASED = 1
    EXITED = 2
    PARTIAL = 3
    HELD = 4
    UNKNOWN = 5
    VALIDATED = 6


class Step(IntEnum):
    """The contract's Step, with its numbers."""

    RESOLVE = 1
    GUARD = 2
    KILL = 3
    RELEASE = 4
    EXIT = 5
    GRACE = 6


class Boost(IntEnum):
    """The contract's Boost, with its numbers."""

    UNSPECIFIED = 0
    NONE = 1
    PRIORITY = 2
    EVACUATION = 3
    LIFT = 4


class HeldCause(IntEnum):
    """The contract's HeldCause, with its numbers."""

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


class Proof(IntEnum):
    """The contract's Proof, with its numbers."""

    NONE = 0
    RELEASE = 1
    CGROUP = 2
    EXIT = 3


class Unreleased(IntEnum):
    """The contract's UnreleasedCause, with its numbers."""

    HELD = 1
    SHMEM = 2
    HUGETLB = 3
    SHARED_MM = 4
    COPY_ON_WRITE = 5


class Then(Enum):
    """What to do after an answer of process_mrelease(2)."""

    MEASURE = "read the memory again"
    RETRY = "call again after a pause that doubles"
    DIAGNOSE = "find out why the kernel refuses, call again"
    AWAIT_EXIT = "wait for the exit, or for the charge of the memory cgroup to fall"


@dataclass(frozen=True, slots=True)
class Answer:
    """Meaning of one answer: what follows, and the outcome where the memory is not back by the deadline."""

    then: Then
    outcome: Outcome
    meaning: str


#: Every answer of process_mrelease(2), mm/oom_kill.c. docs/reference/outcomes.md is made from it.
ANSWERS: Final[Mapping[int, Answer]] = {
    0: Answer(Then.MEASURE, Outcome.PARTIAL, "the address space was reaped; proven by the memory read after it"),
    errno.ESRCH: Answer(
        Then.AWAIT_EXIT,
        Outcome.HELD,
        "no thread has the address space any more (reaped, zombie, or past exit_mm): that does not mean that it is free",
    ),
    errno.EINVAL: Answer(Then.DIAGNOSE, Outcome.NOT_DYING, "not dying, or dumping core, or sharing its address space with the living"),
    errno.EAGAIN: Answer(Then.RETRY, Outcome.HELD, "part was not reaped: an mmu notifier (KVM, RDMA, GPU) would block"),
    errno.EINTR: Answer(Then.RETRY, Outcome.HELD, "interrupted while waiting for the lock of the address space"),
    errno.ENOSYS: Answer(Then.AWAIT_EXIT, Outcome.UNSUPPORTED, "this kernel or sandbox has no process_mrelease(2)"),
    errno.EPERM: Answer(Then.AWAIT_EXIT, Outcome.UNSUPPORTED, "a seccomp filter forbids process_mrelease(2)"),
}
#: Answers that mm/oom_kill.c does not give (EBADF would be a defect of ours).
UNEXPECTED: Final = Answer(Then.AWAIT_EXIT, Outcome.HELD, "an answer that process_mrelease(2) does not document")

_VERDICTS: Final[Mapping[Outcome, Verdict]] = {
    Outcome.RELEASED: Verdict.RELEASED,
    Outcome.EXITED: Verdict.EXITED,
    Outcome.PARTIAL: Verdict.PARTIAL,
    Outcome.HELD: Verdict.HELD,
    Outcome.SHARED_MM: Verdict.HELD,
    Outcome.CORE_DUMPING: Verdict.HELD,
    Outcome.UNSUPPORTED: Verdict.HELD,
    Outcome.NOT_DYING: Verdict.HELD,
    Outcome.NOT_PERMITTED: Verdict.HELD,
    Outcome.VALIDATED: Verdict.VALIDATED,
}


def answer(errno_number: int) -> Answer:
    """Look an answer of process_mrelease(2) up."""
    return ANSWERS.get(errno_number, UNEXPECTED)


def verdict(outcomes: Iterable[Outcome]) -> Verdict:
    """Verdict on a whole target: the worst of its processes; RELEASED where some were reaped and the rest exited."""
    found = {_VERDICTS.get(outcome, Verdict.UNKNOWN) for outcome in outcomes}
    for worst in (Verdict.UNKNOWN, Verdict.HELD, Verdict.PARTIAL, Verdict.RELEASED, Verdict.EXITED, Verdict.VALIDATED):
        if worst in found:
            # Some back and some held is PARTIAL: bytes were given back.
            return Verdict.PARTIAL if worst is Verdict.HELD and found & {Verdict.RELEASED, Verdict.EXITED} else worst
    return Verdict.UNKNOWN
