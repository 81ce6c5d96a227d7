"""What workers are asked to do. They import this module, so it is small."""

from __future__ import annotations

import ctypes
import threading

from plugins.hog import take


def take_more(size: int) -> None:
    """Take memory and keep it until somebody objects."""
    kept = take(size)
    threading.Event().wait()
    del kept


def hold_the_interpreter() -> None:
    """Hold the lock of the interpreter: no other thread of the worker runs, and it answers nothing."""
    ctypes.PyDLL(None).sleep(600)
