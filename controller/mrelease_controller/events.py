"""Kubernetes Events on the pods: what `kubectl describe pod` shows. One that says the same again is counted, not written again."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from lightkube.types import PatchType

from mrelease_agent.telemetry.logs import event
from mrelease_controller.api import Client, Unavailable, status_of, words
from mrelease_controller.cases import Case
from mrelease_controller.metrics import Metrics
from mrelease_controller.objects import Event
from mrelease_controller.words import Note

_log = logging.getLogger("mrelease.controller")
_REPORTER: Final = "mrelease.dev/controller"
_REMEMBERED: Final = 4096
_NOT_FOUND, _CONFLICT = 404, 409
_NUMBERS: Final = re.compile(r"\d+(\.\d+)?")


@dataclass(slots=True)
class _Written:
    name: str
    count: int = 1


class Events:
    """Writes them. What cannot be written is logged: an Event is never worth more than what it tells of."""

    def __init__(self, client: Client, instance: str, metrics: Metrics) -> None:
        self._client, self._instance, self._metrics = client, instance, metrics
        self._written: OrderedDict[tuple[str, str, str], _Written] = OrderedDict()

    async def write(self, case: Case, note: Note, *, again: bool = False) -> None:
        """Tell of a case. ``again``: it may have been told before, by this controller's last life: then nothing is counted."""
        # The same but for sizes and times is the same.
        key = (case.key, note.reason, _NUMBERS.sub("#", note.text))
        known = self._written.get(key)
        try:
            if known is None:
                known = self._written[key] = _Written(self._name(key, case))
                await self._create(case, note, known, again=again)
            else:
                self._written.move_to_end(key)
                known.count += 1
                await self._count(case, note, known)
        except Unavailable as error:
            if status_of(error) == _NOT_FOUND:
                self._written.pop(key, None)  # they are kept for an hour: the next one is written again
            self._metrics.wrote(note.reason, "failed")
            event(_log, logging.INFO, "event not written", pod=case.title, reason=note.reason, why=words(error))
        while len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)

    async def _create(self, case: Case, note: Note, known: _Written, *, again: bool) -> None:
        made = {
            "metadata": {"name": known.name, "namespace": case.namespace},
            "eventTime": _now(),
            "reportingController": _REPORTER,
            "reportingInstance": self._instance[:128],
            "action": "Release",
            "reason": note.reason,
            "note": note.text,
            "type": "Warning" if note.is_warning else "Normal",
            "regarding": {"apiVersion": "v1", "kind": "Pod", "name": case.name, "namespace": case.namespace, "uid": case.uid},
        }
        try:
            await self._client.create(Event(made), namespace=case.namespace)
        except Unavailable as error:
            if status_of(error) != _CONFLICT:
                raise
            # Written by the controller that was here before.
            if not again:
                known.count += 1
                await self._count(case, note, known)
            return
        self._metrics.wrote(note.reason, "created")

    async def _count(self, case: Case, note: Note, known: _Written) -> None:
        series: dict[str, Any] = {"series": {"count": known.count, "lastObservedTime": _now()}}
        await self._client.patch(Event, known.name, series, namespace=case.namespace, patch_type=PatchType.MERGE)
        self._metrics.wrote(note.reason, "counted")

    @staticmethod
    def _name(key: tuple[str, str, str], case: Case) -> str:
        """The same for the same news, so that after a restart it is not written twice."""
        return f"{case.name[:200].rstrip('-.')}.{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}"


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
