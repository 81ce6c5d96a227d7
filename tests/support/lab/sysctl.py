"""A sysctl for a while: put back whatever happens, by a process of its own that outlives a killed test."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path

from .child import started
from .kernel import Unavailable


@contextlib.contextmanager
def sysctl(path: Path, value: str, *, leftover: str = "", default: str = "") -> Generator[str]:
    """Sets a file of /proc/sys, yields what it reads then, and puts the old value back; runs beside each other wait for one another.

    Args: `leftover` is how a value begins that only this lab sets; where it is found, `default` counts as the old value.
    """
    with started("sysctl_guard.py", kill=False, path=str(path), value=value, leftover=leftover, default=default) as guard:
        try:
            now = guard.hear(f"{path} = {value}")["new"]
        except Unavailable as refused:
            raise Unavailable(f"{path} cannot be set: {refused}") from None
        yield str(now)
