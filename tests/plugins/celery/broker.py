"""A real Redis and real Celery workers, each a process of this machine."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

from plugins.stuck import SIZE, Stuck, next_stuck
from support import lab
from support.agent import PATIENCE, clean_environment
from support.lab import HangFs

URL = "TEST_BROKER_URL"
#: Seconds that a task may take: to have its memory takes one, and ten beside busy neighbours.
LIMIT = 12


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker of two processes. ``log``: what it has said so far."""

    name: str
    pid: int
    _log: Path

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def queue(self) -> str:
        """From which it takes its tasks, and nobody else."""
        return self.name.partition("@")[0]


@dataclass(frozen=True, slots=True)
class Sent:
    """A task that was sent. Celery's own result would be looked after, in the broker, for as long as somebody has it."""

    id: str
    _backend: Any

    @property
    def state(self) -> str:
        """As Celery reports it."""
        return str(self._backend.get_task_meta(self.id, cache=False)["status"])

    def wait(self) -> Any:
        """Wait until it is over: what it returned, or the exception."""
        lab.until(lambda: self.state in ("SUCCESS", "FAILURE", "REVOKED"), f"task {self.id} is over")
        return self._backend.get_task_meta(self.id, cache=False)["result"]


@dataclass(frozen=True, slots=True)
class Broker:
    """A Redis, and a client of it. ``folder`` has the logs."""

    folder: Path
    url: str
    app: Any

    def send(self, task: str, *arguments: object, **options: Any) -> Sent:
        """Have a task done."""
        return Sent(self.app.send_task(task, arguments, **options).id, self.app.backend)

    def active(self, worker: Worker) -> list[dict[str, Any]]:
        """The tasks that a worker runs, as Celery itself knows them."""
        answers: dict[str, list[dict[str, Any]]] = self.app.control.inspect([worker.name], timeout=PATIENCE, limit=1).active() or {}
        return answers.get(worker.name, [])

    def processes(self, worker: Worker, sent: Sent) -> list[int]:
        """The process that runs a task."""
        return [task["worker_pid"] for task in self.active(worker) if task["id"] == sent.id and task["worker_pid"]]

    @contextlib.contextmanager
    def worker(self, name: str, environment: Mapping[str, str] | None = None) -> Generator[Worker]:
        """A worker that takes tasks. Its queue has its name."""
        command = [sys.executable, "-m", "celery", "-A", "plugins.celery.application", "worker", "-n", f"{name}@localhost", "-Q", name]
        tests = Path(__file__).parents[2]
        chosen = {**clean_environment(), "PYTHONPATH": str(tests), URL: self.url, **(environment or {})}
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "-c", "2", "-l", "DEBUG", "--without-gossip", "--without-mingle"],
                stdout=output,
                stderr=output,
                env=chosen,
                cwd=self.folder,
                start_new_session=True,
            )
            worker = Worker(f"{name}@localhost", process.pid, log)

            def is_ready() -> bool:
                assert process.poll() is None, worker.log
                return " ready." in worker.log

            try:
                lab.until(is_ready, "the worker is ready")
                yield worker
            finally:
                # Nobody else is in its session.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(PATIENCE)


@contextlib.contextmanager
def limited(asked: Broker, worker: Worker, task: str, fs: HangFs) -> Generator[tuple[Sent, Stuck]]:
    """A task that hangs with its memory, long before its hard time limit."""
    sent = asked.send(task, SIZE, fs.path, queue=worker.queue, time_limit=LIMIT)
    with next_stuck(fs) as stuck:
        yield sent, stuck


@contextlib.contextmanager
def broker(folder: Path) -> Generator[Broker]:
    """A Redis on a socket of its own, which keeps nothing."""
    redis = which("redis-server")
    if redis is None:
        raise lab.Unavailable("no redis-server: apt install redis-server")
    folder.mkdir(parents=True, exist_ok=True)
    socket = folder / "redis.sock"
    command = [redis, "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            lab.until(socket.is_socket, "Redis listens")
            url = f"redis+socket://{socket}"
            app = client_of(url)
            yield Broker(folder, url, app)
            app.close()
        finally:
            process.terminate()
            process.wait(PATIENCE)


def client_of(url: str) -> Any:
    """An application without tasks, for those who ask."""
    return importlib.import_module("celery").Celery("client", broker=url, backend=url, set_as_current=False)
