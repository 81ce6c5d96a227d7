"""The workers: processes that are given one kill at a time and may die without taking the run with them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soak.kinds import Kind
from soak.watching import Kill

#: Seconds after which a kill, with its victim made and ended, is given up; a worker that does not even end is left.
_GIVE_UP = 150.0
_READY = 60.0
#: Seconds in which a worker ends its victim and removes its cgroups.
_END = 30.0


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    heard: bytes = b""
    job: dict[str, Any] | None = None
    alone: bool = False
    since: float = field(default_factory=time.monotonic)


class Pool:
    """Workers by slot, started when they are needed and again when they end."""

    def __init__(self, address: str, folder: Path) -> None:
        self._address = address
        self._folder = folder
        self._workers: dict[int, _Worker] = {}

    def free(self, slots: int) -> int | None:
        """The first of so many slots without a job."""
        return next((slot for slot in range(slots) if slot not in self._workers or self._workers[slot].job is None), None)

    @property
    def busy(self) -> int:
        """How many have a job."""
        return sum(worker.job is not None for worker in self._workers.values())

    @property
    def one_is_alone(self) -> bool:
        """Whether a kill is under way of which there may be one at a time."""
        return any(worker.job is not None and worker.alone for worker in self._workers.values())

    def give(self, slot: int, kind: Kind, seed: int) -> None:
        """Have a victim killed. Raises RuntimeError where no worker can be started."""
        if slot not in self._workers:
            self._workers[slot] = self._start(slot)
        worker = self._workers[slot]
        worker.job, worker.alone, worker.since = {"kind": kind.name, "seed": seed}, kind.alone, time.monotonic()
        assert worker.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: heard() says so
            worker.process.stdin.write(json.dumps(worker.job).encode() + b"\n")

    def heard(self, timeout: float) -> list[Kill]:
        """Wait for what has been done, at most ``timeout`` seconds."""
        outputs = {worker.process.stdout: slot for slot, worker in self._workers.items() if worker.process.stdout is not None}
        ready, _, _ = select.select(list(outputs), [], [], timeout)
        kills: list[Kill] = []
        for output in ready:
            kills += self._read(outputs[output])
        for slot, worker in list(self._workers.items()):
            if worker.job is not None and time.monotonic() - worker.since > _GIVE_UP:
                kills.append(self._lost(slot, f"not done after {_GIVE_UP:g} s"))
        return kills

    def _read(self, slot: int) -> list[Kill]:
        worker = self._workers[slot]
        assert worker.process.stdout is not None
        more = os.read(worker.process.stdout.fileno(), 1 << 16)
        if not more:
            return [self._lost(slot, "the worker ended")]
        worker.heard += more
        *lines, worker.heard = worker.heard.split(b"\n")
        worker.job = None if lines else worker.job
        return [Kill(**json.loads(line)) for line in lines]

    def _lost(self, slot: int, why: str) -> Kill:
        worker = self._workers.pop(slot)
        job = worker.job or {"kind": "none", "seed": 0}
        self._end(worker)
        return Kill(job["kind"], job["seed"], error=why)

    def _start(self, slot: int) -> _Worker:
        command = [sys.executable, "-m", "soak.worker", self._address, str(slot), str(self._folder)]
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env={**os.environ, "PYTHONPATH": path}
        )
        assert process.stdout is not None
        worker = _Worker(process)
        ready, _, _ = select.select([process.stdout], [], [], _READY)
        if not ready or process.stdout.readline() != b"{}\n":
            self._end(worker)
            raise RuntimeError("a worker did not start")
        return worker

    @staticmethod
    def _end(worker: _Worker) -> None:
        assert worker.process.stdin is not None
        assert worker.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            worker.process.stdin.close()
        try:
            worker.process.wait(_END)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.process.stdout.close()

    def close(self) -> None:
        """End all."""
        while self._workers:
            self._end(self._workers.popitem()[1])


@contextmanager
def pool(address: str, folder: Path) -> Generator[Pool]:
    """Workers for as long as the context lasts."""
    made = Pool(address, folder)
    try:
        yield made
    finally:
        made.close()
