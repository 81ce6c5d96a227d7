"""What runs inside a victim: it takes memory, says so on stdout, then obeys one JSON line on stdin at a time; at end of file it exits.

Run as a file without the site module, so that a victim is a bare interpreter plus the memory that it was told to take.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import json
import mmap
import os
import platform
import resource
import sys
from collections.abc import Callable
from typing import Any

X86 = platform.machine() == "x86_64"
SYS_EXIT = 60 if X86 else 93
SYS_IO_SETUP, SYS_IO_SUBMIT = (206, 209) if X86 else (0, 2)
SYS_USERFAULTFD = 323 if X86 else 282
SYS_PROCESS_VM_READV = 310 if X86 else 270
UFFDIO_API, UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00
CLONE_VM, CLONE_VFORK, CLONE_PARENT_SETTID, SIGCHLD = 0x100, 0x4000, 0x100000, 17
MAP_HUGETLB = 0x40000
PR_SET_DUMPABLE = 4
MCL_CURRENT, MCL_FUTURE = 1, 2
MADV_PAGEOUT = 21
PAGE = mmap.PAGESIZE
BLOCK = b"\x5a" * (1 << 20)

libc = ctypes.CDLL(None, use_errno=True)
keep: list[object] = []
"""Objects that must live as long as the process."""


def say(**facts: object) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


def address_of(area: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


def check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def syscall(number: int, *arguments: object) -> int:
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    check(min(result, 0), f"system call {number}")
    return result


def take(size: int, flags: int, advice: int | None) -> mmap.mmap:
    """Maps `size` bytes and writes to every page."""
    area = mmap.mmap(-1, size, flags=flags)
    if advice is not None:
        area.madvise(advice)
    for start in range(0, size, len(BLOCK)):
        end = min(size, start + len(BLOCK))
        area[start:end] = BLOCK[: end - start]
    keep.append(area)
    return area


def take_vmas(count: int) -> int:
    """Makes `count` mappings of one page each; every other page differs in protection, so that the kernel cannot merge them."""
    area = take(count * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.MADV_NOHUGEPAGE)
    start = address_of(area)
    for page in range(1, count, 2):
        check(libc.mprotect(ctypes.c_void_p(start + page * PAGE), ctypes.c_size_t(PAGE), mmap.PROT_READ), "mprotect")
    return count * PAGE


def start_threads(count: int) -> None:
    # Each thread sleeps on a lock that nobody releases.
    lock = _thread.allocate_lock()
    lock.acquire()
    _thread.stack_size(64 * 1024)
    for _ in range(count):
        _thread.start_new_thread(lock.acquire, ())


def take_all(options: dict[str, Any]) -> dict[str, object]:
    """Does what the options ask; groups come before memory, privileges go last."""
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    for group in options.get("cgroups", ()):
        with open(group, "w") as procs:
            procs.write("0")
    if options.get("cpu") is not None:
        os.sched_setaffinity(0, {options["cpu"]})
    if options.get("mlock"):
        check(libc.mlockall(MCL_CURRENT | MCL_FUTURE), "mlockall")
    facts: dict[str, object] = {"pid": os.getpid()}
    if options.get("anon"):
        huge = options.get("huge")
        area = take(options["anon"], private, mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
        facts["address"] = address_of(area)
    if options.get("shmem"):
        take(options["shmem"], mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, None)
    if options.get("hugetlb"):
        take(options["hugetlb"], private | MAP_HUGETLB, None)
    if options.get("vmas"):
        take_vmas(options["vmas"])
    if options.get("threads"):
        start_threads(options["threads"])
    if options.get("idle"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    if options.get("uid") is not None:
        os.setgroups([])
        os.setresgid(options["uid"], options["uid"], options["uid"])
        os.setresuid(options["uid"], options["uid"], options["uid"])
        # As after an exec by that user: its /proc files belong to it.
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    return facts


def leave_leader() -> None:
    """The main thread ends without the process; a thread goes on obeying."""
    _thread.start_new_thread(obey, ())
    say()
    syscall(SYS_EXIT, 0)


def share(vfork: bool) -> None:
    """Makes a process, not a thread, in this address space, which sleeps in pause(2).

    libc's clone() calls libc's pause() on the new stack: no Python code ever runs in the new process.
    """
    stack = mmap.mmap(-1, 16 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    tid = ctypes.c_int(0)
    keep.extend((stack, tid))
    flags = CLONE_VM | CLONE_PARENT_SETTID | SIGCHLD | (CLONE_VFORK if vfork else 0)
    pause = ctypes.cast(libc.pause, ctypes.c_void_p)
    top = ctypes.c_void_p(address_of(stack) + len(stack))

    def clone() -> None:
        if libc.clone(pause, top, flags, None, ctypes.byref(tid), None, None) < 0:
            say(error=ctypes.get_errno())

    if not vfork:
        clone()
        say(pid=tid.value)
        return
    # The caller of vfork sleeps until its child has gone, so another thread says the child's pid, which the kernel writes before.
    _thread.start_new_thread(tell_when_written, (tid,))
    clone()


def tell_when_written(tid: ctypes.c_int) -> None:
    while not tid.value:
        os.sched_yield()
    say(pid=tid.value)


def read_quietly(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.read(fd, PAGE)


def read(path: str, thread: bool) -> None:
    """Reads a file whose read never returns."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    if thread:
        _thread.start_new_thread(read_quietly, (fd,))
    else:
        os.read(fd, PAGE)


