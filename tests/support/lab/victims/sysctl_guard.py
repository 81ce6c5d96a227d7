"""Sets one sysctl and puts the old value back when stdin ends, also when that is because the test process was killed.

The file itself is locked meanwhile (flock), so that runs beside each other wait for one another.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from pathlib import Path


def main(path: str, value: str, leftover: str, default: str) -> None:
    """`leftover` begins a value that a killed guard left behind; `default` is then taken for the old one."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    file = Path(path)
    with file.open("r+b", buffering=0) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        old = file.read_text().rstrip("\n")
        if leftover and old.startswith(leftover):
            old = default
        try:
            file.write_text(value + "\n")
            os.write(1, json.dumps({"old": old, "new": file.read_text().strip()}).encode() + b"\n")
            while os.read(0, 1):
                pass
        finally:
            file.write_text(old + "\n")


if __name__ == "__main__":
    try:
        main(**json.loads(sys.argv[1]))
    except OSError as failure:
        os.write(1, json.dumps({"error": failure.errno, "text": str(failure)}).encode() + b"\n")
