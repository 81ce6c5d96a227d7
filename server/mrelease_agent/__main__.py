"""The command ``mrelease-agent``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Load the configuration, find out what the kernel can do, serve. Exit status: 0 drained, 1 cannot serve, 2 wrong configuration."""
    from mrelease_agent import grpc_environment, lean

    grpc_environment.prepare()
    lean.import_asyncio()
    from mrelease_agent.config import ConfigError, load

    try:
        config = load(sys.argv[1:], os.environ)
    except ConfigError as error:
        sys.exit(_complain(str(error), 2))
    from mrelease_agent.premade import need_threads

    try:
        need_threads(config.reaper_threads)
    except OSError as error:
        sys.exit(_complain(str(error), 1))
    # Before gRPC: the probes fork, and a fork of a process with threads may not do much.
    from mrelease_agent.boosting.booster import Booster
    from mrelease_agent.linux.capabilities import probe
    from mrelease_agent.state import state_directory

    try:
        booster = Booster(state_directory(config))
        capabilities = probe(nice=config.nice).plus(booster.features())
    except OSError as error:
        sys.exit(_complain(f"this kernel or sandbox has no pidfds: {error.strerror}", 1))

    import asyncio

    from mrelease_agent.agent import run
    from mrelease_agent.rpc.socket_directory import ListenError
    from mrelease_agent.telemetry.logs import setup

    setup(config.log_format, config.log_level)
    try:
        sys.exit(asyncio.run(run(config, capabilities, booster)))
    except ConfigError as error:
        sys.exit(_complain(str(error), 2))
    except (ListenError, OSError) as error:
        sys.exit(_complain(str(error), 1))


def _complain(message: str, status: int) -> int:
    sys.stderr.write(f"mrelease-agent: {message}\n")
    return status


if __name__ == "__main__":
    main()
