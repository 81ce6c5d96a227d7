"""A FUSE file system in memory whose disk can be told to fail: one directory of files, spoken over /dev/fuse without a library.

Each line on stdin is a JSON object that names, by request, what happens from now on: `"hold"` reports each such request on stdout and does
not answer it, a number is the errno that it is answered with, `null` is the normal answer, which held requests get at once.
It is mounted in a mount namespace of its own; at end of file on stdin it ends, and whoever waits for it gets an error.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import select
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

#: The file beside this one: this directory is no package.
plain: Any = importlib.import_module("fuse_server")

OPCODES = {
    1: "LOOKUP",
    3: "GETATTR",
    4: "SETATTR",
    10: "UNLINK",
    14: "OPEN",
    15: "READ",
    16: "WRITE",
    18: "RELEASE",
    20: "FSYNC",
    25: "FLUSH",
    26: "INIT",
    27: "OPENDIR",
    28: "READDIR",
    29: "RELEASEDIR",
    30: "FSYNCDIR",
    35: "CREATE",
}
ROOT = 1
FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE = 1, 2, 4, 8


@dataclass
class File:
    mode: int
    data: bytearray = field(default_factory=bytearray)
    names: int = 1


class Fs:
    """The files, by node number, and the names of the one directory."""

    def __init__(self) -> None:
        self.files = {ROOT: File(0o40700)}
        self.names: dict[bytes, int] = {}
        self.last = ROOT

    def attributes(self, node: int) -> bytes:
        """struct fuse_attr."""
        file, now = self.files[node], int(time.time())
        links = 2 if node == ROOT else file.names
        size = len(file.data)
        return struct.pack("=6Q10I", node, size, (size + 511) // 512, now, now, now, 0, 0, 0, file.mode, links, 0, 0, 0, 4096, 0)

    def entry(self, node: int) -> bytes:
        """struct fuse_entry_out; nothing is remembered."""
        return struct.pack("=4Q2I", node, 0, 0, 0, 0, 0) + self.attributes(node)

    def answer(self, name: str, node: int, body: bytes) -> bytes | int:
        """The reply's body, or an errno."""
        handler = {"OPEN": self.opened, "OPENDIR": self.opened}.get(name) or getattr(self, name.lower(), None)
        return errno.ENOSYS if handler is None else handler(node, body)

    def lookup(self, _node: int, body: bytes) -> bytes | int:
        found = self.names.get(body.rstrip(b"\0"))
        return errno.ENOENT if found is None else self.entry(found)

    def getattr(self, node: int, _body: bytes) -> bytes | int:
        return struct.pack("=Q2I", 0, 0, 0) + self.attributes(node)

    def setattr(self, node: int, body: bytes) -> bytes | int:
        valid, _, _, size = struct.unpack_from("=2I2Q", body)
        mode = struct.unpack_from("=I", body, 68)[0]
        file = self.files[node]
        if valid & FATTR_SIZE:
            del file.data[size:]
            file.data.extend(bytes(size - len(file.data)))
        if valid & FATTR_MODE:
            file.mode = file.mode & 0o170000 | mode & 0o7777
        return self.getattr(node, b"")

    def create(self, _node: int, body: bytes) -> bytes | int:
        _, mode, umask, _ = struct.unpack_from("=4I", body)
        name = body[16:].rstrip(b"\0")
        self.last += 1
        self.files[self.last] = File(0o100000 | mode & 0o777 & ~umask)
        self.names[name] = self.last
        return self.entry(self.last) + struct.pack("=QII", 0, 0, 0)

    def unlink(self, _node: int, body: bytes) -> bytes | int:
        found = self.names.pop(body.rstrip(b"\0"), None)
        if found is None:
            return errno.ENOENT
        self.files[found].names = 0
        return b""

    def opened(self, _node: int, _body: bytes) -> bytes | int:
        return struct.pack("=QII", 0, 0, 0)

    def read(self, node: int, body: bytes) -> bytes | int:
        _, offset, size = struct.unpack_from("=2QI", body)
        return bytes(self.files[node].data[offset : offset + size])

    def write(self, node: int, body: bytes) -> bytes | int:
        _, offset, size = struct.unpack_from("=2QI", body)
        data = self.files[node].data
        data.extend(bytes(max(0, offset - len(data))))
        data[offset : offset + size] = body[40 : 40 + size]
        return struct.pack("=2I", size, 0)

    def readdir(self, _node: int, body: bytes) -> bytes | int:
        _, offset, size = struct.unpack_from("=2QI", body)
        text = b""
        for index, (name, node) in list(enumerate(self.names.items(), 1))[offset:]:
            item = struct.pack("=2Q2I", node, index, len(name), 8) + name
            item += bytes(-len(item) % 8)
            if len(text) + len(item) > size:
                break
            text += item
        return text

    def nothing(self, _node: int, _body: bytes) -> bytes | int:
        return b""

    release = flush = fsync = releasedir = fsyncdir = nothing


def reply(device: int, unique: int, found: bytes | int) -> None:
    body, code = (b"", -found) if isinstance(found, int) else (found, 0)
    try:
        os.write(device, struct.pack("=IiQ", 16 + len(body), code, unique) + body)
    except FileNotFoundError:
        return  # the requester was killed meanwhile


def serve(device: int) -> None:
    fs = Fs()
    faults: dict[str, str | int | None] = {}
    held: list[tuple[str, int, int, bytes]] = []
    poll = select.poll()
    poll.register(device, select.POLLIN)
    poll.register(0, select.POLLIN)
    heard = b""
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if 0 in ready:
            more = os.read(0, 65536)
            if not more:
                return
            heard += more
            *lines, heard = heard.split(b"\n")
            for line in lines:
                faults.update(json.loads(line)["faults"])
                for name, unique, node, body in [each for each in held if faults.get(each[0]) != "hold"]:
                    fault = faults.get(name)
                    reply(device, unique, fault if isinstance(fault, int) else fs.answer(name, node, body))
                held = [each for each in held if faults.get(each[0]) == "hold"]
                plain.say(done=True)
        if device in ready:
            request = os.read(device, 1 << 18)
            _, opcode, unique, node, _, _, _, _ = struct.unpack_from("=2I2Q4I", request)
            if opcode in plain.UNANSWERED:
                continue
            name, body = OPCODES.get(opcode, str(opcode)), request[40:]
            fault = faults.get(name)
            if fault == "hold":
                held.append((name, unique, node, body))
                plain.say(request=name)
            elif isinstance(fault, int):
                reply(device, unique, fault)
            else:
                reply(device, unique, plain.answer_init(body) if name == "INIT" else fs.answer(name, node, body))


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    try:
        fuse = plain.mount(asked["target"], 0o700)
    except OSError as failure:
        plain.say(error=failure.errno, text=str(failure))
        sys.exit(1)
    plain.say(pid=os.getpid())
    serve(fuse)
