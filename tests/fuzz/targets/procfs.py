"""Files of /proc of a process that calls itself, its cgroup and its sockets as it likes: it says what the kernel wrote, and no more."""

from __future__ import annotations

import re

from fuzz.kit import halves
from mrelease_agent.linux.procfs import parse_stat, parse_status
from mrelease_agent.linux.unix_sockets import Listening

NUMBERS = " ".join(map(str, (7, 7, 7, 0, -1, 0x00000404, *range(10), 3, 0, 123456, 4096000, *range(30))))
STATUS = """Umask:\t0022
State:\tS (sleeping)
Tgid:\t4711
Pid:\t4711
Uid:\t1000\t1001\t1002\t1003
VmPTE:\t      60 kB
VmSwap:\t      16 kB
HugetlbPages:\t       0 kB
CoreDumping:\t0
Threads:\t3
SigPnd:\t0000000000000000
ShdPnd:\t0000000000000100
"""
MEMORY = "RssAnon:\t    1024 kB\nRssFile:\t       8 kB\nRssShmem:\t       4 kB\n"
SEEN = re.compile(r"[\x00\n\\]")


def one_input(data: bytes) -> None:
    """A name of at most 15 bytes, and the path of a socket."""
    comm, path = halves(data)
    comm = comm[:15].replace(b"\0", b"")
    stat = parse_stat(b"4711 (" + comm + b") S " + NUMBERS.encode() + b"\n")
    assert (stat.pid, stat.state, stat.ppid, stat.threads, stat.start_time) == (4711, "S", 7, 3, 123456)
    assert (stat.flags, stat.size, stat.kernel_thread) == (0x404, 4096000, False)
    assert stat.comm == comm.decode("utf-8", "replace")

    name = comm.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")  # proc_task_name(), fs/proc/array.c
    memory = STATUS.replace("VmPTE", MEMORY + "VmPTE")
    for text, anon in ((STATUS, None), (memory, 1024 * 1024)):
        status = parse_status(b"Name:\t" + name + b"\n" + text.encode())
        assert (status.tgid, status.uid, status.core_dumping, status.sigkill_pending) == (4711, 1001, False, True)
        assert (status.memory and status.memory.anon) == anon

    # Whoever binds a socket writes a line, and with a line break in its path a second one: its inode is then a claim.
    table = b"ffff: 00000002 00000000 00010000 0001 01 77 " + path[:107].replace(b"\0", b"@") + b"\n"
    listening = Listening(["/run/containerd/containerd.sock"]).parse(table)
    assert b"/run/containerd/containerd.sock" in path[:107] or not listening
