"""What a target plugin is: a kind of target that the agent itself does not know, such as a job of Slurm.

A plugin is found by the name of its kind in the entry-point group ``mrelease.targets``; the value is a callable that is given the options
of the configuration and makes the plugin::

    [project.entry-points."mrelease.targets"]
    demo = "my_package:Demo"

It runs in the agent, mostly as root, so only kinds that the configuration names (``target_plugins``) are ever imported. It only *names*
processes, by facts of this node: it opens nothing for the agent, signals nothing, and asks no network. The agent opens and verifies what it
names, and judges each process by itself: policy, protection, breaker, audit.

This module needs nothing but the standard library: a plugin imports it, and its tests import ``mrelease_agent.targets.conformance``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

from mrelease_agent.targets.plugin_names import MAX_ATTRIBUTES, MAX_VALUE, NAME

__all__ = [
    "AmbiguousError",
    "Factory",
    "Found",
    "FoundGroup",
    "FoundProcess",
    "InvalidAttributeError",
    "MAX_ATTRIBUTES",
    "MAX_VALUE",
    "NAME",
    "NotHereError",
    "Spare",
    "TargetError",
    "TargetPlugin",
    "UnavailableError",
    "only",
    "required",
]

#: The entry-point group.
GROUP: Final = "mrelease.targets"
#: Seconds that a plugin may take to be made, and to find.
DEADLINE: Final = 5.0
#: Most processes, cgroups and programs to spare in one answer.
MAX_PROCESSES: Final = 16384
MAX_GROUPS: Final = 1024
MAX_SPARED: Final = 64

#: The hierarchy that a path is of: v1's with this controller (v2 where v1 has it not), or v2.
Controller: TypeAlias = Literal["memory", "freezer", "cpu", "cpuset", "unified"]
CONTROLLERS: Final[tuple[Controller, ...]] = ("memory", "freezer", "cpu", "cpuset", "unified")


@dataclass(frozen=True, slots=True)
class FoundProcess:
    """One process, by what cannot be another's: its pid and its start, field 22 of proc_pid_stat(5), in clock ticks.

    ``pidfd_inode``, where the plugin knows it (Linux 6.9), is compared too; 0 is not. Who has another start is another process: left alone.
    """

    pid: int
    start_time_ticks: int
    pidfd_inode: int = 0


@dataclass(frozen=True, slots=True)
class FoundGroup:
    """Every process of a cgroup and of all below it. ``path`` as ``/proc/PID/cgroup`` shows it in the hierarchy of ``controller``."""

    path: str
    controller: Controller = "memory"


@dataclass(frozen=True, slots=True)
class Spare:
    """Processes that are among those of the target and are none of it, such as the orchestrator's own: they are left alone.

    ``command`` as ``/proc/PID/comm`` shows it, at most 15 bytes; all four user ids have to be ``uid``, because any process may call itself
    anything.
    """

    command: str
    uid: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What a target is now.

    Groups are listed again by the agent until nobody new is in them, so a fork does not escape. Where ``processes`` are named, the plugin
    is asked again until it names nobody new; ``groups`` and ``spare`` count in its first answer alone. Nothing at all is "not found".
    """

    groups: Iterable[FoundGroup] = ()
    processes: Iterable[FoundProcess] = ()
    spare: Iterable[Spare] = ()


class TargetPlugin(Protocol):
    """One kind of target. Threads of the agent share it."""

    def find(self, attributes: Mapping[str, str], /) -> Found:
        """What a target is now, from facts of this node alone, within ``DEADLINE`` seconds.

        ``attributes`` are a caller's and hostile, but bounded: keys fit ``NAME``, values are 1 to ``MAX_VALUE`` bytes of printable text.
        Every key that is not known is an InvalidAttribute: it may have been meant to leave something out.

        Read only files that cannot block on a victim and do not pin its memory: of ``/proc/PID`` those are ``stat``, ``status``,
        ``cgroup``, ``comm``; never ``cmdline``, ``environ``, ``maps``, ``smaps``.

        Raises one of the four errors below TargetError, whose words the caller reads. Whatever else it raises is a defect: it is logged,
        the caller is told that the plugin failed, and nothing is signalled.
        """
        ...


#: What an entry point is: makes the plugin from its options. Raises UnavailableError where it cannot work on this node.
Factory: TypeAlias = Callable[[Mapping[str, str]], TargetPlugin]


class TargetError(Exception):
    """What the caller is told: ``problem`` goes on a sentence that begins with the target, ``remedy`` is one that says what to do."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy


class InvalidAttributeError(TargetError):
    """An attribute is missing, not known, or no such thing; ``attribute`` is its key."""

    def __init__(self, attribute: str, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.attribute = attribute


class NotHereError(TargetError):
    """There is no such target on this node (any more)."""


class AmbiguousError(TargetError):
    """More than one target may be meant; ``candidates`` is what tells them apart."""

    def __init__(self, problem: str, candidates: Iterable[str], remedy: str) -> None:
        super().__init__(problem, remedy)
        self.candidates = tuple(candidates)


class UnavailableError(TargetError):
    """The plugin cannot work on this node, or not now: something that it reads is missing."""


def only(attributes: Mapping[str, str], *known: str) -> None:
    """Raise InvalidAttributeError for an attribute that is not among these."""
    for name in attributes:
        if name not in known:
            raise InvalidAttributeError(name, "is not known", f"known are {', '.join(known)}")


def required(attributes: Mapping[str, str], name: str, example: str) -> str:
    """An attribute that has to be there. Raises InvalidAttributeError."""
    if name not in attributes:
        raise InvalidAttributeError(name, "is missing", f"set it, for example to {example}")
    return attributes[name]
