"""Celery's part of `make bench-plugins`: a task that its worker cannot end."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from typing import Final

from plugins.bench.case import ALONE, OURS, Case, Measured, Watch, watching
from plugins.bench.ground import Ground
from plugins.celery.broker import Broker, Sent, Worker, broker, limited
from plugins.stuck import SIZE, next_stuck
from support import lab

_LIMIT: Final = "the hard time limit of a task, a thread of it in state D"
_REVOKED: Final = "`revoke(terminate=True, signal='SIGKILL')` of a task, a thread of it in state D"


_GROUND: Final = Ground("celery", broker)


def cases() -> list[Case]:
    """Both ways in which Celery ends a task, with its own request and with ours."""
    return [
        Case("Celery", situation, contender, partial(_measure, situation, contender), version=version("celery"), ground=_GROUND.entered)
        for situation in (_LIMIT, _REVOKED)
        for contender in (ALONE, OURS)
    ]


def _measure(situation: str, contender: str, limit: float) -> Measured:
    # Queues keep what a worker leaves: each case has its own.
    name = f"{'limit' if situation == _LIMIT else 'revoked'}-{'ours' if contender == OURS else 'alone'}"
    task = "ours.hang" if contender == OURS else "plain.hang"
    environment = {"TEST_WITH_US": "1", "MRELEASE_AGENT": _GROUND.agent.address}
    with lab.hang_fs("READ") as fs, _GROUND.system.worker(name, environment) as worker:
        if situation == _LIMIT:
            with limited(_GROUND.system, worker, task, fs) as (sent, stuck), watching(stuck.pid) as watch:
                # Celery reports the failure right before it signals: that is the request.
                sent.wait()
                watch.begin()
                return _measured(_GROUND.system, worker, sent, watch, limit)
        sent = _GROUND.system.send(task, SIZE, fs.path, queue=name)
        with next_stuck(fs) as stuck, watching(stuck.pid) as watch:
            watch.begin()
            _GROUND.system.app.control.revoke(sent.id, terminate=True, signal="SIGKILL", destination=[worker.name])
            return _measured(_GROUND.system, worker, sent, watch, limit)


def _measured(asked: Broker, worker: Worker, sent: Sent, watch: Watch, limit: float) -> Measured:
    back = watch.back(limit)
    return Measured(watch.held_bytes, back, f"task {sent.state}", _usable(asked, worker, sent, back is not None))


def _usable(asked: Broker, worker: Worker, sent: Sent, is_back: bool) -> str:
    if asked.processes(worker, sent):
        return "no: the task still counts as running"
    if not asked.send("plain.pid", queue=worker.queue).wait():
        return "no: its worker does nothing more"
    return "yes: its worker takes the next task" if is_back else "its worker takes the next task beside it"
