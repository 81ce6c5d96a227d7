"""Victims that hold memory and get next to no CPU time, as on a busy node, and what they compete with."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from mrelease.demo.cgroups import Cgroups
from mrelease.demo.gauges import ChargeGauge, Gauge, NodeGauge
from mrelease.demo.interrupts import uninterrupted
from mrelease.demo.processes import Child, end_all, feed, starve

_BACKSTOP_SECONDS = 90


class Scene:
    """Victims, cgroups and spinners. A context manager: on leaving, everything is gone again, however it is left.

    Each step is one method, in this order: ``add_victim``, ``wait_ready``, ``add_spinners``, ``starve``; ``relax`` ends the competition.
    ``controllers`` of cgroups(7) are used where they can be: ``cpu`` to starve, ``memory`` to measure.
    """

    def __init__(self, name: str = "mrelease-demo", *, controllers: Collection[str] = ("cpu", "memory")) -> None:
        self._cgroups = Cgroups(f"{name}-{os.getpid()}", controllers)
        self._charges: list[Path | None] = []
        self.victims: list[Child] = []
        self.spinners: list[Child] = []
        #: Directories that could not be removed on leaving.
        self.left_behind: list[Path] = []

    def __enter__(self) -> Scene:
        with uninterrupted():
            self._cgroups.make()
        return self

    def __exit__(self, *_: object) -> None:
        with uninterrupted():
            self.relax()
            for victim in self.victims:
                if victim.pidfd >= 0:
                    feed(victim.pid)
            end_all(self.victims)
            self.left_behind = self._cgroups.remove()

    def add_victim(self, size: int, *, busy: bool = True) -> Child:
        """Start a victim that touches ``size`` bytes, in a memory cgroup of its own where one can be made. It does not wait for them."""
        with uninterrupted():
            victim = Child("victim", size, "busy" if busy else "asleep")
            self.victims.append(victim)
        self._charges.append(self._cgroups.admit(victim.pid, f"victim-{len(self.victims)}"))
        victim.go()
        return victim

    def wait_ready(self) -> None:
        """Wait until every victim holds its memory. Raises SceneError."""
        for victim in self.victims:
            victim.wait_ready("a victim")

    def add_spinners(self) -> int:
        """Start two processes of the normal class on each CPU that use all of it, one of the two beside the victims in their cgroup.

        They are bound to their CPUs: free to move, all would crowd on some CPUs now and then, and the victims have the others for
        themselves. Returns how many there are. Raises SceneError.
        """
        cpus = sorted(os.sched_getaffinity(0))
        for _ in range(2 * len(cpus)):
            with uninterrupted():
                self.spinners.append(Child("spin", _BACKSTOP_SECONDS))
        for number, spinner in enumerate(self.spinners):
            spinner.wait_ready("a spinner")
            os.sched_setaffinity(spinner.pid, {cpus[number % len(cpus)]})
            if self._cgroups.weight and number < len(cpus):
                self._cgroups.admit(spinner.pid, "spinners")
        return len(self.spinners)

    def starve(self) -> str:
        """Leave the victims the CPU time that nobody else wants; return how, in a few words."""
        for victim in self.victims:
            starve(victim.pid)
        if not self._cgroups.weight:
            return "SCHED_IDLE"
        self._cgroups.starve()
        return f"SCHED_IDLE in a cgroup with {self._cgroups.weight}"

    def relax(self) -> None:
        """End the spinners and give the victims' cgroup its weight back, so that who is dying can finish."""
        self._cgroups.feed()
        end_all(self.spinners)
        self.spinners.clear()

    def gauge(self) -> Gauge:
        """The best way to measure what the victims hold that there is here."""
        files = [charge for charge in self._charges if charge is not None]
        if files and len(files) == len(self.victims):
            return ChargeGauge(files)
        by_pid = {victim.pid: victim for victim in self.victims}
        return NodeGauge(list(by_pid), lambda pid: by_pid[pid].has_exited())
