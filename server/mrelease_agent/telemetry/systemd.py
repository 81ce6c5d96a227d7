"""The service manager's notification socket, sd_notify(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


def notify(state: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send ``state`` (``READY=1``, ``STOPPING=1``, ``STATUS=...``) to ``$NOTIFY_SOCKET``, a path or, after ``@``, an abstract name.

    Returns whether it was sent. False without NOTIFY_SOCKET and on any error: an agent that could not say that it is ready still is.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)  # a manager that does not read must not stop the agent
            sender.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
    except (OSError, ValueError):
        return False
    return True
