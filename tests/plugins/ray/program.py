"""A Ray cluster of one node and its driver, in a process of its own: it does what the lines of its standard input say, in JSON.

`ray` is imported here alone: what it starts and changes in a process is not for the tests'.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from typing import Any

from plugins.hog import take_and_hang

ray: Any = importlib.import_module("ray")
# Ray prints to standard output what goes wrong in its processes: the answers have a descriptor of their own.
_ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


class Worker:
    """An actor: one thread hangs, another one still answers."""

    def pid(self) -> int:
        return os.getpid()

    def hang(self, size: int, path: str) -> int:
        return take_and_hang(size, path)


def wait() -> None:
    threading.Event().wait()


def main() -> None:
    started = ray.init(
        num_cpus=2,
        object_store_memory=100 << 20,
        include_dashboard=True,
        dashboard_port=0,
        logging_level="ERROR",
        log_to_driver=False,
        _temp_dir=sys.argv[1],
    )
    _say(url=started.dashboard_url, node=started.address_info["node_ip_address"], version=ray.__version__)
    actors: dict[str, Any] = {}
    tasks: list[Any] = []
    for line in sys.stdin:
        _say(**_do(json.loads(line), actors, tasks))
    ray.shutdown()


def _do(order: dict[str, Any], actors: dict[str, Any], tasks: list[Any]) -> dict[str, Any]:
    """One order; its answer."""
    name = order.get("name", "")
    match order["do"]:
        case "actor":
            options = {
                "name": name,
                "namespace": "tests",
                "max_restarts": order["restarts"],
                "num_cpus": order["cpus"],
                "max_concurrency": 4,
            }
            actors[name] = ray.remote(Worker).options(**options).remote()
            return {"id": actors[name]._actor_id.hex()}
        case "pid":
            return {"pid": _pid(actors[name])}
        case "hang":
            tasks.append(actors[name].hang.remote(order["size"], order["path"]))
        case "kill":
            ray.kill(actors[name], no_restart=order["for_good"])
        case "task":
            tasks.append(ray.remote(wait).options(num_cpus=0).remote())
            return {"id": tasks[-1].task_id().hex()}
        case unknown:
            raise ValueError(unknown)
    return {}


def _pid(actor: Any) -> int:
    """Of an actor that restarts, the next one: calls fail until it is there, and nothing announces that."""
    end = time.monotonic() + 60
    while True:
        try:
            return int(ray.get(actor.pid.remote(), timeout=60))
        except ray.exceptions.ActorUnavailableError:  # noqa: PERF203 -- it waits
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def _say(**answer: Any) -> None:
    print(json.dumps(answer), file=_ANSWERS, flush=True)


if __name__ == "__main__":
    main()
