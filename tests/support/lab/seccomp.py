"""Runs a command under a seccomp filter for one system call, so that the real kernel answers with the errno or signal that a test wants.

    python seccomp.py --errno ENOSYS -- command...           every call answers ENOSYS
    python seccomp.py --errno EAGAIN --times 3 -- command... the first three, then the kernel's own answer
    python seccomp.py --trap -- command...                   SIGSYS; --kill: the process is killed (SIGSYS)

Needs no privilege (no_new_privs). The command keeps this process's pid. Source: seccomp(2), seccomp_unotify(2).
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import fcntl
import os
import platform
import select
import socket
import struct
import sys

X86 = platform.machine() == "x86_64"
AUDIT_ARCH = 0xC000003E if X86 else 0xC00000B7
SYS_SECCOMP = 317 if X86 else 277
NUMBERS = {
    "pidfd_send_signal": 424, "pidfd_open": 434, "openat2": 437, "process_mrelease": 448, "kcmp": 312 if X86 else 272,
    "sched_setscheduler": 144 if X86 else 119, "sched_setaffinity": 203 if X86 else 122, "setpriority": 141 if X86 else 140,
    "get_robust_list": 274 if X86 else 100, "process_vm_readv": 310 if X86 else 270, "mlockall": 151 if X86 else 230,
}  # fmt: skip
PR_SET_NO_NEW_PRIVS = 38
SET_MODE_FILTER, NEW_LISTENER = 1, 8
ALLOW, ERRNO, TRAP, NOTIFY, KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x00030000, 0x7FC00000, 0x80000000
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
AT_NUMBER, AT_ARCH, AT_FIRST_ARGUMENT = 0, 4, 16
NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101
CONTINUE = 1


def filtered(
    command: list[str],
    *,
    error: str = "",
    trap: bool = False,
    kill: bool = False,
    times: int = 0,
    spare_probe: bool = False,
    syscall: str = "process_mrelease",
) -> list[str]:
    """Returns the command line that runs `command` under the filter; the arguments are the options of this program."""
    action = ["--trap"] if trap else ["--kill"] if kill else ["--errno", error]
    more = (["--times", str(times)] if times else []) + (["--spare-probe"] if spare_probe else [])
    return [sys.executable, "-E", "-s", "-S", __file__, "--syscall", syscall, *action, *more, "--", *command]


def program(number: int, action: int, spare_probe: bool) -> bytes:
    """Returns the classic BPF program: `action` for this system call, all else allowed; with `spare_probe` also a first argument of -1."""
    probe = [(LOAD, 0, 0, AT_FIRST_ARGUMENT), (EQUAL, 1, 0, 0xFFFFFFFF)] if spare_probe else []
    to_allow = len(probe) + 1
    code = [
        (LOAD, 0, 0, AT_ARCH),
        (EQUAL, 0, to_allow + 2, AUDIT_ARCH),
        (LOAD, 0, 0, AT_NUMBER),
        (EQUAL, 0, to_allow, number),
        *probe,
        (RETURN, 0, 0, action),
        (RETURN, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def install(code: bytes, flags: int) -> int:
    """Puts the filter on this process for ever; returns seccomp(2)'s result: the listener's fd with NEW_LISTENER."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(code, len(code))
    argument = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    result: int = libc.syscall(ctypes.c_long(SYS_SECCOMP), SET_MODE_FILTER, flags, argument)
    if result < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return result


def supervise(listener: int, code: int, times: int) -> None:
    """Answers the first `times` calls with the errno, lets the kernel answer the others, ends with the last filtered process."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while all(not events & select.POLLHUP for _, events in poll.poll()):
        notice = bytearray(80)
        try:
            fcntl.ioctl(listener, NOTIF_RECV, notice)
            reply = struct.pack("=QqiI", notice_id(notice), 0, -code if times > 0 else 0, 0 if times > 0 else CONTINUE)
            fcntl.ioctl(listener, NOTIF_SEND, bytearray(reply))
        except FileNotFoundError:
            continue  # the caller was killed meanwhile
        times -= 1


def notice_id(notice: bytearray) -> int:
    """Returns the first field of struct seccomp_notif."""
    return int.from_bytes(notice[:8], sys.byteorder)


def start_supervisor(code: int, times: int) -> socket.socket:
    """Starts the supervisor, which is no child of the command; returns the socket over which it gets the listener."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child:
        theirs.close()
        os.waitpid(child, 0)
        return ours
    if os.fork():
        os._exit(0)
    os.setsid()
    try:
        _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
        # No pipe of the command's may stay open because of this process.
        listener = os.dup2(fds[0], 3)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.closerange(4, 1 << 16)
        supervise(listener, code, times)
    finally:
        os._exit(0)


def main() -> None:
    """Parses the command line, installs the filter and becomes the command."""
    parser = argparse.ArgumentParser(description="run a command under a seccomp filter for one system call")
    parser.add_argument("--syscall", default="process_mrelease", help=f"number, or one of {', '.join(NUMBERS)}")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--errno", choices=sorted(errno.errorcode.values()), metavar="NAME", help="answer with this errno")
    action.add_argument("--trap", action="store_true", help="SECCOMP_RET_TRAP: SIGSYS to the caller")
    action.add_argument("--kill", action="store_true", help="SECCOMP_RET_KILL_PROCESS")
    parser.add_argument("--times", type=int, default=0, help="only the first N calls, the probe (-1, 0) not counted")
    parser.add_argument("--spare-probe", action="store_true", help="let a call whose first argument is -1 through")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    number = NUMBERS.get(options.syscall) or int(options.syscall)
    code: int = getattr(errno, options.errno) if options.errno else 0
    if options.times and options.errno:
        with start_supervisor(code, options.times) as channel:
            listener = install(program(number, NOTIFY, spare_probe=True), NEW_LISTENER)
            socket.send_fds(channel, [b"x"], [listener])
            os.close(listener)
    else:
        install(program(number, TRAP if options.trap else KILL_PROCESS if options.kill else ERRNO | code, options.spare_probe), 0)
    os.execvp(options.command[0], options.command)


if __name__ == "__main__":
    main()
