"""What the kernel lets this agent do: found out once at the start, each answer with its reason and remedy."""

from __future__ import annotations

import errno
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from mrelease_agent.linux import cgroups, forbidden, pressure
from mrelease_agent.linux.node import kernel_version
from mrelease_agent.linux.syscalls import process_mrelease

_CAP_KILL, _CAP_SYS_PTRACE = 5, 19  # linux/capability.h
#: Inode of the first user namespace, PROC_USER_INIT_INO of linux/proc_ns.h.
_FIRST_USER_NAMESPACE = 0xEFFFFFFD


class Feature(IntEnum):
    """The contract's Feature, with its numbers: a test compares them."""

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


@dataclass(frozen=True, slots=True)
class Capability:
    """Whether a feature works here, why not, and what to change."""

    feature: Feature
    available: bool
    reason: str
    remedy: str = ""


class Capabilities:
    """All of them, by feature."""

    def __init__(self, found: Iterator[Capability]) -> None:
        self._found = {capability.feature: capability for capability in found}

    def plus(self, found: Iterable[Capability]) -> Capabilities:
        """These and those."""
        return Capabilities(iter((*self, *found)))

    def __iter__(self) -> Iterator[Capability]:
        return iter(self._found.values())

    def __getitem__(self, feature: Feature) -> Capability:
        return self._found[feature]

    def has(self, feature: Feature) -> bool:
        """Whether ``feature`` works here."""
        return self._found[feature].available


def probe(*, nice: int | None) -> Capabilities:
    """Find out what works; ``nice`` is the priority that the agent is to have, which this also sets.

    Forks: call it before the process has other threads. Raises OSError that says what to change where there are no pidfds at all.
    """
    forbidden.find()
    _need_pidfds()
    return Capabilities(
        iter((_mrelease(), _pidfd_inode(), _kill_any_user(), _memory_cgroup(), _compare_mm(), _priority(nice), _memory_pressure()))
    )


def _need_pidfds() -> None:
    for name in ("pidfd_open", "pidfd_send_signal"):
        trouble = forbidden.why(name)
        if trouble:
            raise OSError(
                errno.ENOSYS, f"{trouble}, and nothing is killed without; run Linux 5.15 or newer and allow it in the seccomp profile"
            )


def _mrelease() -> Capability:
    # (-1, 0) does nothing and still passes seccomp and the system call table. In a child, because seccomp may answer with SIGSYS.
    answer = _in_child(lambda: process_mrelease(-1))
    feature = Feature.PROCESS_MRELEASE
    if answer == errno.EBADF:
        if kernel_version() < (5, 18):
            return Capability(feature, True, "works; before Linux 5.18 it can miss memory, which the measurement after it shows")
        return Capability(feature, True, "process_mrelease(2) answers")
    without = "memory comes back only when the process exits, and RELEASED is never claimed"
    if answer == errno.ENOSYS:
        return Capability(
            feature,
            False,
            f"this kernel ({platform.release()}) has no process_mrelease(2), or a sandbox hides it: {without}",
            "run Linux 5.15 or newer, 5.18 at best; under gVisor or an old seccomp profile run the agent outside of it",
        )
    how = "kills the caller (SIGSYS)" if answer < 0 else f"answers {errno.errorcode.get(answer, answer)}"
    return Capability(
        feature,
        False,
        f"a seccomp filter forbids process_mrelease(2): it {how}; {without}",
        "allow process_mrelease in the seccomp profile of the agent's container or service (RuntimeDefault of current runtimes has it)",
    )


def _pidfd_inode() -> Capability:
    # Before pidfs all pidfds share one anonymous inode; two processes tell.
    def inode(pid: int) -> int:
        fd = os.pidfd_open(pid)
        try:
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    mine = inode(os.getpid())
    if _in_child(lambda: inode(os.getpid()) != mine) == 1:
        return Capability(Feature.PIDFD_INODE, True, "pidfd inode numbers are unique until the next boot")
    return Capability(
        Feature.PIDFD_INODE,
        False,
        f"this kernel ({platform.release()}) gives every pidfd one inode number: a recycled pid is told apart by start time only",
        "run Linux 6.9 or newer",
    )


def _kill_any_user() -> Capability:
    if effective_capability(_CAP_KILL):
        if _in_user_namespace():
            return Capability(
                Feature.KILL_ANY_USER,
                False,
                "the agent is in a user namespace: CAP_KILL counts for processes in it alone",
                "run the agent in the node's user namespace (hostUsers: true, no --userns)",
            )
        if _hidden():
            return Capability(
                Feature.KILL_ANY_USER,
                False,
                f"/proc is mounted with hidepid: other processes than those of user {os.geteuid()} cannot be seen",
                "give the agent CAP_SYS_PTRACE, or a group that the gid= of that mount names",
            )
        return Capability(Feature.KILL_ANY_USER, True, "CAP_KILL is effective")
    return Capability(
        Feature.KILL_ANY_USER,
        False,
        f"no CAP_KILL: only processes that user {os.geteuid()} may signal are served",
        "run the agent as root or give it CAP_KILL",
    )


