"""The node as a whole: its boot and its memory."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_SIZES: Final = re.compile(rb"^(MemTotal|MemFree|MemAvailable|SwapTotal|SwapFree): +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class NodeMemory:
    """proc_meminfo(5) in bytes. Context, not proof: freed pages can stay on per-CPU lists."""

    total: int
    free: int
    available: int
    swap_total: int
    swap_free: int


@lru_cache(maxsize=1)
def kernel_version() -> tuple[int, int]:
    """Major and minor of the running kernel, uname(2)."""
    major, minor = [*platform.release().split("."), "0"][:2]
    return int(major), int("".join(c for c in minor if c.isdecimal()) or 0)


@lru_cache(maxsize=1)
def boot_id() -> str:
    """The id that every boot has anew, random_boot_id(4)."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


@lru_cache(maxsize=1)
def _meminfo() -> int:
    # Open as long as the agent runs: every request asks twice.
    return os.open("/proc/meminfo", os.O_RDONLY | os.O_CLOEXEC)


def memory() -> NodeMemory:
    """Read /proc/meminfo. Raises OSError for limits of the agent's process."""
    sizes = {key: int(size) * 1024 for key, size in _SIZES.findall(os.pread(_meminfo(), 4096, 0))}
    return NodeMemory(
        total=sizes[b"MemTotal"],
        free=sizes[b"MemFree"],
        available=sizes[b"MemAvailable"],
        swap_total=sizes[b"SwapTotal"],
        swap_free=sizes[b"SwapFree"],
    )
