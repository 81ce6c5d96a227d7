"""``kubectl-mrelease``, which kubectl finds in PATH as ``kubectl mrelease``: starts the CLI, or says how to install what it needs."""

from __future__ import annotations

import sys
from typing import NoReturn

# Libraries of the extras `cli` and `kubernetes`.
_EXTRAS = {"click", "rich", "yaml"}


def main() -> NoReturn:
    """Run the CLI and exit with its code: 2 where its libraries are missing."""
    try:
        from mrelease.cli.kube.main import run
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRAS:
            raise
        print(f"kubectl mrelease: it needs {error.name}: pip install 'mrelease[cli,kubernetes]'", file=sys.stderr)
        sys.exit(2)
    sys.exit(run())


if __name__ == "__main__":
    main()
