"""The end of an operation on one victim: measured a last time, and where memory is not back, found out what holds it."""

from __future__ import annotations

import contextlib
from typing import Final

from mrelease_agent.linux import procfs
from mrelease_agent.reaping import explain
from mrelease_agent.reaping.aid import Aid
from mrelease_agent.reaping.outcome import HeldCause, Outcome, Proof
from mrelease_agent.reaping.tools import Tools
from mrelease_agent.reaping.victim import Victim

#: Seconds for finding out what holds the memory, when the deadline has passed.
DIAGNOSIS: Final = 0.25
_OUTCOMES: Final = {
    HeldCause.SHARED_MM: Outcome.SHARED_MM,
    HeldCause.CORE_DUMP: Outcome.CORE_DUMPING,
    HeldCause.UNSUPPORTED: Outcome.UNSUPPORTED,
}


async def conclude(victim: Victim, tools: Tools, aid: Aid, seconds: float) -> None:
    """Measure a last time and say in the report what is not back, and why; ``seconds`` may be spent on looking for who holds it."""
    report = victim.report
    report.after = None
    if not victim.exited:
        with contextlib.suppress(OSError):  # a limit of the agent's process: then this is not known
            report.after = victim.ref.memory()
            report.state, report.wchan = procfs.waiting(victim.ref.proc)
    if report.proof is Proof.NONE:
        victim.proving.judge_unproven()
        with contextlib.suppress(OSError):
            await _diagnose(victim, tools, seconds)
    round_off(victim, aid)


def round_off(victim: Victim, aid: Aid) -> None:
    """Say the rest, which takes no time."""
    report, group = victim.report, victim.proving.cgroup
    if group is not None:
        report.cgroup_path, report.cgroup_before, report.cgroup_after = group.path, group.before, group.usage()
    if report.proof is not Proof.NONE:
        victim.proving.subtract_copy_on_write()
    report.boost = aid.rung(victim.ref.pid)
    explain.unreleased(report)


async def _diagnose(victim: Victim, tools: Tools, seconds: float) -> None:
    """Find out what holds the memory. Raises OSError for limits of the agent's process."""
    from mrelease_agent.reaping import diagnosis  # rarely needed: the idle agent is smaller without it

    report = victim.report
    ref = victim.ref.dup()
    exited, held = victim.exited, victim.proving.reclaimable - report.released
    hint, number, known = report.held_cause, report.errno, tuple(report.sharers)
    try:
        found = await tools.side.run(
            lambda: diagnosis.diagnose(
                ref,
                errno=number,
                exited=exited,
                sharers=known,
                stuck=hint is HeldCause.MMAP_LOCK,
                no_reaper=hint is HeldCause.NO_REAPER,
                can_release=hint is not HeldCause.UNSUPPORTED,
                held_bytes=held,
                seconds=seconds,
            ),
            2 * DIAGNOSIS,
            ref.close,
        )
    except TimeoutError:
        return
    report.held_cause, report.tracer, report.readers = found.cause, found.tracer, list(found.readers)
    report.state, report.wchan = found.state or report.state, found.wchan or report.wchan
    report.sharers = list(found.sharers) or report.sharers
    report.cause, report.remedy = diagnosis.words(found)
    if report.outcome is Outcome.HELD:
        report.outcome = _OUTCOMES.get(found.cause, report.outcome)
