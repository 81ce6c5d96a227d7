"""``mrelease demo``: one starved process killed by kill(2) and one through an agent, side by side."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

from mrelease.errors import MreleaseError


def run(*, size_bytes: int, limit_seconds: float, as_json: bool, png: str | None) -> int:
    """Fight the duel, show it and clean up.

    ``size_bytes`` is what each victim holds (less where that much is not free); ``limit_seconds`` is how long the victim of kill(2) is
    watched. ``as_json`` prints data instead (``mrelease.demo.report.data``); ``png`` names a file for a picture (.png, .svg, .pdf).
    Returns 0 when the duel was fought, 1 when it could not be, 2 for an argument that makes no sense, 128 + n when signal n ended it.
    """
    from mrelease.demo.interrupts import Interrupted, interruptible

    if (wrong := _wrong(size_bytes, limit_seconds, png)) is not None:
        return _say(wrong, 2)
    if (missing := _missing(png)) is not None:
        return _say(missing, 1)
    try:
        from mrelease.demo.processes import SceneError

        with interruptible():
            try:
                _play(size_bytes, limit_seconds, as_json, png)
            except (SceneError, MreleaseError, OSError) as error:
                return _say(str(error), 1)
    except Interrupted as interrupted:
        return _say(f"{interrupted}: stopped and cleaned up", 128 + interrupted.number)
    return 0


def _play(size_bytes: int, limit_seconds: float, as_json: bool, png: str | None) -> None:
    from mrelease.demo import picture, report, views
    from mrelease.demo.duel import fight

    with views.choose(silent=as_json) as view:
        duel = fight(size_bytes, limit_seconds, view)
    print(json.dumps(report.data(duel)) if as_json else report.text(duel), flush=True)
    if png is not None:
        picture.draw(duel, png)


def _missing(png: str | None) -> str | None:
    from mrelease.demo import picture

    if platform.system() != "Linux" or not hasattr(os, "pidfd_open"):
        return "the demo needs Linux 5.3 or newer"
    return picture.INSTALL if png is not None and not picture.is_available() else None


def _wrong(size_bytes: int, limit_seconds: float, png: str | None) -> str | None:
    if size_bytes < 1 << 20:
        return "the size must be at least 1 MiB"
    if not 0 < limit_seconds <= 60:
        return "the limit must be more than 0 s and at most 60 s"
    if png is not None and Path(png).suffix not in (".png", ".svg", ".pdf"):
        return f"{png}: the picture's name must end in .png, .svg or .pdf"
    if png is not None and not Path(png).absolute().parent.is_dir():
        return f"{png}: there is no such directory"
    return None


def _say(text: str, code: int) -> int:
    print(f"mrelease demo: {text}", file=sys.stderr)
    return code
