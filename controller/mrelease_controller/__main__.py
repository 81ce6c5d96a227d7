"""The command ``mrelease-controller``."""

from __future__ import annotations

import sys


def main() -> None:
    """Read command line and configuration, serve. Exit status: 0 ended when asked to, 1 cannot serve, 2 wrong configuration."""
    from mrelease_controller.options import parse

    options = parse(sys.argv[1:])
    try:
        from mrelease_agent.config.values import ConfigError
        from mrelease_agent.telemetry.logs import setup
        from mrelease_controller.app import run
        from mrelease_controller.config import load
    except ModuleNotFoundError as error:
        sys.exit(_complain(f"{error.name} is not installed: pip install 'mrelease[controller]'", 2))
    try:
        settings = load(options.config)
        if options.check:
            sys.exit(0)
        setup("json" if options.log_format == "json" else "text", options.log_level)
        from mrelease._tls import load as load_tls

        load_tls(options.tls)
    except ConfigError as error:
        sys.exit(_complain(str(error), 2))
    except ValueError as error:  # InvalidTLS
        sys.exit(_complain(str(error), 2))

    import asyncio
    import logging

    # One line for each request to the API server is more than anybody reads.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    logging.getLogger("httpcore2").setLevel(logging.WARNING)
    try:
        asyncio.run(run(options, settings))
    except ConfigError as error:
        sys.exit(_complain(str(error), 2))
    except OSError as error:
        sys.exit(_complain(str(error), 1))


def _complain(message: str, status: int) -> int:
    sys.stderr.write(f"mrelease-controller: {message}\n")
    return status


if __name__ == "__main__":
    main()
