"""A real Dask cluster of this machine: a scheduler and nannies with workers, as `dask scheduler` and `dask worker` start them."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plugins.dask.tasks import take_more
from plugins.hog import take_and_hang
from plugins.stuck import Stuck, next_stuck
from support import lab
from support.agent import PATIENCE, clean_environment
from support.lab import HangFs

#: Bytes that the nanny lets its worker have. A worker that does nothing has some 100 MiB.
LIMIT = 900 * lab.MIB
#: What a task takes and hangs with, and what another one takes to go over the limit.
HANGING, MORE = 512 * lab.MIB, 400 * lab.MIB

_QUICK = {
    # The task that ends its worker is not tried on another one, and nobody spills.
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
    "DASK_DISTRIBUTED__ADMIN__TICK__LIMIT": "1h",
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A scheduler that has begun. ``folder`` has the logs."""

    folder: Path
    scheduler: str
    environment: Mapping[str, str]

    @property
    def address(self) -> str:
        """host:port of the scheduler."""
        return self.scheduler.partition("://")[2]

    def log(self, name: str) -> str:
        """What a process of the cluster has said so far."""
        return (self.folder / f"{name}.log").read_text()

    @contextlib.contextmanager
    def worker(self, name: str, *options: str, environment: Mapping[str, str] | None = None) -> Generator[subprocess.Popen[bytes]]:
        """A nanny with its worker of two threads; yields the nanny's process."""
        command = ["distributed.cli.dask_worker", self.scheduler, "--name", name, "--nthreads", "2", "--memory-limit", str(LIMIT)]
        with _running(self.folder, name, {**self.environment, **(environment or {})}, *command, "--no-dashboard", *options) as nanny:
            yield nanny

    @contextlib.contextmanager
    def client(self) -> Generator[Any]:
        """A client in this process."""
        with distributed().Client(self.scheduler, timeout=PATIENCE, set_as_default=False) as client:
            yield client


def distributed() -> Any:
    """The library; its types are not those that the checkers here want."""
    return importlib.import_module("distributed")


@contextlib.contextmanager
def cluster(folder: Path, environment: Mapping[str, str] | None = None, *options: str) -> Generator[Cluster]:
    """A scheduler without workers."""
    folder.mkdir(parents=True, exist_ok=True)
    tests = Path(__file__).parents[2]
    chosen = {**clean_environment(), **_QUICK, "PYTHONPATH": str(tests), "TMPDIR": str(folder), **(environment or {})}
    file = folder / "scheduler.json"
    command = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    with _running(folder, "scheduler", chosen, *command, *options) as process:

        def is_ready() -> bool:
            assert process.poll() is None, (folder / "scheduler.log").read_text()
            return file.exists() and file.read_text().rstrip().endswith("}")

        lab.until(is_ready, "the scheduler says where it is")
        yield Cluster(folder, json.loads(file.read_text())["address"], chosen)


def wait_workers(client: Any, *names: str) -> dict[str, str]:
    """Wait until exactly these workers are there; their addresses by name."""

    def workers() -> dict[str, str]:
        return {str(worker["name"]): address for address, worker in client.scheduler_info(n_workers=-1)["workers"].items()}

    lab.until(lambda: sorted(workers()) == sorted(names), f"workers {names} are there")
    return workers()


def pid_of(client: Any, address: str) -> int:
    """The pid of a worker, as its nanny knows it; 0: it has none just now."""

    def pid(dask_worker: Any) -> int:
        return dask_worker.pid or 0

    return int(client.run(pid, workers=[address], nanny=True)[address])


def looked_at(client: Any, address: str, times: int) -> bool:
    """Wait until a nanny has had the time to look at its worker's memory so often; whether it still thinks that the worker runs."""

    async def look(dask_worker: Any, times: int) -> bool:
        import asyncio

        for _ in range(times):
            await asyncio.sleep(dask_worker.memory_manager.memory_monitor_interval)
        return bool(dask_worker.is_alive())

    return bool(client.run(look, times=times, workers=[address], nanny=True)[address])


@dataclass(frozen=True, slots=True)
class Overdone:
    """A worker that hangs with its memory, and its nanny has tried to end it for its limit."""

    stuck: Stuck
    worker: str
    future: Any


@contextlib.contextmanager
def overdone(client: Any, worker: str, fs: HangFs) -> Generator[Overdone]:
    """Let a worker hang, then take more than its nanny allows."""
    future = client.submit(take_and_hang, HANGING, fs.path, workers=[worker], pure=False)
    with next_stuck(fs, HANGING) as stuck:
        more = client.submit(take_more, MORE, workers=[worker], pure=False)
        lab.until(stuck.is_killed, "the nanny has sent a signal")
        yield Overdone(stuck, worker, future)
        del more


@contextlib.contextmanager
def _running(folder: Path, name: str, environment: Mapping[str, str], *command: str) -> Generator[subprocess.Popen[bytes]]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=log, stderr=log, env={**os.environ, **environment}, cwd=folder, start_new_session=True
        )
        try:
            yield process
        finally:
            # Its workers end when it does: they watch a pipe of its.
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE)
