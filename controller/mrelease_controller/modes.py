"""What may be done in a namespace: what the configuration allows, and less where the namespace itself says so."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from mrelease_controller.config import Settings, covers

#: On a Namespace: "off", "dry-run", "release", "kill".
ANNOTATION: Final = "mrelease.dev/release"


class Mode(IntEnum):
    """Each may do what those before it may."""

    OFF = 0
    DRY_RUN = 1
    RELEASE = 2
    KILL = 3


_WORDS: Final = {"off": Mode.OFF, "dry-run": Mode.DRY_RUN, "release": Mode.RELEASE, "kill": Mode.KILL}


def mode_of(namespace: str, annotation: str | None, settings: Settings) -> Mode:
    """What may be done in a namespace.

    An annotation only takes away: it never gives more than the configuration. One that is not understood may have been meant to keep the
    controller out, and does.
    """
    if not covers(settings.allow, namespace) or covers(settings.deny, namespace):
        return Mode.OFF
    most = Mode.KILL if covers(settings.kill, namespace) else Mode.RELEASE
    if settings.dry_run:
        most = Mode.DRY_RUN
    return most if annotation is None else min(most, _WORDS.get(annotation, Mode.OFF))


def is_understood(annotation: str | None) -> bool:
    """Whether an annotation is one of those above."""
    return annotation is None or annotation in _WORDS
