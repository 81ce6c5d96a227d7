"""Real processes in every state that matters to a release: one context manager for each, made, held and cleaned up.

`with live(64 * MIB) as victim: ...` yields a frozen Victim with `pid`, `size_bytes` and `pidfd`. Where this machine cannot make a victim,
entering raises Unavailable, which pytest reports as a skip with the reason.
"""

from __future__ import annotations

from .caller import Caller, caller
from .cgroups import Cgroup, cgroup, cpu_cgroup, memory_cgroup
from .child import MIB, Victim
from .core_dump import core_dump_stuck, core_dumping
from .frozen import frozen_v1, frozen_v2
from .fuse import (
    HangFs,
    HangingVictim,
    PinnedVictim,
    d_state,
    hang_fs,
    inside_exit_mm,
    mmap_locked,
    past_exit_mm,
    pinned,
    unkillable,
)
from .kernel import PROCESS_MRELEASE, Unavailable, kernel_release, mrelease, need_mrelease, need_root, until, wait_readable
from .memory import hugetlb, many_vmas, mlocked, shmem, thp
from .ptrace import ExitHold, HeldVictim, held_at_exit, hold_at_exit
from .readers import field_bytes, meminfo, rss_anon, start_time, state, statm_resident, status_fields, threads
from .reuse import PidReuse, pid_reuse
from .robust import HUNG, OWNER_DIED, RobustMutex, robust_mutex
from .seccomp import filtered
from .states import (
    NOBODY,
    SharedVictim,
    clone_vm_sharer,
    kernel_thread,
    live,
    many_threads,
    reaped,
    starved,
    stopped,
    vfork_sharer,
    zombie,
    zombie_leader,
)
from .storage import FrozenFsVictim, frozen_fs, swap, swapped
from .thrash import thrashing

__all__ = [
    # values
    "HUNG", "MIB", "NOBODY", "OWNER_DIED", "PROCESS_MRELEASE", "Caller", "Cgroup", "ExitHold", "FrozenFsVictim", "HangFs",
    "HangingVictim", "HeldVictim", "PidReuse", "PinnedVictim", "RobustMutex", "SharedVictim", "Unavailable", "Victim",
    # victims
    "clone_vm_sharer", "core_dump_stuck", "core_dumping", "d_state", "frozen_fs", "frozen_v1", "frozen_v2", "held_at_exit", "hold_at_exit",
    "hugetlb", "inside_exit_mm", "kernel_thread", "live", "many_threads", "many_vmas", "mlocked", "mmap_locked", "past_exit_mm",
    "pinned", "reaped", "shmem", "starved", "stopped", "swapped", "thp", "unkillable", "vfork_sharer", "zombie", "zombie_leader",
    # surroundings
    "caller", "cgroup", "cpu_cgroup", "filtered", "hang_fs", "memory_cgroup", "pid_reuse", "robust_mutex", "swap", "thrashing",
    # calls, waits, readers
    "field_bytes", "kernel_release", "meminfo", "mrelease", "need_mrelease", "need_root", "rss_anon", "start_time", "state",
    "statm_resident", "status_fields", "threads", "until", "wait_readable",
]  # fmt: skip
