"""Celery: workers that give back the memory of the tasks which they killed in vain.

>>> app = Celery("tasks", task_cls="mrelease.integrations.celery:Task")

or for one task ``@app.task(base=mrelease.integrations.celery.Task)``, or in a base class of one's own
``Request = "mrelease.integrations.celery:Request"``.

A task's hard time limit, and ``revoke(terminate=True)``, end its process by signals. A process that has a thread waiting in the kernel
(state D) is not ended by them: Celery reports the failure and forgets the process, with all of its memory. These requests look, beside
Celery, whether the process has ended after it was killed; where it has not, they ask the agent of the node to release it. The agent is
found as ``mrelease.Client()`` finds it: by ``$MRELEASE_AGENT`` and its certificates in the worker's environment, else the local socket.

Importing this module also gives the worker the remote control command ``mrelease_where``, by which ``celery://`` finds tasks.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from typing import Any, ClassVar, Final

from mrelease.integrations._helper import Helper, Order
from mrelease.integrations._identity import identify
from mrelease.integrations._libraries import need

__all__ = ["COMMAND", "Request", "Task"]

#: The remote control command: who processes the tasks of these ids, or of all where there are none.
COMMAND: Final = "mrelease_where"

_LOG = logging.getLogger("celery.worker.mrelease")
_WHO = "mrelease.integrations.celery"
# Processes of tasks that Celery does not know any more, and that were not seen to end: by task id, the oldest first.
_ENDED: OrderedDict[str, dict[str, Any]] = OrderedDict()
_REMEMBERED: Final = 256
_READY: list[Helper] = []
_LOCK = threading.Lock()

_Request: Any = need("celery.worker.request", _WHO).Request
_Task: Any = need("celery", _WHO).Task
_state: Any = need("celery.worker.state", _WHO)
_inspect_command: Any = need("celery.worker.control", _WHO).inspect_command


class Request(_Request):  # type: ignore[misc]  # the library has no types
    """A request of a worker with the prefork pool. What Celery does is done, as it is without this, whatever goes wrong here."""

    #: Seconds that one release may take.
    mrelease_timeout: ClassVar[float] = 5.0
    #: Seconds to wait until the process has been killed, and for an agent that does not answer.
    mrelease_patience: ClassVar[float] = 10.0

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Celery calls it when a process has begun with the task."""
        super().on_accepted(pid, time_accepted)  # pyright: ignore[reportUnknownMemberType]
        if pid != os.getpid():
            _get_ready()

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Celery calls it before it kills for the hard time limit."""
        if not soft:
            self._look_after("it exceeded its hard time limit")
        super().on_timeout(soft, timeout)  # pyright: ignore[reportUnknownMemberType]

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Celery calls it for ``revoke(terminate=True)``."""
        if self.time_start:
            self._look_after("it was revoked")
        super().terminate(pool, signal)  # pyright: ignore[reportUnknownMemberType]

    def cancel(self, pool: Any, signal: Any = None, **options: Any) -> None:
        """Celery calls it where the connection is lost and ``worker_cancel_long_running_tasks_on_connection_loss`` is set."""
        if self.time_start:
            self._look_after("the connection to the broker was lost")
        super().cancel(pool, signal, **options)  # pyright: ignore[reportUnknownMemberType]

    def _look_after(self, why: str) -> None:
        """Begin to follow the process of this task. Takes some milliseconds: the worker's event loop waits for it."""
        pid = self.worker_pid
        if not pid or pid == os.getpid():
            return  # a pool without processes
        who = f"process {pid} of task {self.id}"
        try:
            facts = identify(pid)
            _remember(str(self.id), facts)
            helper = _take_ready()
            helper.give(Order(facts, f"Celery killed task {self.id}: {why}"[:200], self.mrelease_timeout, self.mrelease_patience))
            threading.Thread(target=_report, args=(helper, who, str(self.id)), name="mrelease", daemon=True).start()
        except ProcessLookupError:
            pass
        except Exception:  # Celery goes on as without this
            _LOG.warning("%s is not looked after", who, exc_info=True)


class Task(_Task):  # type: ignore[misc]  # the library has no types
    """A base class of tasks whose requests are these."""

    abstract = True
    Request: Any = f"{__name__}:Request"


@_inspect_command(name=COMMAND, args=[("ids", str)], variadic="ids", signature="[id1 [id2 [... [idN]]]]")  # type: ignore[untyped-decorator]
def _where(state: Any, ids: Any = None, **_: object) -> list[dict[str, Any]]:
    """Which processes run these tasks, or all tasks, by identities that no other process gets."""
    del state
    wanted = {ids} if isinstance(ids, str) else {str(one) for one in ids or ()}
    found: dict[str, dict[str, Any]] = {}
    for request in list(_state.active_requests):
        if request.worker_pid and request.worker_pid != os.getpid() and (not wanted or request.id in wanted):
            facts = _try(request.worker_pid)
            if facts is not None:
                found[str(request.id)] = facts
    with _LOCK:
        ended = dict(_ENDED)
    for id_, facts in ended.items():
        # Asked for by name only: whoever wants all tasks of a worker means those that it runs.
        if id_ in wanted and id_ not in found and _try(facts["pid"]) == facts:
            found[id_] = facts
    return [{"task": id_, **facts} for id_, facts in found.items()]


def _remember(id_: str, facts: dict[str, Any]) -> None:
    with _LOCK:
        _ENDED[id_] = facts
        _ENDED.move_to_end(id_)
        while len(_ENDED) > _REMEMBERED:
            _ENDED.popitem(last=False)


def _get_ready() -> None:
    """Have one helper waiting, of 18 MiB, from the first task on: beside a node that is out of memory it may be too late for one."""
    with _LOCK:
        if _READY and _READY[0].is_there():
            return
        _READY.clear()
        try:
            _READY.append(Helper())
        except Exception:  # Celery goes on as without this
            _LOG.warning("a process that would release memory cannot be started", exc_info=True)


def _take_ready() -> Helper:
    """The helper that waits, or a new one. Raises OSError."""
    with _LOCK:
        helper = _READY.pop() if _READY else None
    return helper if helper is not None and helper.is_there() else Helper()


def _report(helper: Helper, who: str, id_: str) -> None:
    report = helper.wait()
    if report.is_back:
        with _LOCK:
            _ENDED.pop(id_, None)
    if report.is_asked and report.is_back:
        _LOG.info("the memory of %s, which was killed and does not end: %s", who, report.message)
    elif report.is_back:
        _LOG.debug("%s: %s", who, report.message)
    else:
        _LOG.warning("the memory of %s was not released: %s", who, report.message)


def _try(pid: int) -> dict[str, Any] | None:
    try:
        return identify(pid)
    except OSError:
        return None
