"""Runs a command under a seccomp allow list, made by libseccomp as systemd and runc make theirs; what is not in it answers EPERM.

    python allowlist.py --calls FILE --families 1,2,10 --no-namespaces --no-wx -- command...

FILE has one name of a system call a line. The conditions are those of RestrictAddressFamilies=, RestrictNamespaces= and
MemoryDenyWriteExecute= of systemd.exec(5). Names that this machine does not have are left out, as systemd does.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
from pathlib import Path

ALLOW, ERRNO = 0x7FFF0000, 0x00050000
EQUAL, MASKED_EQUAL = 4, 7  # enum scmp_compare
WRITE, EXEC = 2, 4  # PROT_*
#: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWTIME
NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x00000080


class Compare(ctypes.Structure):
    """struct scmp_arg_cmp of seccomp_rule_add(3)."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class Filter:
    """An allow list."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL("libseccomp.so.2")
        self._lib.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._lib.seccomp_init(ctypes.c_uint32(ERRNO | errno.EPERM)))

    def rule(self, name: str, *conditions: Compare, action: int = ALLOW) -> None:
        """Allow a call under all of the conditions."""
        number = self._lib.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return
        array = (Compare * len(conditions))(*conditions)
        result = self._lib.seccomp_rule_add_array(self._context, ctypes.c_uint32(action), number, len(conditions), array)
        if result:
            raise OSError(-result, f"seccomp_rule_add {name}")

    def load(self) -> None:
        """Put it on this process, for ever."""
        result = self._lib.seccomp_load(self._context)
        if result:
            raise OSError(-result, "seccomp_load")


def main() -> None:
    """Parses the command line, loads the filter and becomes the command."""
    parser = argparse.ArgumentParser(description="run a command under an allow list of system calls")
    parser.add_argument("--calls", required=True)
    parser.add_argument("--families", default="")
    parser.add_argument("--no-namespaces", action="store_true")
    parser.add_argument("--no-wx", action="store_true")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    names = set(Path(options.calls).read_text().split())
    rules = Filter()
    if options.families:
        names.discard("socket")
        for family in options.families.split(","):
            rules.rule("socket", Compare(0, EQUAL, int(family), 0))
    if options.no_namespaces:
        names -= {"clone", "clone3", "unshare", "setns"}
        rules.rule("clone", Compare(0, MASKED_EQUAL, NAMESPACES, 0))
        rules.rule("clone3", action=ERRNO | errno.ENOSYS)  # its flags are in memory, where no filter sees them: the C library takes clone
    if options.no_wx:
        names -= {"mmap", "mprotect", "pkey_mprotect"}
        rules.rule("mmap", Compare(2, MASKED_EQUAL, WRITE, 0))
        rules.rule("mmap", Compare(2, MASKED_EQUAL, EXEC, 0))
        rules.rule("mprotect", Compare(2, MASKED_EQUAL, EXEC, 0))
        rules.rule("pkey_mprotect", Compare(2, MASKED_EQUAL, EXEC, 0))
    for name in sorted(names):
        rules.rule(name)
    rules.load()
    os.execvp(options.command[0], options.command)


if __name__ == "__main__":
    main()
