"""The audit log as the guard sees it, on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mrelease._audit_chain import Head
from mrelease_agent.guard.audit.chain import Chain
from mrelease_agent.guard.audit.denials import Denials
from mrelease_agent.guard.audit.describe import Describer, caller_name
from mrelease_agent.guard.audit.files import Unusable
from mrelease_agent.guard.audit.records import Intent, More, Record
from mrelease_agent.guard.audit.writer import Item, Writer
from mrelease_agent.guard.gate import Ask
from mrelease_agent.guard.refusals import AuditUnavailable
from mrelease_agent.guard.subject import Subject
from mrelease_agent.reaping.report import Done
from mrelease_agent.telemetry.logs import event
from mrelease_agent.telemetry.metrics import Metrics

_log = logging.getLogger("mrelease")
#: Seconds after which a disk that does not answer is a refusal.
_PATIENCE: Final = 5.0
#: Of so many processes the facts are read on the event loop, 50 us each; of more, on a thread.
_FEW: Final = 8
#: Seconds that the end of the agent waits for the disk.
_LAST_WAIT: Final = 5.0


class AuditLog:
    """The log in ``directory``: see Audit. Serves from construction; ``close`` ends it.

    ``changed`` is called on the event loop with why nothing can be written now, in one line, and with None when it can again.
    """

    def __init__(
        self,
        directory: Path,
        max_file: int,
        max_files: int,
        *,
        node: str,
        boot: str,
        metrics: Metrics,
        changed: Callable[[str | None], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._metrics = metrics
        self._changed = changed
        self._unusable: Unusable | None = None
        self._stalled = False
        self._describer = Describer(node, boot)
        self._denials = Denials()
        chain = Chain(directory, self._describer, max_file, max_files, warn=_warn)
        self._writer = Writer(chain, self._describer, self._denials, self)

    @property
    def why(self) -> str | None:
        """Why nothing can be written now, in one line; None where all is well."""
        if self._unusable is not None:
            return f"the audit log cannot be written: {self._unusable.brief}"
        return "the audit log cannot be written: the disk does not answer" if self._stalled else None

    async def opened(self) -> None:
        """Wait until it is known whether the log can be written."""
        await asyncio.to_thread(self._writer.wait_opened)

    async def close(self) -> None:
        """Write what waits, say that it ends; a disk that does not answer is not waited for."""
        if not await asyncio.to_thread(self._writer.close, _LAST_WAIT):
            event(_log, logging.ERROR, "audit log not closed", why="the disk does not answer")

    async def intent(self, ask: Ask, subjects: Sequence[Subject]) -> int:
        """See Audit."""
        self._require()
        if len(subjects) <= _FEW:
            records = self._describer.intent(ask, subjects)
        else:
            records = await asyncio.to_thread(self._describer.intent, ask, subjects)
        return await self._durable(records, lambda seq, error: self.result(seq, ask, None, error))

    async def more(self, intent: int, ask: Ask, subjects: Sequence[Subject]) -> None:  # noqa: ARG002 -- the intent says it
        """See Audit."""
        self._require()
        if len(subjects) <= _FEW:
            records = self._describer.more(intent, subjects)
        else:
            records = await asyncio.to_thread(self._describer.more, intent, subjects)
        await self._durable(records, None)

    def result(self, intent: int, ask: Ask, done: Done | None, error: str) -> None:
        """See Audit."""
        self._writer.put(Item([self._describer.result(intent, ask, done, error)]))

    def refused(self, ask: Ask, refusal: Exception) -> None:
        """See Audit."""
        if self._denials.written(caller_name(ask.caller)):
            self._writer.put(Item([self._describer.refused(ask, refusal)]))
        else:
            self._metrics.audit_suppressed(1)

    def _require(self) -> None:
        why = self.why
        if why is not None:
            raise _refusal(why)

    async def _durable(self, records: Sequence[Intent | More], orphan: Callable[[int, str], None] | None) -> int:
        """Wait until they are. ``orphan``: closes an intent that nobody waits for any more; called with its number and why."""
        future: asyncio.Future[int] = self._loop.create_future()

        def settle(answer: int | Unusable) -> None:
            self._answered()
            if future.done():
                if orphan is not None and isinstance(answer, int):
                    orphan(answer, "CANCELLED" if future.cancelled() else "AUDIT_UNAVAILABLE")
            elif isinstance(answer, Unusable):
                future.set_exception(_refusal(f"the audit log cannot be written: {answer.brief}"))
            else:
                future.set_result(answer)

        def give_up() -> None:
            if not future.done():
                self._stalled = True
                self._tell()
                future.set_exception(_refusal("the audit log cannot be written: the disk does not answer"))

        def told(answer: int | Unusable) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(settle, answer)

        patience = self._loop.call_later(_PATIENCE, give_up)
        try:
            self._writer.put(Item(records, told))
            return await future
        finally:
            patience.cancel()

    def _answered(self) -> None:
        if self._stalled:
            self._stalled = False
            self._tell()

    def _tell(self) -> None:
        self._metrics.audit_available(self.why is None)
        self._changed(self.why)

    # What follows is called by the writer, on its thread.

    def available(self, why: Unusable | None) -> None:
        """See Listener."""
        was, self._unusable = self._unusable, why
        if why is not None and (was is None or was.why != why.why):
            self._metrics.audit_failure()
            event(
                _log,
                logging.ERROR,
                "audit log unavailable",
                why=why.why,
                remedy="nothing is killed until it can be written; then the agent goes on by itself",
            )
        elif why is None and was is not None:
            event(_log, logging.WARNING, "audit log available again")
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._tell)

    def written(self, record: Record) -> None:
        """See Listener."""
        self._metrics.audit_record(str(record.__struct_config__.tag))

    def synced(self, seconds: float) -> None:
        """See Listener."""
        self._metrics.audit_sync(seconds)

    def suppressed(self, count: int) -> None:
        """See Listener."""
        self._metrics.audit_suppressed(count)

    def anchor(self, head: Head) -> None:
        """See Listener. Where the log of the agent is collected elsewhere, this line proves what was written until then."""
        event(_log, logging.INFO, "audit head", seq=head.seq, hash=head.hash)


def _refusal(why: str) -> AuditUnavailable:
    return AuditUnavailable(
        f"{why}; nothing was signalled", "see the agent's log; it serves again by itself as soon as the audit log can be written"
    )


def _warn(what: str) -> None:
    event(_log, logging.ERROR, "audit log damaged", what=what)
