"""The thread that writes the audit log: what comes while one write is made durable shares the next one (group commit)."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from mrelease._audit_chain import Head
from mrelease_agent.guard.audit.chain import Chain
from mrelease_agent.guard.audit.denials import Denials
from mrelease_agent.guard.audit.describe import Describer
from mrelease_agent.guard.audit.files import Unusable
from mrelease_agent.guard.audit.records import Intent, Record, Refused, Result, Suppressed

_log = logging.getLogger("mrelease")
#: Seconds: until a result is durable where no intent comes that it can go with; it would only make the next intent wait.
_LAZY: Final = 0.2
#: Seconds between attempts to write again.
_PROBE: Final = 1.0
#: Seconds after which an idle log is looked at, and after which its head is logged again where it has moved.
_IDLE: Final = 60.0
ANCHOR: Final = 600.0
#: Seconds between records of suppressed refusals; and where refusals have had their share of the file.
_SUMMARY: Final = 60.0
_RARE_SUMMARY: Final = 3600.0
#: What the result of an intent says of it again.
_ASKED: Final = ("caller", "method", "kind", "target", "request_id", "reason", "trace_id", "span_id")
#: Records that are written together at most.
_BATCH: Final = 1024

#: Told on the writer's thread: the number of the intent, or why it is not durable.
Told = Callable[["int | Unusable"], None]


class Listener(Protocol):
    """Who is told what happens, on the writer's thread."""

    def available(self, why: Unusable | None) -> None:
        """The log can be written, or why it cannot."""
        ...

    def written(self, record: Record) -> None:
        """A record is written."""
        ...

    def synced(self, seconds: float) -> None:
        """How long it took to make something durable."""
        ...

    def suppressed(self, count: int) -> None:
        """Refusals that are only counted."""
        ...

    def anchor(self, head: Head) -> None:
        """The last durable record: told outside, it proves later that nothing before it is missing."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """Records that belong together; with ``told`` they are made durable, and it is called exactly once."""

    records: Sequence[Record]
    told: Told | None = None


@dataclass(slots=True)
class _Due:
    """When the thread has something to do that nobody asked for, by time.monotonic()."""

    sync: float | None = None
    probe: float | None = None
    idle: float = 0.0
    anchor: float = 0.0
    summary: float = 0.0
    anchored: int = 0
    backlog: list[Record] = field(default_factory=list[Record])


class Writer:
    """Owns ``chain`` from construction to ``close``."""

    def __init__(self, chain: Chain, describer: Describer, denials: Denials, listener: Listener) -> None:
        self._chain = chain
        self._describer = describer
        self._denials = denials
        self._listener = listener
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._why: Unusable | None = Unusable("it is not open yet")
        self._due = _Due()
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._work, name="audit", daemon=True)
        self._thread.start()

    def wait_opened(self) -> None:
        """Wait until it is known whether the log can be written."""
        self._opened.wait()

    def put(self, item: Item) -> None:
        """Write records in their order."""
        self._queue.put(item)

    def close(self, timeout: float) -> bool:
        """Write what waits and end; false where that takes longer than ``timeout`` seconds."""
        self._queue.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            self._serve()
        except Exception:
            # A defect of ours: whoever asks is refused from now on, and nothing is killed.
            _log.exception("the audit log has failed")
            self._listener.available(Unusable("its writer has failed"))
        finally:
            self._opened.set()

    def _serve(self) -> None:
        self._open()
        self._opened.set()
        going = True
        while going:
            items, going = self._take()
            if items:
                self._write(items)
            self._do_what_is_due()
        if self._why is not None:
            self._open()  # results may wait
        self._summarize(at_once=True)
        self._chain.close(stop=self._why is None)
        if self._why is None:
            self._anchor(time.monotonic())

    def _take(self) -> tuple[list[Item], bool]:
        """What waits, after a wait for something to do; and whether the thread goes on."""
        items: list[Item] = []
        try:
            item = self._queue.get(timeout=max(0.0, self._next() - time.monotonic()))
            while item is not None:
                items.append(item)
                if len(items) >= _BATCH:
                    break
                item = self._queue.get_nowait()
            else:
                return items, False
        except queue.Empty:
            pass
        return items, True

    def _next(self) -> float:
        due = self._due
        times = [due.idle]
        if due.probe is not None:
            return due.probe
        if due.sync is not None:
            times.append(due.sync)
        if self._chain.head.seq > due.anchored:
            times.append(due.anchor)
        if self._denials.waiting:
            times.append(due.summary)
        return min(times)

    def _write(self, items: Sequence[Item]) -> None:
        waiting = [item for item in items if item.told is not None]
        records: list[Record] = []
        for item in items:
            records += item.records if item.told is not None else self._admitted(item.records)
        if self._why is not None:
            self._refuse(waiting, self._why)
            self._due.backlog += [record for item in items if item.told is None for record in self._admitted(item.records)]
            return
        if not records or not self._commit(records, durable=bool(waiting)):
            why = self._why
            if why is not None:
                self._refuse(waiting, why)
            return
        for item in waiting:
            assert item.told is not None
            item.told(item.records[0].seq)

    def _admitted(self, records: Sequence[Record]) -> list[Record]:
        """Those that there is room for: refusals have a share of the file only, and none of what waits for the log."""
        room = self._chain.room_for_refusals and self._why is None
        admitted: list[Record] = []
        for record in records:
            if isinstance(record, Refused) and not room:
                self._denials.suppress(record.caller.name)
                self._listener.suppressed(1)
            else:
                admitted.append(record)
        return admitted

    def _commit(self, records: Sequence[Record], *, durable: bool) -> bool:
        start = time.monotonic()
        try:
            self._chain.commit(records, durable=durable)
        except Unusable as why:
            self._down(why)
            return False
        end = time.monotonic()
        if durable:
            self._listener.synced(end - start)
            self._due.sync = None
        elif self._due.sync is None:
            self._due.sync = end + _LAZY
        self._due.idle = end + _IDLE
        for record in records:
            self._listener.written(record)
        return True

    def _refuse(self, items: Sequence[Item], why: Unusable) -> None:
        for item in items:
            assert item.told is not None
            first = item.records[0]
            if isinstance(first, Intent) and 0 < first.seq <= self._chain.head.seq:
                # It was durable before what came after it failed: it is closed when that can be written.
                asked = {name: getattr(first, name) for name in _ASKED}
                self._due.backlog.append(Result(**self._describer.header(), **asked, intent=first.seq, error="AUDIT_UNAVAILABLE"))
            item.told(why)

    def _down(self, why: Unusable) -> None:
        self._why = why
        for record in self._chain.take_lost():
            self._due.backlog += self._admitted([record])
        self._due.sync = None
        self._due.probe = time.monotonic() + _PROBE
        self._listener.available(why)

    def _open(self) -> None:
        try:
            self._chain.open()
            backlog, self._due.backlog = self._due.backlog, []
            if backlog:
                self._chain.commit(backlog, durable=True)
        except Unusable as why:
            self._down(why)
            return
        self._why = None
        now = time.monotonic()
        self._due.probe, self._due.idle = None, now + _IDLE
        self._listener.available(None)
        for record in backlog:
            self._listener.written(record)
        self._anchor(now)

    def _do_what_is_due(self) -> None:
        now, due = time.monotonic(), self._due
        if due.probe is not None:
            if now >= due.probe:
                self._open()
            return
        try:
            if due.sync is not None and now >= due.sync:
                due.sync = None
                self._chain.sync()
                self._listener.synced(time.monotonic() - now)
            if now >= due.idle:
                due.idle = now + _IDLE
                self._chain.check()
        except Unusable as why:
            self._down(why)
            return
        if self._denials.waiting and now >= due.summary:
            self._summarize()
        if self._why is None and now >= due.anchor and self._chain.head.seq > due.anchored:
            self._anchor(now)

    def _summarize(self, *, at_once: bool = False) -> None:
        if self._why is not None or not self._denials.waiting:
            return
        callers = self._denials.take()
        count = sum(callers.values())
        self._due.summary = time.monotonic() + (_SUMMARY if self._chain.room_for_refusals else _RARE_SUMMARY)
        self._commit([Suppressed(**self._describer.header(), count=count, callers=callers)], durable=at_once)

    def _anchor(self, now: float) -> None:
        head = self._chain.head
        self._due.anchor, self._due.anchored = now + ANCHOR, head.seq
        self._listener.anchor(head)
