"""A call to the agent that waits for its cue, so that it starts at the same moment as something else."""

from __future__ import annotations

import threading
import time

from mrelease import Client, MreleaseError, Process, ReleaseResult, Wait


class ReadyCall(threading.Thread):
    """One ``kill_and_release`` on a thread of its own: ``start``, ``fire``, ``join``; then its fields say what came of it."""

    def __init__(self, client: Client, pid: int, timeout: float) -> None:
        super().__init__(name="caller", daemon=True)
        self._client, self._pid, self._timeout = client, pid, timeout
        self._cue = threading.Event()
        #: ``time.monotonic`` just before the call.
        self.called_at: float | None = None
        #: Seconds until the answer.
        self.took: float | None = None
        self.result: ReleaseResult | None = None
        #: Why there is no result.
        self.failure = ""

    def fire(self) -> None:
        """Let the call begin."""
        self._cue.set()

    def run(self) -> None:
        """Wait for the cue, call, and note what came of it."""
        self._cue.wait()
        self.called_at = time.monotonic()
        try:
            self.result = self._client.kill_and_release(
                Process(self._pid), wait=Wait.RELEASED, timeout=self._timeout, reason="mrelease demo"
            )
        except MreleaseError as error:
            self.failure = str(error)
        self.took = time.monotonic() - self.called_at
