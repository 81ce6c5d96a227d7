"""What arguments may say: processes, durations, sizes, signals. click shows the functions' names in its help."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import click

from mrelease import Process

if TYPE_CHECKING:
    from mrelease.resolvers import Reference

_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_POWER_OF_1024: Final = {
    **{"": 0, "b": 0, "k": 1, "ki": 1, "kib": 1, "m": 2, "mi": 2, "mib": 2},
    **{"g": 3, "gi": 3, "gib": 3, "t": 4, "ti": 4, "tib": 4},
}
_NUMBER = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)")
_SIGNAL = re.compile(r"(?:SIG)?((?!SIG)[A-Z][A-Z0-9]{1,8}(?:\+[0-9]{1,2})?)")
_DAY = 86400
#: More than any node has, and less than an int64 of the contract holds.
_LARGEST = 1 << 62


def process(text: str) -> Process:
    """``PID`` or ``PID:INODE``, as ``mrelease ps`` prints it: with the inode of its pidfd a recycled pid is refused."""
    found = re.fullmatch(r"([0-9]{1,18})(?::([0-9]{1,18}))?", text)
    if found is None or int(found[1]) == 0:
        raise click.BadParameter(f"{text!r} is not a process id: expected PID or PID:INODE as `mrelease ps` prints it")
    return Process(int(found[1]), pidfd_inode=int(found[2]) if found[2] else None)


def named(text: str) -> Process | Reference:
    """``PID``, ``PID:INODE``, or a reference: what an orchestrator calls it, ``slurm://1234``."""
    if "://" not in text:
        return process(text)
    from mrelease.errors import InvalidReference
    from mrelease.resolvers import Reference

    try:
        return Reference.parse(text)
    except InvalidReference as error:
        raise click.BadParameter(str(error)) from None


def duration(text: str) -> timedelta:
    """A number with ``us``, ``ms``, ``s``, ``m`` or ``h``, up to a day; without a unit: seconds."""
    found = _NUMBER.fullmatch(text)
    seconds = float(found[1]) * _SECONDS[found[2]] if found and found[2] in _SECONDS else None
    if seconds is None or seconds > _DAY:
        raise click.BadParameter(f"{text!r} is not a duration up to a day: expected for example 500ms, 10s or 1m")
    return timedelta(seconds=seconds)


def size(text: str) -> int:
    """A number with ``KiB``, ``MiB``, ``GiB`` or ``TiB``, or their first letters, or as Kubernetes (``Gi``); without a unit: bytes."""
    found = _NUMBER.fullmatch(text)
    if found is None or found[2].lower() not in _POWER_OF_1024:
        raise click.BadParameter(f"{text!r} is not a size: expected for example 512MiB or 1GiB")
    size_bytes = int(float(found[1]) * 1024 ** _POWER_OF_1024[found[2].lower()])
    if size_bytes > _LARGEST:
        raise click.BadParameter(f"{text!r} is more than any node has")
    return size_bytes


def signal(text: str) -> str:
    """A signal's name, with or without ``SIG``, in any case, as the contract has it: ``SIGTERM``. The agent says which there are."""
    found = _SIGNAL.fullmatch(text.upper())
    if found is None:
        raise click.BadParameter(f"{text!r} is not the name of a signal: expected for example TERM, SIGINT or SIGRTMIN+3")
    return f"SIG{found[1]}"