def _memory_cgroup() -> Capability:
    tree = cgroups.memory_tree()
    if tree is not None:
        return Capability(Feature.MEMORY_CGROUP, True, f"cgroup v{tree.version} carries the memory controller")
    return Capability(
        Feature.MEMORY_CGROUP,
        False,
        "no mounted cgroup hierarchy carries the memory controller: the charge of a cgroup is no proof here",
        "mount cgroup v2 with the memory controller, in a container also /sys/fs/cgroup of the host",
    )


def _compare_mm() -> Capability:
    feature = Feature.COMPARE_MM
    lost = "who shares an address space or holds a robust mutex is seen"
    calls = ("kcmp", "get_robust_list", "process_vm_readv")
    troubles = [trouble for trouble in map(forbidden.why, calls) if trouble]
    if troubles:
        return Capability(
            feature,
            False,
            f"{'; '.join(troubles)}: {lost} for no process, or not in full",
            f"allow {', '.join(calls)} in the seccomp profile of the agent's container or service",
        )
    if not effective_capability(_CAP_SYS_PTRACE):
        return Capability(
            feature,
            False,
            f"no CAP_SYS_PTRACE: {lost} for processes of user {os.geteuid()} only",
            "run the agent as root or give it CAP_SYS_PTRACE",
        )
    if _in_user_namespace():
        return Capability(
            feature,
            False,
            f"the agent is in a user namespace: {lost} for processes in it alone",
            "run the agent in the node's user namespace (hostUsers: true, no --userns)",
        )
    return Capability(feature, True, "CAP_SYS_PTRACE is effective")


def _priority(nice: int | None) -> Capability:
    feature = Feature.RAISED_PRIORITY
    if nice is not None:
        try:
            forbidden.check("setpriority")
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        except OSError:
            trouble = forbidden.why("setpriority")
            return Capability(
                feature,
                False,
                f"nice {nice} is not permitted{f' ({trouble})' if trouble else ''}: a busy node can starve the agent",
                "allow setpriority in the seccomp profile"
                if trouble
                else "run the agent as root, give it CAP_SYS_NICE, or raise RLIMIT_NICE",
            )
    now = os.getpriority(os.PRIO_PROCESS, 0)
    if now < 0:
        return Capability(feature, True, f"the agent runs at nice {now}")
    return Capability(feature, False, f"the agent runs at nice {now}, as configured", "set `nice` below 0")


def _memory_pressure() -> Capability:
    feature = Feature.MEMORY_PRESSURE
    without = "WatchMemory shows no pressure, and neither a trigger nor a goal can be one"
    try:
        pressure.node()
    except PermissionError:
        return Capability(feature, False, f"{pressure.NODE_FILE} may not be read: {without}", "let the agent's container or service see it")
    except (OSError, ValueError, KeyError):
        with open("/proc/cmdline", encoding="ascii", errors="replace") as cmdline:
            off = "psi=0" in cmdline.read().split()
        return Capability(
            feature,
            False,
            f"{'the kernel was booted with psi=0' if off else f'this kernel ({platform.release()}) does not measure it'}: {without}",
            "boot the node without psi=0" if off else "boot the node with psi=1; a kernel without CONFIG_PSI needs another one",
        )
    try:
        os.close(pressure.open_node())
    except OSError:
        return Capability(feature, True, "it is measured; triggers need CAP_SYS_RESOURCE, or Linux 6.4 and a /proc that may be written")
    return Capability(feature, True, f"{pressure.NODE_FILE} can be read and watched")


def effective_capability(number: int) -> bool:
    """Whether this process has a capability, by its number in linux/capability.h."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        effective = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    return bool(effective >> number & 1)


def _in_user_namespace() -> bool:
    """Whether capabilities count in a part of the node only, user_namespaces(7)."""
    return os.stat("/proc/self/ns/user").st_ino != _FIRST_USER_NAMESPACE  # noqa: PTH116 - as elsewhere in /proc


def _hidden() -> bool:
    """Whether /proc shows other users' processes to fewer than this agent: its option hidepid, proc(5)."""
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as lines:
        mounts = [line.split() for line in lines]
    options = next((fields[3].split(",") for fields in reversed(mounts) if fields[1] == "/proc"), list[str]())
    if effective_capability(_CAP_SYS_PTRACE) or {"hidepid=0", "hidepid=off"} & {*options}:
        return False
    seeing = next((int(option[4:]) for option in options if option.startswith("gid=")), 0)
    return any(option.startswith("hidepid=") for option in options) and seeing not in (os.getegid(), *os.getgroups())


def _in_child(question: Callable[[], int]) -> int:
    """Answer of ``question`` (0 to 255) asked in a child process; the negative signal number where it was killed."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        answer = 255
        try:
            signal.signal(signal.SIGSYS, signal.SIG_DFL)
            answer = int(question())
        finally:
            os._exit(answer & 0xFF)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
