"""Why an operation did nothing, and which errors of system calls are the agent's own."""

from __future__ import annotations

import errno
from typing import Final

#: What the agent's own process may run into at any time: once the signal is out, it goes on and tries again.
LIMITS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC})


class NotDyingError(Exception):
    """Release was asked for a process that is alive. Nothing was signalled."""


class LimitError(Exception):
    """The agent's process is at a limit, ``cause``. Nothing was signalled."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause
