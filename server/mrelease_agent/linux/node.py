"""The node as a whole: its boot and its memory."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_SIZES: Final = (b"MemTotal:", b"MemFree:", b"MemAvailable:", b"\nSwapTotal:", b"\nSwapFree:")


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
    raw = os.pread(_meminfo(), 4096, 0)
    return NodeMemory(*[_size(raw, name) for name in _SIZES])


def _size(raw: bytes, name: bytes) -> int:
    at = raw.index(name) + len(name)
    return int(raw[at : raw.index(b" kB", at)]) * 1024
