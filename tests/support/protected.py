"""Judges a process in namespaces of its own, with a kubelet's socket in the network namespace of pid 1, and without."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from mrelease_agent.guard.protected import Protection
from mrelease_agent.linux.process import ProcessRef


def main() -> None:
    """``PID PATH``: print the rule for a process while somebody listens on ``PATH``, and then."""
    pid, path = int(sys.argv[1]), Path(sys.argv[2])
    path.parent.mkdir(parents=True, exist_ok=True)
    with ProcessRef.open(pid) as ref:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            print(Protection().rule(ref))
        print(Protection().rule(ref))


if __name__ == "__main__":
    main()
