"""Dask's part of `make bench-plugins`: a worker that its nanny cannot end."""

from __future__ import annotations

import os
from functools import partial
from importlib.metadata import version
from typing import Any, Final

from mrelease import resolvers
from plugins.bench.case import ALONE, OURS, Case, Measured, watching
from plugins.bench.ground import Ground
from plugins.dask.cluster import cluster, overdone, wait_workers
from support import lab

BY_HAND: Final = "`mrelease kill dask://`"
_SITUATION: Final = "a worker over its memory limit, a thread of it in state D"


_GROUND: Final = Ground("dask", cluster)


def cases() -> list[Case]:
    """The worker ended by its nanny alone, with the plugin, and by a reference beside a nanny without it."""
    return [
        Case("Dask", _SITUATION, contender, partial(_measure, contender), version=version("distributed"), ground=_GROUND.entered)
        for contender in (ALONE, OURS, BY_HAND)
    ]


def _measure(contender: str, limit: float) -> Measured:
    name = f"worker-{('alone', 'ours', 'hand')[(ALONE, OURS, BY_HAND).index(contender)]}"
    options = ("--preload-nanny", "mrelease.integrations.dask") if contender == OURS else ()
    with (
        lab.hang_fs("READ") as fs,
        _GROUND.system.worker(name, *options, environment={"MRELEASE_AGENT": _GROUND.agent.address}),
        _GROUND.system.client() as client,
    ):
        address = wait_workers(client, name)[name]
        with overdone(client, address, fs) as case, watching(case.stuck.pid) as watch:
            # Its nanny has just signalled: that is the request.
            watch.begin()
            if contender == BY_HAND:
                _kill_by_hand(name)
            back = watch.back(limit)
            if contender == OURS and back is not None:
                lab.until(lambda: case.future.status == "error", "the scheduler has been told")
            return Measured(watch.held_bytes, back, f"task {case.future.status}", _usable(client, address))


def _kill_by_hand(name: str) -> None:
    os.environ["MRELEASE_AGENTS"] = f"{os.uname().nodename}={_GROUND.agent.address}"
    try:
        resolvers.kill_and_release(f"dask://{_GROUND.system.address}/{name}", reason="bench")
    finally:
        del os.environ["MRELEASE_AGENTS"]


def _usable(client: Any, address: str) -> str:
    is_listed = address in client.scheduler_info(n_workers=-1)["workers"]
    return "no: its tasks wait for it" if is_listed else "yes: its tasks go to other workers"
