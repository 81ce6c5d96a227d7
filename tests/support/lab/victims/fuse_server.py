"""A FUSE file system that never answers some requests, spoken over /dev/fuse without a library, in a mount namespace of its own.

It has one file, `file`, opened with the page cache, or without it where the opener asks for O_DIRECT, and one to be created, `core`.
Requests named in the options are held: reported on stdout and never answered. When this process ends, /dev/fuse closes, the connection
is aborted and whoever waits goes on.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import struct
import sys

OPCODES = {
    1: "LOOKUP",
    3: "GETATTR",
    14: "OPEN",
    15: "READ",
    16: "WRITE",
    18: "RELEASE",
    25: "FLUSH",
    26: "INIT",
    35: "CREATE",
    4: "SETATTR",
}
UNANSWERED = {2, 36, 42}  # FORGET, INTERRUPT, BATCH_FORGET have no reply
CLONE_NEWNS, MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 0x20000, 2, 4, 0x4000, 1 << 18
FUSE_ASYNC_READ, FUSE_BIG_WRITES, FUSE_ASYNC_DIO, FOPEN_DIRECT_IO = 1, 1 << 5, 1 << 15, 1
ROOT, FILE, CORE = 1, 2, 3
SIZE = 1 << 30

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def say(**facts: object) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


def attributes(node: int) -> bytes:
    """struct fuse_attr."""
    # A core dump is written only to a file that its user alone may read.
    mode = {ROOT: 0o40755, FILE: 0o100666, CORE: 0o100600}[node]
    size = SIZE if node == FILE else 0
    return struct.pack("=6Q10I", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 2 if node == ROOT else 1, 0, 0, 0, 4096, 0)


def entry(node: int) -> bytes:
    """struct fuse_entry_out."""
    return struct.pack("=4Q2I", node, 0, 60, 60, 0, 0) + attributes(node)


def answer_init(body: bytes) -> bytes:
    _, minor, readahead, flags = struct.unpack_from("=4I", body)
    wanted = flags & (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ASYNC_DIO)
    return struct.pack("=4I2H2I2H8I", 7, min(minor, 31), readahead, wanted, 16, 12, 1 << 16, 1, 0, 0, *[0] * 8)


def answer(opcode: int, node: int, body: bytes) -> bytes | int:
    """Returns the reply's body, or an errno."""
    name = OPCODES.get(opcode)
    if name == "INIT":
        return answer_init(body)
    if name == "LOOKUP":
        return entry(FILE) if body == b"file\0" else errno.ENOENT
    if name == "CREATE":
        return entry(CORE) + struct.pack("=QII", 0, 0, 0)
    if name in {"GETATTR", "SETATTR"}:
        return struct.pack("=Q2I", 60, 0, 0) + attributes(node)
    if name == "OPEN":
        flags = int.from_bytes(body[:4], sys.byteorder)
        return struct.pack("=QII", 0, FOPEN_DIRECT_IO if flags & os.O_DIRECT else 0, 0)
    return b"" if name in {"RELEASE", "FLUSH"} else errno.ENOSYS


def mount(target: str, mode: int = 0) -> int:
    """Mounts the file system where only this process's mount namespace sees it; others reach it through /proc/PID/root."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    check(libc.unshare(CLONE_NEWNS), "unshare")
    check(libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None), "mount private")
    options = f"fd={device},rootmode={0o40000 | mode:o},user_id=0,group_id=0,allow_other,default_permissions".encode()
    check(libc.mount(b"mrelease-lab", target.encode(), b"fuse", ctypes.c_ulong(MS_NOSUID | MS_NODEV), options), "mount fuse")
    return device


def serve(device: int, held: set[str]) -> None:
    poll = select.poll()
    poll.register(device, select.POLLIN)
    poll.register(0, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if 0 in ready:
            return
        request = os.read(device, 1 << 18)
        _, opcode, unique, node, _, _, pid, _ = struct.unpack_from("=2I2Q4I", request)
        if opcode in UNANSWERED:
            continue
        name = OPCODES.get(opcode, str(opcode))
        if name in held:
            say(request=name, pid=pid)
            continue
        reply = answer(opcode, node, request[40:])
        body, code = (b"", -reply) if isinstance(reply, int) else (reply, 0)
        try:
            os.write(device, struct.pack("=IiQ", 16 + len(body), code, unique) + body)
        except FileNotFoundError:
            continue  # the requester was killed meanwhile


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    try:
        fuse = mount(asked["target"])
    except OSError as failure:
        say(error=failure.errno, text=str(failure))
        sys.exit(1)
    say(pid=os.getpid())
    serve(fuse, set(asked["held"]))
