"""Defaults that depend on where the agent runs: node name, socket, audit log."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from mrelease_agent.config.values import ConfigError


def default_node_name() -> str:
    """The host name, gethostname(2)."""
    return socket.gethostname()


def default_listen(environ: Mapping[str, str], euid: int) -> str:
    """Socket of the agent where ``listen`` is not set: systemd's RuntimeDirectory=, /run for root, the user's runtime directory.

    Raises ConfigError where there is none of them.
    """
    service = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    user = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(service):  # noqa: PTH117 - a relative one is invalid, and pathlib is not needed to see it
        return f"unix://{service}/agent.sock"
    if euid == 0:
        return "unix:///run/mrelease/agent.sock"
    if os.path.isabs(user):  # noqa: PTH117
        return f"unix://{user}/mrelease/agent.sock"
    raise ConfigError(
        "listen is not set, and there is no runtime directory to choose a socket in (XDG_RUNTIME_DIR is not set): "
        "set it, for example --listen unix://$HOME/.mrelease/agent.sock"
    )


def default_audit_dir(environ: Mapping[str, str]) -> str:
    """``audit`` in what systemd made for logs or state of the service (LogsDirectory=, StateDirectory=); empty where there is neither."""
    for name in ("LOGS_DIRECTORY", "STATE_DIRECTORY"):
        first = environ.get(name, "").split(":")[0]
        if first.startswith("/"):
            return f"{first}/audit"
    return ""
