"""Where the agent keeps what must outlive it: the journal of CPU weights that it has lifted."""

from __future__ import annotations

from pathlib import Path

from mrelease_agent.address import UnixAddress, parse
from mrelease_agent.config import Config
from mrelease_agent.rpc.socket_directory import ListenError, group_id, make_group_directory, make_private_directory


def state_directory(config: Config) -> Path | None:
    """Make the directory ``state_dir``, by default that of the socket; None where there is none to be had."""
    directory = Path(config.state_dir) if config.state_dir else None
    if directory is None:
        address = parse(config.listen)
        if not isinstance(address, UnixAddress):
            return None
        directory = Path(address.path).parent
    try:
        if config.socket_group and not config.state_dir:
            # Others may enter the socket's directory, and what is kept is the agent's alone.
            make_group_directory(directory, group_id(config.socket_group))
            directory /= "state"
        make_private_directory(directory)
    except (ListenError, OSError):  # who listens there says what is wrong with it
        return None
    return directory
