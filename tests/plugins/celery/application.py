"""The application of the tests' workers: the same task as anybody writes it, and with our base class."""

from __future__ import annotations

import importlib
import os
import threading
from typing import Any

from plugins.hog import take_and_hang

#: The environment variable that names the broker, which keeps the results, too.
URL = "TEST_BROKER_URL"

app: Any = importlib.import_module("celery").Celery("tests", broker=os.environ[URL], backend=os.environ[URL])
app.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True, task_track_started=True)


def hang(size: int, path: str) -> int:
    """Take memory and hang."""
    return take_and_hang(size, path)


def wait() -> None:
    """Be there until the end."""
    threading.Event().wait()


def pid() -> int:
    """Who runs this."""
    return os.getpid()


for function in (hang, wait, pid):
    app.task(function, name=f"plain.{function.__name__}")
if os.environ.get("TEST_WITH_US"):
    from mrelease.integrations.celery import Request, Task

    class Impatient(Request):
        """Does not wait long for an agent."""

        mrelease_patience = 1.0

    class OursTask(Task):
        """As people write it who have a base class of their own."""

        abstract = True
        Request = Impatient if os.environ["TEST_WITH_US"] == "impatient" else Request

    for function in (hang, wait):
        app.task(function, name=f"ours.{function.__name__}", base=OursTask)
