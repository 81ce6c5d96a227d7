"""An audit log as tests make it without an agent, and as they read it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mrelease._audit_chain import file_order
from mrelease._audit_verify import Report, verify
from mrelease_agent.guard.audit.chain import Chain
from mrelease_agent.guard.audit.describe import Describer
from mrelease_agent.guard.audit.files import Sync
from mrelease_agent.guard.audit.records import Caller, Intent, Process, Refused, Result

DESCRIBER = Describer("node", "boot")
CALLER = Caller(name="spiffe://cluster/ns/batch/sa/scheduler", transport="mtls")


def chain(path: Path, max_file: int = 1 << 20, max_files: int = 16, sync: Sync | None = None, warn: Callable[[str], None] = print) -> Chain:
    """The log in ``path``, not opened yet."""
    if sync is None:
        return Chain(path, DESCRIBER, max_file, max_files, warn=warn)
    return Chain(path, DESCRIBER, max_file, max_files, warn=warn, sync=sync)


def opened(path: Path, *arguments: Any, **more: Any) -> Chain:
    """The log in ``path``, opened."""
    made = chain(path, *arguments, **more)
    made.open()
    return made


def die(log: Chain) -> None:
    """End as SIGKILL does: what is written stays, and nothing more is."""
    log._let_go()  # pyright: ignore[reportPrivateUsage]


def intent(pid: int = 4711, command: str = "trainer", reason: str = "") -> Intent:
    process = Process(pid=pid, inode=pid, start=1, command=command)
    return Intent(
        **DESCRIBER.header(), caller=CALLER, method="KillAndRelease", kind="process", target=f"process {pid}", reason=reason, kill=True,
        total=1, processes=[process],
    )  # fmt: skip


def result(of: int, verdict: str = "RELEASED") -> Result:
    return Result(**DESCRIBER.header(), caller=CALLER, method="KillAndRelease", intent=of, verdict=verdict, outcomes={verdict: 1})


def refused(caller: str = "nobody") -> Refused:
    return Refused(
        **DESCRIBER.header(), caller=Caller(name=caller, transport="unix"), method="KillAndRelease", refusal="CALLER_NOT_PERMITTED"
    )


def write(log: Chain, count: int, *, finished: bool = True) -> list[int]:
    """So many intents, each durable, each with its result; their numbers."""
    numbers: list[int] = []
    for number in range(count):
        asked = intent(number + 1)
        log.commit([asked], durable=True)
        numbers.append(asked.seq)
        if finished:
            log.commit([result(asked.seq)], durable=False)
    return numbers


def files(path: Path) -> list[Path]:
    """The files of a log, the oldest first."""
    found = [(order, entry) for entry in path.iterdir() if (order := file_order(entry.name)) is not None]
    return [entry for _, entry in sorted(found)]


def records(path: Path) -> list[dict[str, Any]]:
    """All records of a log that can be read."""
    found: list[dict[str, Any]] = []
    for line in (line for file in files(path) for line in file.read_bytes().split(b"\n")[:-1]):
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def events(path: Path, event: str) -> list[dict[str, Any]]:
    """All records of one kind."""
    return [record for record in records(path) if record["event"] == event]


def kinds(report: Report) -> list[str]:
    return [problem.kind for problem in report.problems]


def sound(path: Path) -> Report:
    """Verify a log that must be whole."""
    report = verify([path])
    assert report.problems == []
    return report
