"""Reads a file that is larger than what its memory cgroup may hold, again and again: each page is reclaimed before it is read again."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

CHUNK = 1 << 20


def main(file: str, size: int, cgroups: list[str]) -> None:
    for procs in cgroups:
        Path(procs).write_text(str(os.getpid()))
    fd = os.open(file, os.O_RDONLY)
    buffer = bytearray(CHUNK)
    os.write(1, json.dumps({"ready": True}).encode() + b"\n")
    while True:
        for offset in range(0, size, CHUNK):
            os.preadv(fd, [buffer], offset)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
