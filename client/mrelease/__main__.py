"""``mrelease`` and ``python -m mrelease``: starts the CLI, or says how to install what it needs."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

# Libraries of the extra `cli`.
_EXTRA = {"click", "rich", "yaml"}


def main() -> NoReturn:
    """Run the CLI and exit with its code: 2 where its libraries are missing."""
    # gRPC reads it when it is imported, and would write a line of its own for a handshake that fails.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        from mrelease.cli.main import run
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.exit(_missing(error))
    sys.exit(run())


def _missing(error: ModuleNotFoundError) -> int:
    print(f"mrelease: the command line needs {error.name}: pip install 'mrelease[cli]'", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
