"""What is to be looked at, and when next. Keeps only what concerns the controller, and asks nobody. Times are seconds since the epoch."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from mrelease_controller.cases import RECENT, Case, Kind, cases, deleted, due
from mrelease_controller.config import Settings
from mrelease_controller.modes import Mode, mode_of
from mrelease_controller.objects import Pod


@dataclass(slots=True)
class Entry:
    """A case, and what was done for it. ``due``: when it is looked at next."""

    case: Case
    due: float
    #: How often something was asked for: a part of the request's id, so that the same request is never made twice.
    attempts: int = 0
    #: How often in a row nothing has come of a look.
    failures: int = 0
    in_hand: bool = False


class Agenda:
    """Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._entries: dict[str, Entry] = {}
        self._of_pod: dict[str, set[str]] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._order = count()

    def __len__(self) -> int:
        return len(self._entries)

    def cases(self) -> Iterator[Case]:
        """Everything that it keeps."""
        return (entry.case for entry in self._entries.values())

    def see(self, pod: Pod, now: float) -> None:
        """A pod as it is now."""
        current = {case.key: case for case in cases(pod, self._settings, now)} if self._concerns(pod) else {}
        for key in self._of_pod.get(pod.metadata.uid, set()) - current.keys():
            self._forget(key)
        for case in current.values():
            self._note(case)

    def gone(self, pod: Pod, now: float) -> None:
        """The object of a pod is not there any more. What it was, is known; whether its processes ended, is not."""
        for key in set(self._of_pod.get(pod.metadata.uid, ())):
            self._forget(key)
        case = deleted(pod, now)
        if case is not None and self._concerns(pod):
            self._note(case)

    def keep_only(self, uids: Iterable[str]) -> None:
        """After a new list: pods that are not in it went meanwhile, and nobody saw how."""
        present = set(uids)
        for uid in self._of_pod.keys() - present:
            for key in list(self._of_pod.get(uid, ())):
                if self._entries[key].case.kind is not Kind.DELETED:
                    self._forget(key)

    def wake(self, namespace: str) -> None:
        """What may be done in a namespace has changed: look at what is there as soon as it is due."""
        for entry in self._entries.values():
            if entry.case.namespace == namespace:
                entry.due, entry.failures = due(entry.case, self._settings), 0
                if not entry.in_hand:
                    self._push(entry)

    def next_due(self) -> float | None:
        """When to ask again; None: there is nothing to do."""
        while self._heap:
            when, _, key = self._heap[0]
            entry = self._entries.get(key)
            if entry is not None and not entry.in_hand and entry.due == when:
                return when
            heapq.heappop(self._heap)
        return None

    def take(self, now: float) -> Entry | None:
        """The next that is due, to be looked at now; None where nothing is. To be given back by ``put``."""
        while (when := self.next_due()) is not None and when <= now:
            _, _, key = heapq.heappop(self._heap)
            entry = self._entries[key]
            # Of pods that terminate nothing is too old: they are what this is for.
            if entry.case.kind is not Kind.TERMINATING and now - entry.case.since > RECENT:
                self._forget(key)
                continue
            entry.in_hand = True
            return entry
        return None

    def put(self, entry: Entry, *, pause: float, now: float) -> None:
        """Look at it again after ``pause`` seconds, where it still concerns anybody then."""
        entry.in_hand = False
        if self._entries.get(entry.case.key) is entry:
            # What was seen meanwhile may have moved the end of the grace period.
            entry.due = max(now + pause, due(entry.case, self._settings))
            self._push(entry)

    def _concerns(self, pod: Pod) -> bool:
        # What an annotation of the namespace says may change at any time; this does not.
        return mode_of(pod.metadata.namespace, None, self._settings) is not Mode.OFF

    def _note(self, case: Case) -> None:
        entry = self._entries.get(case.key)
        if entry is None:
            entry = self._entries[case.key] = Entry(case, due(case, self._settings))
            self._of_pod.setdefault(case.uid, set()).add(case.key)
            self._push(entry)
            return
        if entry.case.since != case.since or entry.case.kind is not case.kind:
            entry.failures = 0
            entry.due = due(case, self._settings)
            if not entry.in_hand:
                self._push(entry)
        entry.case = case

    def _forget(self, key: str) -> None:
        entry = self._entries.pop(key)
        of_pod = self._of_pod[entry.case.uid]
        of_pod.discard(key)
        if not of_pod:
            del self._of_pod[entry.case.uid]

    def _push(self, entry: Entry) -> None:
        heapq.heappush(self._heap, (entry.due, next(self._order), entry.case.key))
