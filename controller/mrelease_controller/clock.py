"""The API server's clock: the end of a grace period is a time of its, and a machine whose own clock is wrong must not come too early."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime


class Clock:
    """The time as the answers of the API server say it, to the second, and never ahead of it by more than the way of an answer."""

    def __init__(self) -> None:
        self._offset = 0.0

    def told(self, date: str) -> None:
        """An answer has come with this Date header, RFC 9110 6.6.1. One that is none is not heard."""
        try:
            self._offset = parsedate_to_datetime(date).timestamp() - time.time()
        except (TypeError, ValueError):
            return

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time() + self._offset
