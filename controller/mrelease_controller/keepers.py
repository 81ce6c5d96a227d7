"""What is kept of pods and namespaces as they are watched: next to nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mrelease_agent.config.values import quote
from mrelease_agent.telemetry.logs import event
from mrelease_controller.agenda import Agenda
from mrelease_controller.clock import Clock
from mrelease_controller.config import Settings
from mrelease_controller.modes import ANNOTATION, Mode, is_understood, mode_of
from mrelease_controller.objects import Namespace, Pod

_log = logging.getLogger("mrelease.controller")


class Pods:
    """Hands pods on to the agenda. ``changed`` is called when something may be due."""

    def __init__(self, agenda: Agenda, clock: Clock, changed: Callable[[], None]) -> None:
        self._agenda, self._clock, self._changed = agenda, clock, changed
        self._listed: set[str] = set()

    def begin(self) -> None:
        """See watching.Keeper."""
        self._listed = set()

    def end(self) -> None:
        """See watching.Keeper."""
        self._agenda.keep_only(self._listed)
        self._listed = set()

    def see(self, item: Pod) -> None:
        """See watching.Keeper."""
        self._listed.add(item.metadata.uid)
        self._agenda.see(item, self._clock.now())
        self._changed()

    def gone(self, item: Pod) -> None:
        """See watching.Keeper."""
        self._agenda.gone(item, self._clock.now())
        self._changed()


class Namespaces:
    """The annotations of namespaces. ``changed`` is called with the name of one of which another thing may be done now."""

    def __init__(self, settings: Settings, changed: Callable[[str], None]) -> None:
        self._settings, self._changed = settings, changed
        self._annotations: dict[str, str] = {}
        self._listed: set[str] = set()

    def mode(self, namespace: str) -> Mode:
        """What may be done there now."""
        return mode_of(namespace, self._annotations.get(namespace), self._settings)

    def begin(self) -> None:
        """See watching.Keeper."""
        self._listed = set()

    def end(self) -> None:
        """See watching.Keeper."""
        for name in self._annotations.keys() - self._listed:
            self._set(name, None)

    def see(self, item: Namespace) -> None:
        """See watching.Keeper."""
        annotations = item.metadata.annotations
        self._listed.add(item.metadata.name)
        self._set(item.metadata.name, None if annotations is None else annotations.release)

    def gone(self, item: Namespace) -> None:
        """See watching.Keeper."""
        self._set(item.metadata.name, None)

    def _set(self, name: str, annotation: str | None) -> None:
        if self._annotations.get(name) == annotation:
            return
        if not is_understood(annotation):
            event(_log, logging.WARNING, "annotation not understood, nothing is done there", namespace=name, value=quote(annotation or ""))
        elif annotation == "kill" and mode_of(name, annotation, self._settings) is not Mode.KILL:
            event(
                _log,
                logging.WARNING,
                "the configuration does not allow what the annotation asks for",
                namespace=name,
                annotation=ANNOTATION,
            )
        if annotation is None:
            del self._annotations[name]
        else:
            self._annotations[name] = annotation
        self._changed(name)
