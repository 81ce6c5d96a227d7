"""A real Ray of this machine, with its token authentication, and the driver to which the tests say what to do."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrelease.resolvers.ray import Api
from plugins.stuck import SIZE, Stuck, next_stuck
from support import lab
from support.agent import clean_environment
from support.lab import HangFs

#: Starts that are tried.
_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray that runs. ``address``: HOST:PORT of its dashboard; ``node``: what it calls its node; ``environment``: of its users."""

    process: subprocess.Popen[str]
    address: str
    node: str
    version: str
    environment: Mapping[str, str]

    def order(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have the driver do something; its answer."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        return hear(self.process)

    def actor(self, name: str, *, restarts: int = 0) -> tuple[str, int]:
        """A new actor that runs: its id and pid."""
        actor_id: str = self.order("actor", name=name, restarts=restarts, cpus=0)["id"]
        return actor_id, self.pid(name)

    def pid(self, name: str) -> int:
        """The process of an actor, as it says itself; of one that restarts, the next one."""
        return int(self.order("pid", name=name)["pid"])

    def rows(self, table: str, **filters: str) -> list[dict[str, Any]]:
        """What the dashboard says now."""
        return Api(self.address, self.environment).rows(table, time.monotonic() + 30, **filters)

    def state(self, actor_id: str) -> str:
        """The state of an actor, in Ray's word."""
        (row,) = self.rows("actors", actor_id=actor_id)
        return str(row["state"])

    @contextlib.contextmanager
    def stuck(self, name: str, fs: HangFs, size: int = SIZE) -> Generator[tuple[str, Stuck]]:
        """A new actor that holds memory and hangs: its id, its process."""
        actor_id, pid = self.actor(name)
        self.order("hang", name=name, size=size, path=fs.path)
        with next_stuck(fs, size) as stuck:
            assert stuck.pid == pid
            yield actor_id, stuck


def hear(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The driver's next answer."""
    assert process.stdout
    line = process.stdout.readline()
    assert line, "the driver has ended"
    answer: dict[str, Any] = json.loads(line)
    return answer


@contextlib.contextmanager
def cluster() -> Generator[Cluster]:
    """Raises lab.Unavailable where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise lab.Unavailable("Ray is not installed: make test-plugins installs it")
    # Not pytest's folder: Ray makes sockets in it, whose paths are at most 107 bytes long, unix(7).
    with tempfile.TemporaryDirectory(prefix="mr-ray-", ignore_cleanup_errors=True) as folder, contextlib.ExitStack() as stack:
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(24), "HOME": folder}
        patient = {"RAY_DASHBOARD_STARTUP_TIMEOUT_S": "240", "RAY_gcs_server_port_wait_time_s": "120"}
        own = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
        given = {name: value for name, value in clean_environment().items() if not name.startswith("RAY_")}
        environment = given | token | patient | own
        process, started = _start(Path(folder), environment)
        stack.callback(_end, process)
        yield Cluster(process, started["url"], started["node"], started["version"], environment)


def _start(folder: Path, environment: Mapping[str, str]) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """The driver and its first answer. Ray gives its node 30 s to be there, which a busy machine does not keep: then once more."""
    command = [sys.executable, str(Path(__file__).with_name("program.py")), str(folder)]
    for _ in range(_ATTEMPTS):
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        try:
            return process, hear(process)
        except AssertionError:
            _end(process)
    raise AssertionError((folder / "log").read_text(errors="replace"))


def _end(process: subprocess.Popen[str]) -> None:
    """The driver ends Ray when it has nothing more to read."""
    assert process.stdin
    assert process.stdout
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
