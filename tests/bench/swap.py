"""Swap of the bench's own, on machines that have none to spare."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from unittest import SkipTest

from bench.scratch import scratch
from mrelease.demo.budget import meminfo
from mrelease.demo.interrupts import uninterrupted

_MARGIN = 64 << 20


@contextmanager
def swap_file(size: int) -> Generator[None, None, None]:
    """Have ``size`` bytes of swap: the node's where it has so much free, else a file that is swapped to until the context ends.

    Raises SkipTest where the machine does not allow it.
    """
    if meminfo("SwapFree") >= size:
        yield
        return
    if os.geteuid() != 0:
        raise SkipTest("no swap, and swapon(2) needs root")
    if shutil.which("mkswap") is None or shutil.which("swapon") is None:
        raise SkipTest("no swap, and mkswap is not installed")
    with scratch() as folder:
        file = folder / "swap"
        if shutil.disk_usage(folder).free < 2 * (size + _MARGIN):
            raise SkipTest(f"no swap, and no room for a swap file in {folder}")
        _fill(file, size + _MARGIN)
        try:
            with uninterrupted():
                for command in (["mkswap", str(file)], ["swapon", str(file)]):
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
                    if done.returncode:
                        raise SkipTest(f"no swap, and none can be made: {done.stderr.strip()}")
            yield
        finally:
            with uninterrupted():
                subprocess.run(["swapoff", str(file)], capture_output=True, check=False)


def _fill(file: Path, size: int) -> None:
    """Without holes, swapon(8)."""
    block = bytes(1 << 20)
    with file.open("wb") as out:
        file.chmod(0o600)
        for _ in range(size >> 20):
            out.write(block)
