"""Readers of what a process and a node hold, which pin no address space."""

from __future__ import annotations

import mmap
from pathlib import Path

PAGE = mmap.PAGESIZE


def _lines(path: Path) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (line.partition(":") for line in path.read_text(errors="replace").splitlines())}


def threads(pid: int) -> list[int]:
    """Returns the thread ids of a process, its leader first; none when it is gone."""
    try:
        return sorted((int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()), key=lambda tid: (tid != pid, tid))
    except (FileNotFoundError, ProcessLookupError):
        return []


def status_fields(pid: int, tid: int | None = None) -> dict[str, str]:
    """Returns proc_pid_status(5) of a process, or of one of its threads; empty when it is gone."""
    try:
        return _lines(Path(f"/proc/{pid}/task/{tid}/status" if tid else f"/proc/{pid}/status"))
    except (FileNotFoundError, ProcessLookupError):
        return {}


def state(pid: int, tid: int | None = None) -> str:
    """Returns the state letter of a process or thread; empty when it is gone."""
    return status_fields(pid, tid).get("State", "")[:1]


def field_bytes(pid: int, name: str) -> int:
    """Returns one memory field of status in bytes: the largest among the threads, because those past exit_mm have none."""
    values = (status_fields(pid, tid).get(name, "0 kB") for tid in threads(pid))
    return max((int(value.split()[0]) * 1024 for value in values), default=0)


def rss_anon(pid: int) -> int:
    """Returns the resident anonymous memory (RssAnon) in bytes, 0 when no thread has an address space."""
    return field_bytes(pid, "RssAnon")


def statm_resident(pid: int, tid: int | None = None) -> int:
    """Returns the resident pages of proc_pid_statm(5) in bytes; 0 for what is gone or past exit_mm."""
    path = Path(f"/proc/{pid}/task/{tid}/statm" if tid else f"/proc/{pid}/statm")
    try:
        return int(path.read_text().split()[1]) * PAGE
    except (FileNotFoundError, ProcessLookupError):
        return 0


def start_time(pid: int) -> int:
    """Returns the start time in clock ticks, field 22 of proc_pid_stat(5)."""
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    return int(text[text.rindex(")") + 2 :].split()[19])


def flags(pid: int) -> int:
    """Returns the kernel's task flags (PF_*), field 9 of proc_pid_stat(5)."""
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    return int(text[text.rindex(")") + 2 :].split()[6])


def meminfo(name: str) -> int:
    """Returns one field of proc_meminfo(5) in bytes."""
    return int(_lines(Path("/proc/meminfo"))[name].split()[0]) * 1024
