"""What callers give and get: frozen values that mirror the messages of ``proto/mrelease/v1``, where each field is documented.

Names are the contract's. Sizes are bytes, durations ``timedelta``, times ``datetime`` with a time zone; None where a field is absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TypeAlias

from mrelease import _text
from mrelease._enums import Boost, Feature, HeldCause, Outcome, Proof, QosClass, Step, UnreleasedCause, Verdict


@dataclass(frozen=True, slots=True)
class Process:
    """One process on the agent's node, as the agent's own PID namespace numbers it, or as a container does.

    ``pid`` alone names whatever runs under that number when the request arrives. With ``pidfd_inode`` (Linux 6.9 or newer, unique until
    the next boot) or, weaker, ``start_time_ticks`` (field 22 of proc_pid_stat(5)) a recycled pid raises ``IdentityMismatch`` instead of
    being killed. ``list_processes`` gives targets that have all three.

    ``container_id``, as in ``Container``: ``pid`` is what processes inside of this container call it; the container's first process is 1
    there. Results always carry the agent's number.
    """

    pid: int
    pidfd_inode: int | None = None
    start_time_ticks: int | None = None
    container_id: str = ""

    def __str__(self) -> str:
        number = str(self.pid) if self.pidfd_inode is None else f"{self.pid}:{self.pidfd_inode}"
        return f"{number} in container {self.container_id[:12]}" if self.container_id else number


@dataclass(frozen=True, slots=True)
class Container:
    """Every process of one container. ``id``: 64 hexadecimal digits, or 12 or more of them where no other container begins so."""

    id: str

    def __str__(self) -> str:
        return f"container {self.id[:12]}"


@dataclass(frozen=True, slots=True)
class Pod:
    """Every process of a pod but its sandbox's.

    ``uid``: metadata.uid; for a static pod the annotation kubernetes.io/config.hash. ``containers``: ids of those that are meant, as in
    ``Container``; empty: all of them.
    """

    uid: str
    containers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"pod {self.uid}"


@dataclass(frozen=True, slots=True)
class Cgroup:
    """Every process of a cgroup and of all below it. ``path``: absolute, as proc_pid_cgroup(5) shows it for the memory controller."""

    path: str

    def __str__(self) -> str:
        return f"cgroup {self.path}"


@dataclass(frozen=True, slots=True)
class Custom:
    """What a plugin of the agent finds by an orchestrator's own names: ``Custom("slurm", {"job": "1234", "step": "0"})``.

    ``kind``: one that ``Node.target_kinds`` has. ``attributes``: texts, in the words of that kind; they cannot be changed afterwards.
    Raises TypeError for what is no text.
    """

    kind: str
    attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        given = dict(self.attributes)
        words: list[object] = [self.kind, *given, *given.values()]
        if not all(isinstance(word, str) for word in words):
            raise TypeError('kind and attributes of a Custom target are texts: Custom("slurm", {"job": "1234"})')
        object.__setattr__(self, "attributes", MappingProxyType(dict(sorted(given.items()))))

    def __hash__(self) -> int:
        return hash((self.kind, tuple(self.attributes.items())))

    def __reduce__(self) -> tuple[type[Custom], tuple[str, dict[str, str]]]:
        return Custom, (self.kind, dict(self.attributes))

    def __str__(self) -> str:
        words = (f"{key}={_text.printable(value)}" for key, value in self.attributes.items())
        return " ".join([self.kind, *words])


#: Where processes are listed.
Group: TypeAlias = Container | Pod | Cgroup | Custom
#: What can be killed and released.
Target: TypeAlias = Process | Container | Pod | Cgroup | Custom


@dataclass(frozen=True, slots=True)
class NodeRef:
    """A node in one boot: who answered and, as the argument ``node``, who is meant. An empty string is not compared."""

    name: str = ""
    boot_id: str = ""


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Memory of one process at one moment, from proc_pid_status(5)."""

    anon_bytes: int = 0
    file_bytes: int = 0
    shmem_bytes: int = 0
    swap_bytes: int = 0
    hugetlb_bytes: int = 0
    page_table_bytes: int = 0

    @property
    def reclaimable_bytes(self) -> int:
        """What the death of the process gives back: anonymous memory and swap."""
        return self.anon_bytes + self.swap_bytes


@dataclass(frozen=True, slots=True)
class CgroupMemory:
    """Charge of a memory cgroup: the one in which a process was before it was killed, or one of a target's with all below it."""

    path: str
    before_bytes: int
    after_bytes: int


@dataclass(frozen=True, slots=True)
class NodeMemory:
    """Memory of the node at one moment, from proc_meminfo(5). Context, not proof: freed pages can stay on per-CPU lists."""

    total_bytes: int
    free_bytes: int
    available_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int