def write(path: str, thread: bool) -> None:
    """Writes to a file on a file system that is frozen: even the opening waits."""

    def wait() -> None:
        with open(path, "wb", buffering=0) as file:
            file.write(b"x")

    if thread:
        _thread.start_new_thread(wait, ())
    else:
        wait()


def page_out() -> None:
    """Gives its memory to swap."""
    for area in keep:
        if isinstance(area, mmap.mmap):
            area.madvise(MADV_PAGEOUT)
    say()


def open_file(path: str) -> None:
    """Keeps a file open: it is flushed when the process ends."""
    os.open(path, os.O_RDONLY)
    say()


def aio(path: str) -> None:
    """Submits an asynchronous read that never ends: exit_aio() waits for it before the address space is freed."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    keep.append(buffer)
    context = ctypes.c_ulong(0)
    syscall(SYS_IO_SETUP, ctypes.c_long(1), ctypes.byref(context))
    # struct iocb: data, key and flags, opcode 0 (pread) with priority, fd, buffer, bytes, offset, reserved, flags
    iocb = (ctypes.c_uint64 * 8)(0, 0, fd << 32, address_of(buffer), PAGE, 0, 0, 0)
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(iocb))
    syscall(SYS_IO_SUBMIT, context, ctypes.c_long(1), pointers)
    say()


def pin(pid: int, address: int, through_proc: bool) -> None:
    """Pins another process's address space: process_vm_readv(2), or a read of its /proc file, into a page that never comes.

    That page of its own is userfaultfd(2)'s to provide.
    """
    fd = syscall(SYS_USERFAULTFD, ctypes.c_long(os.O_CLOEXEC))
    api = (ctypes.c_uint64 * 3)(0xAA, 0, 0)
    target = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    keep.append(target)
    register = (ctypes.c_uint64 * 4)(address_of(target), PAGE, 1, 0)
    for request, argument in ((UFFDIO_API, api), (UFFDIO_REGISTER, register)):
        check(libc.ioctl(fd, ctypes.c_ulong(request), argument), "userfaultfd")
    local, remote = (ctypes.c_uint64 * 2)(address_of(target), PAGE), (ctypes.c_uint64 * 2)(address, PAGE)
    keep.extend((local, remote))
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY) if through_proc else -1

    def copy() -> None:
        if through_proc:
            # Not os.preadv(), which would touch the page itself.
            libc.pread(memory, ctypes.c_void_p(address_of(target)), ctypes.c_size_t(PAGE), ctypes.c_long(address))
        else:
            syscall(SYS_PROCESS_VM_READV, ctypes.c_long(pid), local, ctypes.c_long(1), remote, ctypes.c_long(1), ctypes.c_long(0))

    _thread.start_new_thread(copy, ())
    os.read(fd, 32)  # the fault: from here on the copy sleeps with the address space pinned
    say()


def lock_mmap(path: str) -> None:
    """A thread sleeps with mmap_lock held for writing: mmap(2) of a direct-I/O FUSE file waits for a page that is being read for ever."""
    cached, direct = os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY | os.O_DIRECT)
    _thread.start_new_thread(read_quietly, (cached,))
    sys.stdin.buffer.readline()  # the lab has seen the read: the page is locked now

    def lock() -> None:
        say(tid=_thread.get_native_id())
        # Not the mmap module, which keeps the interpreter lock.
        libc.mmap(None, ctypes.c_size_t(PAGE), mmap.PROT_READ, mmap.MAP_PRIVATE, direct, ctypes.c_long(0))

    _thread.start_new_thread(lock, ())


def abort() -> None:
    """Dies by a signal that dumps core."""
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    os.abort()


def spin() -> None:
    """Keeps its CPU busy; a thread waits for the end of stdin."""
    _thread.start_new_thread(obey, ())
    say()
    while True:
        pass


def leave() -> None:
    os._exit(0)


ORDERS: dict[str, Callable[..., None]] = {
    order.__name__: order for order in (leave_leader, share, read, write, page_out, open_file, aio, pin, lock_mmap, abort, spin, leave)
}


def obey() -> None:
    """Carries out the orders read from stdin until its end."""
    while line := sys.stdin.buffer.readline():
        order = json.loads(line)
        try:
            ORDERS[order.pop("order")](**order)
        except OSError as error:
            say(error=error.errno, text=str(error))
    os._exit(0)


if __name__ == "__main__":
    try:
        say(**take_all(json.loads(sys.argv[1])))
    except OSError as failure:
        say(error=failure.errno, text=str(failure))
    obey()
