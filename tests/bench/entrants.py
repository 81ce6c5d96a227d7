"""Which contenders there are on this machine."""

from __future__ import annotations

from unittest import SkipTest

from bench.agents import bench_agent
from bench.containers import Containers
from bench.contenders import AGENT, BOOSTED, CTR, EARLYOOM, TCP, Agent, Contenders, CtrTaskKill, Floor, KillAlone
from bench.earlyoom import Earlyoom, find_earlyoom
from bench.machine import version_of
from bench.stages import Bench
from mrelease import Client


def gather(bench: Bench, wanted: set[str], earlyoom: str | None) -> Contenders:
    """Start those of the ``wanted`` that there are here; they end with the ``bench``. ``earlyoom``: its program, None: the one in PATH."""
    found = Contenders()
    found.add(KillAlone())
    found.add(Floor(bench.programs, bench.ground, boost=False))
    if BOOSTED in wanted:
        try:
            bench.ground.boost()
        except SkipTest as why:
            found.missing[BOOSTED] = str(why)
        else:
            found.add(Floor(bench.programs, bench.ground, boost=True))
    for name in (AGENT, TCP):
        if name in wanted:
            agent = bench.stack.enter_context(bench_agent(tcp=name == TCP))
            found.add(Agent(name, bench.stack.enter_context(Client(agent.address))))
    if CTR in wanted:
        try:
            bench.containers = bench.stack.enter_context(Containers(bench.programs))
        except SkipTest as why:
            found.missing[CTR] = str(why)
        else:
            found.add(CtrTaskKill(bench.containers))
            # "containerd github.com/containerd/containerd 1.6.20 ...", "runc version 1.1.5"
            found.versions += [f"{program} {version_of(program).split()[2]}" for program in ("containerd", "runc")]
    if EARLYOOM in wanted:
        try:
            path, version = find_earlyoom(earlyoom)
        except SkipTest as why:
            found.missing[EARLYOOM] = str(why)
        else:
            found.add(Earlyoom(path))
            found.versions.append(version)
    found.here = {name: each for name, each in found.here.items() if name in wanted}
    return found