@dataclass(frozen=True, slots=True)
class Unreleased:
    """Memory that a death does not give back, or has not yet."""

    cause: UnreleasedCause
    size_bytes: int

    def __str__(self) -> str:
        return f"{_text.size(self.size_bytes)} {self.cause}"


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """What became of one process. ``str()`` is one line for people.

    ``held_cause`` says what keeps memory that is not back, for programs; ``cause`` and ``remedy`` say it for people, and what to do.
    """

    process: Process
    command: str
    outcome: Outcome
    step: Step
    errno_name: str
    errno_number: int
    memory_before: ProcessMemory | None
    memory_after: ProcessMemory | None
    released_bytes: int
    proof: Proof
    unreleased: tuple[Unreleased, ...]
    kill_time: datetime | None
    release_duration: timedelta | None
    exit_duration: timedelta | None
    release_attempts: int
    cause: str
    remedy: str
    state: str
    wchan: str
    sharing_pids: tuple[int, ...]
    cgroup: CgroupMemory | None
    boost: Boost
    held_cause: HeldCause
    tracer_pid: int
    reader_pids: tuple[int, ...]

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def __str__(self) -> str:
        from mrelease._report import process_line

        return process_line(self)


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    """What became of a target, with the proof. ``str()`` is a table, one row a process, then what to do about what was not released.

    ``cgroups`` and ``unreleased`` are of a container, pod or cgroup; the latter is what stays charged to it, such as files of a tmpfs.
    ``replayed``: another request with the same ``request_id`` made the result.
    """

    verdict: Verdict
    released_bytes: int
    processes: tuple[ProcessResult, ...]
    node: NodeRef
    node_memory_before: NodeMemory | None
    node_memory_after: NodeMemory | None
    cgroups: tuple[CgroupMemory, ...]
    unreleased: tuple[Unreleased, ...]
    request_id: str
    replayed: bool

    @property
    def is_released(self) -> bool:
        """Whether all memory is proven back: the verdict is RELEASED or EXITED."""
        return self.verdict in (Verdict.RELEASED, Verdict.EXITED)

    def raise_unless_released(self) -> None:
        """Raise ``NotReleased`` unless all memory is proven back. A dry run (VALIDATED) killed nothing and does not raise."""
        if not self.is_released and self.verdict is not Verdict.VALIDATED:
            from mrelease.errors import NotReleased

            raise NotReleased(self)

    def __str__(self) -> str:
        from mrelease._report import result_text

        return result_text(self)


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing that the agent can or cannot do on its node, why, and what to change so that it can."""

    feature: Feature
    available: bool
    reason: str
    remedy: str

    def __str__(self) -> str:
        note = " ".join(part for part in (self.reason, self.remedy) if part)
        return f"{self.feature}: {'available' if self.available else 'not available'}" + (f" ({note})" if note else "")


@dataclass(frozen=True, slots=True)
class TargetKind:
    """One kind of ``Custom`` target that the agent is configured to have, and whether, or why not, it has it."""

    kind: str
    available: bool
    reason: str
    remedy: str

    def __str__(self) -> str:
        note = " ".join(part for part in (self.reason, self.remedy) if part)
        return f"{self.kind}: {'available' if self.available else 'not available'}" + (f" ({note})" if note else "")


@dataclass(frozen=True, slots=True)
class Node:
    """A node with its agent."""

    identity: NodeRef
    kernel_release: str
    machine: str
    agent_version: str
    agent_start_time: datetime | None
    agent_uid: int
    capabilities: tuple[Capability, ...]
    memory: NodeMemory | None
    target_kinds: tuple[TargetKind, ...] = ()

    def can(self, feature: Feature) -> bool:
        """Whether the agent can do this here; False also where it does not say."""
        return any(c.available for c in self.capabilities if c.feature == feature)

    def __str__(self) -> str:
        return f"{self.identity.name}: Linux {self.kernel_release} {self.machine}, agent {self.agent_version} (uid {self.agent_uid})"


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One process as it was when it was listed. ``container_id`` and ``pod_uid`` are empty where it is in none.

    ``unreleased`` is what killing it would not give back; with ``sharing_pids`` in one address space, killing all of them would.
    """

    process: Process
    command: str
    uid: int
    state: str
    threads: int
    memory: ProcessMemory
    reclaimable_bytes: int
    cgroup: str
    protection: str
    container_id: str
    pod_uid: str
    qos: QosClass
    unreleased: tuple[Unreleased, ...]
    sharing_pids: tuple[int, ...]

    @property
    def target(self) -> Process:
        """What to kill exactly this process by."""
        return self.process

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def __str__(self) -> str:
        return f"{self.process} {_text.printable(self.command)} {_text.size(self.reclaimable_bytes)}"


@dataclass(frozen=True, slots=True)
class ProcessList:
    """User processes of a node, the one whose death gives most memory back first. Iterates over ``processes``; ``node``: where they are."""

    processes: tuple[ProcessInfo, ...]
    node: NodeRef

    def __iter__(self) -> Iterator[ProcessInfo]:
        return iter(self.processes)

    def __len__(self) -> int:
        return len(self.processes)

    def __str__(self) -> str:
        return "\n".join(map(str, self.processes))
