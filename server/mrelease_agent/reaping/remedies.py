"""The table of what to do about memory that is held, by its cause; docs/reference/outcomes.md is made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mrelease_agent.reaping.outcome import HeldCause


@dataclass(frozen=True, slots=True)
class Wait:
    """What a thread in uninterruptible sleep waits for, told by the beginning of its wait channel."""

    channels: tuple[str, ...]
    what: str
    remedy: str


#: The first one that fits.
WAITS: Final = (
    Wait(
        ("request_wait_answer", "fuse_", "__fuse"),
        "the answer of a FUSE file system",
        "restart the FUSE server, or abort its connection: `echo 1 > /sys/fs/fuse/connections/N/abort`",
    ),
    Wait(
        ("nfs", "rpc_", "__rpc", "nlm", "cifs", "smb", "ceph", "p9_", "v9fs", "afs_"),
        "a network file system",
        "bring the server back, or unmount by force: `umount -f MOUNTPOINT`",
    ),
    Wait(
        ("percpu_rwsem_wait", "__percpu_down_read", "sb_start_", "mnt_want_write"),
        "a frozen file system",
        "thaw it: `fsfreeze --unfreeze MOUNTPOINT`",
    ),
    Wait(
        ("exit_aio", "io_uring", "__io_uring", "io_ring", "io_wq"),
        "its asynchronous I/O to end",
        "bring back the storage or file system that it does I/O on: see `dmesg`",
    ),
    Wait(
        (
            *("folio_", "__folio", "wait_on_page", "io_schedule", "bit_wait", "wait_on_buffer", "__wait_on_buffer", "invalidate_inode"),
            *("submit_bio", "blk", "rq_qos", "wbt_", "nvme", "scsi", "dm_", "md_"),
            *("jbd2", "ext4", "xfs", "btrfs", "f2fs", "do_get_write_access"),
        ),
        "storage, or the server of a file's page",
        "bring the storage or the file system back: see `dmesg` for the device",
    ),
    Wait(("kernel_clone", "wait_for_vfork_done"), "its child by vfork(2)", "kill the child too: `pgrep -P PID` names it"),
    Wait(
        ("dma_fence", "drm", "amdgpu", "nv", "ib_", "uverbs", "rdma", "mlx", "vfio", "kvm", "usb", "tty"),
        "a device",
        "reset the device or unload its driver: see `dmesg`",
    ),
)
#: Where the wait channel says nothing that is known here, or may not be read.
UNKNOWN_WAIT: Final = "find out what it waits for: `cat /proc/PID/stack` and `dmesg`"

#: What to do and what to expect, by cause. Names in braces are filled in by what was found, or in the reference by DOCUMENTED.
REMEDIES: Final[Mapping[HeldCause, str]] = {
    HeldCause.UNINTERRUPTIBLE: "{awaited}; no signal ends this sleep, and when it ends the process exits and its memory is back",
    HeldCause.TRACED: "{tracer}, or let it detach; the process then exits at once and its memory is back",
    HeldCause.FROZEN: "thaw it: {thaw}; it then exits by itself and its memory is back",
    HeldCause.STARVED: "give it CPU time: {cpu}; it then frees its memory by itself, a GiB in a fraction of a second",
    HeldCause.SHARED_MM: "kill those too: `mrelease kill {sharers}`; the memory is back when the last one of them is dead",
    HeldCause.PINNED: "{readers}; the memory is back when the last one lets go",
    HeldCause.CORE_DUMP: "{dump}; the memory is back when the dump has ended",
    HeldCause.MMAP_LOCK: "{awaited}; the call goes on in the kernel and releases the memory when the lock is free",
    HeldCause.NO_REAPER: "release again (`mrelease release`); where that repeats, raise reaper_threads, and see the metric "
    "mrelease_reaper_threads for stuck ones: each waits for a victim of an earlier request",
    HeldCause.UNSUPPORTED: "`mrelease doctor` says what to change on the node; until then the memory comes back when the process exits",
    HeldCause.EXITING: "wait, or ask again (`mrelease release` with a longer --timeout); the memory comes back as it goes on",
}

SEARCH: Final = (
    "look for what pins pages (KVM, vfio, RDMA, io_uring: `find /proc/[0-9]*/fd -lname '*kvm*' -o -lname '*vfio*' -o "
    "-lname '*infiniband*' -o -lname '*io_uring*'`), and for relatives by fork(2) in other cgroups"
)
WEIGHT: Final = (
    "lift its cgroups for as long as it lives (`mrelease release --boost lift`), or raise cpu.weight (v1: cpu.shares) of its cgroup and of "
    "those above it, and their limits (cpu.max, v1: cpu.cfs_quota_us)"
)
DUMP: Final = "wait, or end the dump: `mrelease kill`"
DUMP_STUCK: Final = "what it is dumped to (`cat /proc/sys/kernel/core_pattern`) does not answer"
THAW: Final = (
    "`echo THAWED > DIRECTORY/freezer.state` (v1), `echo 0 > DIRECTORY/cgroup.freeze` (v2), or as it was frozen, such as `docker unpause`"
)

#: What stands for the names in braces where nothing was found yet.
DOCUMENTED: Final[Mapping[str, str]] = {
    "awaited": "bring back what the thread in state D waits for, see the next table",
    "tracer": "end the tracer: `kill -9 TRACER`",
    "thaw": THAW,
    "cpu": f"{WEIGHT}, widen its affinity (`taskset --all-tasks --cpu-list --pid CPUS PID`), take it out of SCHED_IDLE "
    "(`chrt --all-tasks --other --pid 0 PID`)",
    "sharers": "PID...",
    "readers": f"end the readers: `kill PID...`; where none is named, {SEARCH}",
    "dump": f"{DUMP}; where that did not help, {DUMP_STUCK}: bring that back",
}


def anchor(cause: HeldCause) -> str:
    """Where docs/reference/outcomes.md explains a cause."""
    return f"held-{cause.name.lower().replace('_', '-')}"


def awaited(wchan: str) -> Wait | None:
    """What a thread in state D with this wait channel waits for; None where that is not known."""
    return next((wait for wait in WAITS if wchan and wchan.startswith(wait.channels)), None)
