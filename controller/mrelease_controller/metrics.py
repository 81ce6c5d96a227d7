"""Metrics of the controller. The agents' own say what happened on each node; these, what was asked for and why."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from mrelease_controller.attempt import Finding, Report
from mrelease_controller.cases import Case, Kind

_SECONDS: Final = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, float("inf"))


class Metrics:
    """Told by the others; asks nobody."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._leader = Gauge(
            "mrelease_controller_leader", "1 where this controller acts, 0 where another one does.", registry=self.registry
        )
        self._pending = Gauge(
            "mrelease_controller_cases", "Pods and containers whose memory should be back soon or already.", registry=self.registry
        )
        self._looks = Counter(
            "mrelease_controller_looks", "Looks at a case at the agent of its node.", ("kind", "finding"), registry=self.registry
        )
        self._requests = Counter(
            "mrelease_controller_requests", "Requests that an agent release memory.", ("method", "verdict"), registry=self.registry
        )
        self._released = Counter(
            "mrelease_controller_released_bytes", "Memory that came back by requests of the controller.", registry=self.registry
        )
        self._delay = Histogram(
            "mrelease_controller_release_delay_seconds",
            "From the end of a pod's grace period, or a container's death, until its memory was back.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._events = Counter("mrelease_controller_events", "Kubernetes Events.", ("reason", "result"), registry=self.registry)
        self._lists = Counter(
            "mrelease_controller_lists", "Times that all objects of a kind were listed.", ("resource",), registry=self.registry
        )
        self._ends = Counter(
            "mrelease_controller_watch_ends", "Watches that ended with an error.", ("resource", "status"), registry=self.registry
        )
        for kind in Kind:
            for finding in Finding:
                self._looks.labels(kind.value, finding.value)
        self._leader.set(0)

    def leads(self, leads: bool) -> None:
        """Whether this one acts."""
        self._leader.set(leads)

    def pending(self, count: int) -> None:
        """How many cases there are."""
        self._pending.set(count)

    def looked(self, case: Case, report: Report, now: float) -> None:
        """A look has come to its end."""
        self._looks.labels(case.kind.value, report.finding.value).inc()
        if report.asked and report.result is not None and not report.result.replayed:
            self._requests.labels("KillAndRelease" if report.killed else "Release", report.result.verdict.name).inc()
            self._released.inc(report.result.released_bytes)
            if report.finding is Finding.RELEASED:
                self._delay.observe(max(0.0, now - case.since))

    def wrote(self, reason: str, result: str) -> None:
        """An Event was written, or not: ``created``, ``counted``, ``failed``."""
        self._events.labels(reason, result).inc()

    def listed(self, resource: str) -> None:
        """Everything of a kind was listed."""
        self._lists.labels(resource).inc()

    def watch_ended(self, resource: str, status: str) -> None:
        """A watch ended with an error."""
        self._ends.labels(resource, status).inc()

    def exposition(self) -> bytes:
        """For Prometheus."""
        return generate_latest(self.registry)
