"""``celery://TASK``, ``celery://WORKER/TASK``: the process that runs a Celery task, by the task's id; ``celery://WORKER/*``: of every task.

``WORKER`` is a node name such as ``celery@node7``: then one worker is asked, and the answer is there at once. Otherwise all are asked,
until one has the task. Which broker is asked: that of the application in ``$MRELEASE_CELERY_APP`` ("proj.celery:app", as for
``celery -A``), else of ``$CELERY_CONFIG_MODULE`` and ``$CELERY_BROKER_URL``, as Celery reads them.

Workers answer by the remote control command that ``mrelease.integrations.celery`` brings: Celery's own ones give a number alone, and the
process that had it may have been replaced by the time that someone is killed by it.
"""

from __future__ import annotations

import os
import re
import time
from typing import Any, Final, cast

from mrelease import _text
from mrelease.errors import InvalidReference, NotPlaced, OrchestratorUnavailable, ReferenceNotFound, ResolutionError
from mrelease.integrations._libraries import need
from mrelease.resolvers._placement import Placement
from mrelease.resolvers._processes import place
from mrelease.resolvers._reference import Reference

#: The environment variable that names the application.
VARIABLE: Final = "MRELEASE_CELERY_APP"
#: The remote control command of ``mrelease.integrations.celery``, which is not imported here: it is for workers.
COMMAND: Final = "mrelease_where"

_TASK: Final = re.compile(r"\w[\w.:-]{0,127}", re.ASCII)
_WORKER: Final = re.compile(r"[^@/\s]{1,128}@[^@/\s]{1,253}")
# Seconds that workers have to answer where it is not known how many there are: Celery's own commands wait one.
_PATIENCE: Final = 2.0
_EXAMPLE: Final = "write celery://TASK, celery://WORKER/TASK or celery://WORKER/*, for example celery://celery@node7/4fd1c9b0-..."


class _FoundError(Exception):
    """Ends the waiting for answers: the one that matters is there."""


class Celery:
    """The resolver. ``app``: an application whose broker is asked; None: as the environment says."""

    def __init__(self, app: Any = None) -> None:
        """Raises MissingExtra where Celery is not installed, OrchestratorUnavailable where nothing says which broker is asked."""
        self._celery = need("celery", "celery://")
        self._app = app if app is not None else self._from_environment()

    def resolve(self, ref: str, deadline: float) -> list[Placement]:
        """See ``Resolver``. Placements have the order of the ids of the tasks."""
        end = time.monotonic() + deadline
        worker, task = _parse(ref)
        answers = self._ask(worker, task, deadline)
        _check(answers, worker, ref)
        found = {
            one["task"]: (name, one) for name, answer in sorted(answers.items()) for one in _tasks(answer) if task in ("*", one["task"])
        }
        if not found:
            raise ReferenceNotFound(
                f"{ref!r}: no worker that answered runs this", "has it ended, or not begun? `celery inspect active` says"
            )
        return [
            place(facts, [name.rpartition("@")[2]], f"Celery task {_text.printable(id_)} of {_text.printable(name)}", end)
            for id_, (name, facts) in sorted(found.items())
        ]

    def close(self) -> None:
        """See ``Resolver``: holds nothing between two calls."""

    def _from_environment(self) -> Any:
        name = os.environ.get(VARIABLE, "")
        if not name:
            if not (os.environ.get("CELERY_BROKER_URL") or os.environ.get("CELERY_CONFIG_MODULE")):
                message = "nothing says which broker Celery's workers are asked through"
                raise OrchestratorUnavailable(message, f"set {VARIABLE}, as for `celery -A`, or CELERY_BROKER_URL")
            return self._celery.Celery("mrelease", set_as_current=False)
        try:
            return need("celery.app.utils", "celery://").find_app(name)
        except (ImportError, AttributeError) as error:
            raise OrchestratorUnavailable(f"{VARIABLE} names no application: {_text.printable(str(error))}", "as for `celery -A`") from None

    def _limits(self, deadline: float) -> dict[str, float]:
        """How long a broker may be silent. Other transports than Redis know no such options, and refuse them."""
        is_redis = str(self._app.conf.broker_write_url or "").startswith(("redis", "sentinel"))
        return {"socket_timeout": deadline, "socket_connect_timeout": deadline} if is_redis else {}

    def _ask(self, worker: str, task: str, deadline: float) -> dict[str, Any]:
        """The answers of workers by their names."""
        answers: dict[str, Any] = {}

        def on_answer(answer: dict[str, Any]) -> None:
            answers.update(answer)
            if not worker and any(_tasks(one) for one in answer.values()):
                raise _FoundError

        try:
            with self._app.connection_for_write(connect_timeout=deadline, transport_options=self._limits(deadline)) as connection:
                connection.ensure_connection(max_retries=1, timeout=deadline)
                self._app.control.broadcast(
                    COMMAND,
                    arguments={"ids": [] if task == "*" else [task]},
                    destination=[worker] if worker else None,
                    connection=connection,
                    reply=True,
                    timeout=min(0.8 * deadline, _PATIENCE),
                    limit=1 if worker else None,
                    callback=on_answer,
                )
        except _FoundError:
            pass
        except ResolutionError:
            raise
        except Exception as error:
            # Each transport has its own exceptions, and passwords of URLs stay out of what they say.
            message = f"the broker of Celery does not answer ({type(error).__name__})"
            raise OrchestratorUnavailable(message, "is it there, at this URL?") from None
        return answers


def _parse(ref: str) -> tuple[str, str]:
    """Worker, "" for any, and task."""
    reference = Reference.parse(ref)
    reference.only()
    worker, task = ("", *reference.parts) if len(reference.parts) == 1 else (reference.parts[0], "/".join(reference.parts[1:]))
    is_task = _TASK.fullmatch(task) or (worker and task == "*")
    if reference.scheme != "celery" or not is_task or (worker and not _WORKER.fullmatch(worker)):
        raise InvalidReference(f"{ref!r} names no task of Celery", _EXAMPLE)
    return worker, task


def _tasks(answer: object) -> list[dict[str, Any]]:
    """The tasks in an answer; whoever may write to the broker can have written it."""
    if not isinstance(answer, list):
        return []
    given = cast("list[object]", answer)
    tasks = [cast("dict[str, Any]", one) for one in given if isinstance(one, dict)]
    return [one for one in tasks if isinstance(one.get("task"), str)]


def _check(answers: dict[str, Any], worker: str, ref: str) -> None:
    """Raises what is wrong with all answers."""
    if not answers:
        said = f"worker {_text.printable(worker)} did not answer" if worker else "no worker answered"
        raise OrchestratorUnavailable(f"{ref!r}: {said}", "is it running? see `celery inspect ping`")
    if all(isinstance(answer, dict) and "error" in answer for answer in answers.values()):
        names = ", ".join(map(_text.printable, sorted(answers)[:5]))
        message = f"{ref!r}: {names} cannot say who the process of a task is"
        raise NotPlaced(message, 'start workers with mrelease.integrations.celery: imports = ("mrelease.integrations.celery",)')
