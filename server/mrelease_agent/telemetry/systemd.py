"""The service manager's notification socket, sd_notify(3)."""

from __future__ import annotations

import asyncio
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


def watchdog_interval(environ: Mapping[str, str] = os.environ) -> float:
    """Seconds after which systemd holds this process for dead, WatchdogSec= and sd_watchdog_enabled(3); 0 where it does not watch."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return max(0, int(environ.get("WATCHDOG_USEC", "0"))) / 1e6
    except ValueError:
        return 0.0


async def keep_alive(environ: Mapping[str, str] = os.environ) -> None:
    """Tell the watchdog that the event loop answers, twice in each interval, until cancelled. A loop that hangs does not get here."""
    interval = watchdog_interval(environ)
    while interval:
        notify("WATCHDOG=1", environ)
        await asyncio.sleep(interval / 2)
