"""The node as a whole: its boot and its memory."""

from __future__ import annotations

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


def memory() -> NodeMemory:
    """Read /proc/meminfo."""
    with open("/proc/meminfo", "rb", buffering=0) as file:
        sizes = {key: int(size) * 1024 for key, size in _SIZES.findall(file.read())}
    return NodeMemory(
        total=sizes[b"MemTotal"],
        free=sizes[b"MemFree"],
        available=sizes[b"MemAvailable"],
        swap_total=sizes[b"SwapTotal"],
        swap_free=sizes[b"SwapFree"],
    )
