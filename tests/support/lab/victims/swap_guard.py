"""Makes a file, swaps to it before all other swap, and stops when stdin ends, also when that is because the test process was killed."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile

SWAP_FLAG_PREFER, PRIORITY = 0x8000, 1000  # swapon(2)

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def main(folder: str, size: int) -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    with tempfile.NamedTemporaryFile(prefix="mrelease-lab-swap-", dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)
        made = subprocess.run(["mkswap", file.name], capture_output=True, text=True, check=False)
        if made.returncode:
            raise OSError(0, f"mkswap: {made.stderr.strip()}")
        check(libc.swapon(file.name.encode(), SWAP_FLAG_PREFER | PRIORITY), f"swapon {file.name}")
        try:
            os.write(1, json.dumps({"path": file.name}).encode() + b"\n")
            while os.read(0, 1):
                pass
        finally:
            check(libc.swapoff(file.name.encode()), f"swapoff {file.name}")


if __name__ == "__main__":
    try:
        main(**json.loads(sys.argv[1]))
    except OSError as failure:
        os.write(1, json.dumps({"error": failure.errno, "text": str(failure)}).encode() + b"\n")
