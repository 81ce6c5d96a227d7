"""How large the victims may be, so that the demo never makes a node run out of memory."""

from __future__ import annotations

from mrelease.demo.cgroups import memory_limits

_MARGIN = 512 << 20
_STEP = 16 << 20


def affordable(size: int, victims: int, available: int | None = None) -> int:
    """``size``, or the largest size in whole 16 MiB that ``victims`` of them can have beside a margin of 512 MiB; 0 where there is none.

    ``available`` is what the node and this process's cgroups can spare, in bytes; None: find out.
    """
    spare = (available_bytes() if available is None else available) - _MARGIN
    return size if size * victims <= spare else max(0, spare // victims // _STEP * _STEP)


def available_bytes() -> int:
    """MemAvailable of proc_meminfo(5), or what is left below the limits of this process's memory cgroups where that is less."""
    return min([meminfo("MemAvailable"), *memory_limits()])


def meminfo(name: str) -> int:
    """One figure of proc_meminfo(5), in bytes. Raises KeyError where the kernel has it not."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            key, value = line.split(":")
            if key == name:
                return int(value.split()[0]) * 1024
    raise KeyError(name)
