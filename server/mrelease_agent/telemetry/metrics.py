"""What the agent counts. Without ``http_listen`` nobody can read it, and ``Metrics`` counts nothing and imports nothing."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Literal, get_args

from mrelease_agent.telemetry import trace_context

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

#: Upper bounds of the step histogram in seconds: from one reaped small process to the longest wait that is still of use.
BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
Step = Literal["resolve", "grace", "boost", "kill", "release", "exit", "total"]
REAPER_STATES: Final = ("busy", "idle", "stuck")
#: Methods whose operations have outcomes.
_KILLING: Final = ("KillAndRelease", "Release", "Reclaim")
#: What process_mrelease(2) is known to fail with; others appear when they occur.
ERRNOS: Final = ("EAGAIN", "EBADF", "EINTR", "EINVAL", "ENOSYS", "EPERM", "ESRCH")
#: Kinds of records of the audit log, and upper bounds in seconds of what making them durable takes.
AUDIT_EVENTS: Final = (
    *("intent", "more", "result", "refused", "suppressed", "interrupted"),
    *("begin", "start", "stop", "resumed", "removed"),
)
SYNC_BUCKETS: Final = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)
_MEMINFO: Final = {
    "MemTotal": "total",
    "MemFree": "free",
    "MemAvailable": "available",
    "SwapTotal": "swap_total",
    "SwapFree": "swap_free",
}
#: What became of the spans of a call or operation: delivered, too many waited, the collector did not take them.
SPANS: Final = ("sent", "dropped", "failed")
#: What is read again when its files change.
RELOADED: Final = ("tls", "policy")
#: Limits of the breaker.
BREAKER_LIMITS: Final = (
    "max_kills",
    "max_bytes",
    "max_kills_per_caller",
    "max_bytes_per_caller",
    "max_kills_per_target",
    "policy_kills",
    "policy_bytes",
)
#: Label for what a caller or a newer kernel made up: a label's values must be few.
_OTHER: Final = "other"


class Metrics:
    """Counts nothing: what the core is given where metrics are off."""

    def request(self, method: str, code: str) -> None:
        """Count an answered call: ``method`` such as KillAndRelease, ``code`` such as OK or NOT_FOUND."""

    def outcome(self, method: str, outcome: str, released_bytes: int) -> None:
        """Count a process by its outcome, such as RELEASED, and the bytes proven back."""

    def step(self, step: Step, seconds: float) -> None:
        """Record how long a step of one process took."""

    def syscall_error(self, errno_name: str) -> None:
        """Count a process_mrelease(2) that failed, by the name of its errno."""

    def reaper_cpu(self, seconds: float) -> None:
        """Count CPU time of a call on a reaper thread: the kernel frees at the caller's cost."""

    def reloaded(self, what: str, good: bool) -> None:
        """Count a reload of ``RELOADED``; where it is not ``good`` the last good one stays in use, and is stale."""

    def certificate_expiry(self, file: str, timestamp: float) -> None:
        """Record when a certificate in ``file``, a key of the configuration, expires, in seconds since the epoch."""

    def audit_record(self, kind: str) -> None:
        """Count a record of the audit log, by its kind of ``AUDIT_EVENTS``."""

    def audit_sync(self, seconds: float) -> None:
        """Record how long it took to make records of the audit log durable."""

    def audit_available(self, available: bool) -> None:
        """Record whether the audit log can be written."""

    def audit_failure(self) -> None:
        """Count that the audit log could not be written any more."""

    def audit_suppressed(self, count: int) -> None:
        """Count refusals that the audit log only has the number of."""

    def kill_refused(self, limit: str) -> None:
        """Count an order that the breaker refused, by its limit of ``BREAKER_LIMITS``."""

    def watch_breaker(self, state: Callable[[], Mapping[str, tuple[int, int]]]) -> None:
        """Take over what of the breaker is asked at each scrape, on any thread: by limit what counts now, and the limit."""

    def traced(self, result: str, count: int) -> None:
        """Count calls and operations whose spans were to be sent, by their ``SPANS``."""

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format 0.0.4."""
        return b""

    def openmetrics(self) -> bytes:
        """All metrics as OpenMetrics 1.0.0, with exemplars: of a histogram's bucket, a trace in which it was so long."""
        return b""


class PrometheusMetrics(Metrics):
    """Counts with prometheus-client, in a registry of its own. Every series exists from the start, with 0.

    ``reaper_states`` (thread counts by ``REAPER_STATES``) and ``operations`` (in flight) are called at each scrape, on the HTTP
    server's threads. ``capabilities`` says by feature what works on this node.
    """

    def __init__(
        self,
        *,
        reaper_states: Callable[[], Mapping[str, int]],
        operations: Callable[[], int],
        capabilities: Mapping[str, bool],
        version: str,
    ) -> None:
        import grpc
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

        from mrelease.v1 import node_service_pb2, outcome_pb2, release_service_pb2

        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        calls = Counter("mrelease_requests", "Calls answered, by gRPC method and status code.", ("method", "code"), registry=registry)
        outcomes = Counter(
            "mrelease_outcomes", "Processes of killing and releasing calls, by outcome.", ("method", "outcome"), registry=registry
        )
        self._released = Counter("mrelease_released_bytes", "Anonymous memory and swap proven back.", registry=registry)
        steps = Histogram(
            "mrelease_step_duration_seconds", "Time of each step for one process.", ("step",), registry=registry, buckets=BUCKETS
        )
        errors = Counter("mrelease_process_mrelease_errors", "Failed process_mrelease(2) calls, by errno.", ("errno",), registry=registry)
        self._reaper_cpu = Counter("mrelease_reaper_cpu_seconds", "CPU time of the calls of the reaper threads.", registry=registry)
        self._failures = Counter(
            "mrelease_reload_failures", "Changed files that could not be used, by what they configure.", ("what",), registry=registry
        )
        self._stale = Gauge(
            "mrelease_config_stale",
            "Whether the files on disk cannot be used and older ones are in use: 1 or 0.",
            ("what",),
            registry=registry,
        )
        for what in RELOADED:
            self._failures.labels(what)
            self._stale.labels(what)
        self._expiry = Gauge(
            "mrelease_tls_certificate_expiry_timestamp_seconds",
            "When the first certificate in use of a file (tls_cert, tls_ca) expires, or its revocation list (tls_crl) is due.",
            ("file",),
            registry=registry,
        )
        records = Counter("mrelease_audit_records", "Records written to the audit log, by kind.", ("event",), registry=registry)
        self._audit_records = {kind: records.labels(kind) for kind in AUDIT_EVENTS}
        self._audit_sync = Histogram(
            "mrelease_audit_sync_seconds", "Time to make records of the audit log durable.", registry=registry, buckets=SYNC_BUCKETS
        )
        self._audit_available = Gauge(
            "mrelease_audit_available",
            "Whether the audit log can be written: 1 or 0; while it cannot, nothing is killed. 0 too where there is none.",
            registry=registry,
        )
        self._audit_failures = Counter(
            "mrelease_audit_failures", "How often the audit log could not be written any more.", registry=registry
        )
        self._audit_suppressed = Counter(
            "mrelease_audit_suppressed", "Refusals of which the audit log has the number alone.", registry=registry
        )
        Gauge("mrelease_build_info", "Version of the agent; always 1.", ("version",), registry=registry).labels(version).set(1)
        works = Gauge("mrelease_capability", "Whether the agent can do this on this node: 1 or 0.", ("feature",), registry=registry)
        for feature, available in capabilities.items():
            works.labels(feature).set(int(available))
        self._pulled = _Pulled(reaper_states, operations)
        registry.register(self._pulled)
        refused = Counter(
            "mrelease_breaker_refusals", "Orders that the breaker refused, by the limit that they met.", ("limit",), registry=registry
        )
        self._refused = {limit: refused.labels(limit) for limit in BREAKER_LIMITS}
        spans = Counter("mrelease_traced", "Calls and operations with spans for otlp_endpoint, by result.", ("result",), registry=registry)
        self._traced = {result: spans.labels(result) for result in SPANS}
        ProcessCollector(registry=registry)

        release = [method.name for method in release_service_pb2.DESCRIPTOR.services_by_name["ReleaseService"].methods]
        node = [method.name for method in node_service_pb2.DESCRIPTOR.services_by_name["NodeService"].methods]
        names = [name.removeprefix("OUTCOME_") for name in outcome_pb2.Outcome.keys()[1:]]
        self._calls = {(m, c): calls.labels(m, c) for m in (*release, *node, _OTHER) for c in (*grpc.StatusCode.__members__, _OTHER)}
        self._outcomes = {(m, o): outcomes.labels(m, o) for m in (*_KILLING, _OTHER) for o in (*names, _OTHER)}
        self._steps = {step: steps.labels(step) for step in get_args(Step)}
        self._errors = errors
        for name in ERRNOS:
            errors.labels(name)

    def request(self, method: str, code: str) -> None:
        """Count an answered call; a method or code that is not the contract's is counted as ``other``."""
        known = (method if (method, _OTHER) in self._calls else _OTHER, code if (_OTHER, code) in self._calls else _OTHER)
        self._calls[known].inc()

    def outcome(self, method: str, outcome: str, released_bytes: int) -> None:
        """Count a process and its bytes."""
        known = (method if (method, _OTHER) in self._outcomes else _OTHER, outcome if (_OTHER, outcome) in self._outcomes else _OTHER)
        self._outcomes[known].inc(exemplar=_exemplar())
        self._released.inc(max(released_bytes, 0), exemplar=_exemplar())

    def step(self, step: Step, seconds: float) -> None:
        """Record a step's time."""
        self._steps[step].observe(seconds, exemplar=_exemplar())

    def syscall_error(self, errno_name: str) -> None:
        """Count a failed system call."""
        self._errors.labels(errno_name if hasattr(errno, errno_name) else _OTHER).inc()

    def reaper_cpu(self, seconds: float) -> None:
        """Count CPU time."""
        self._reaper_cpu.inc(seconds)

    def kill_refused(self, limit: str) -> None:
        """Count a refused order."""
        self._refused[limit].inc()

    def watch_breaker(self, state: Callable[[], Mapping[str, tuple[int, int]]]) -> None:
        """Ask ``state`` at each scrape."""
        self._pulled.breaker = state

    def reloaded(self, what: str, good: bool) -> None:
        """Count a reload."""
        if not good:
            self._failures.labels(what).inc()
        self._stale.labels(what).set(int(not good))

    def certificate_expiry(self, file: str, timestamp: float) -> None:
        """Record an expiry."""
        self._expiry.labels(file).set(timestamp)

    def audit_record(self, kind: str) -> None:
        """Count a record."""
        self._audit_records[kind].inc()

    def audit_sync(self, seconds: float) -> None:
        """Record a time."""
        self._audit_sync.observe(seconds)

    def audit_available(self, available: bool) -> None:
        """Record whether the audit log can be written."""
        self._audit_available.set(int(available))

    def audit_failure(self) -> None:
        """Count a failure."""
        self._audit_failures.inc()

    def audit_suppressed(self, count: int) -> None:
        """Count refusals."""
        self._audit_suppressed.inc(count)

    def traced(self, result: str, count: int) -> None:
        """Count calls and operations."""
        self._traced[result].inc(count)

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format 0.0.4."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)

    def openmetrics(self) -> bytes:
        """All metrics as OpenMetrics 1.0.0."""
        from prometheus_client.openmetrics import exposition

        return bytes(exposition.generate_latest(self.registry))  # type: ignore[no-untyped-call] # pyright: ignore


def _exemplar() -> dict[str, str] | None:
    """The trace of what is counted now, where somebody keeps it."""
    here = trace_context.current.get()
    return dict(here.fields) if here is not None and here.sampled else None


class _Pulled:
    """Gauges that are read when somebody asks."""

    def __init__(self, reaper_states: Callable[[], Mapping[str, int]], operations: Callable[[], int]) -> None:
        self._reaper_states = reaper_states
        self._operations = operations
        self.breaker: Callable[[], Mapping[str, tuple[int, int]]] = dict

    def collect(self) -> Iterator[GaugeMetricFamily]:
        from prometheus_client.core import GaugeMetricFamily

        states = self._reaper_states()
        threads = GaugeMetricFamily("mrelease_reaper_threads", "Threads that call process_mrelease(2), by state.", labels=["state"])
        for state in REAPER_STATES:
            threads.add_metric([state], states.get(state, 0))
        yield threads
        yield GaugeMetricFamily("mrelease_operations_in_flight", "Operations that have not ended.", value=self._operations())
        memory = GaugeMetricFamily(
            "mrelease_node_memory_bytes", "Memory of the node, proc_meminfo(5). Context, not proof.", labels=["kind"]
        )
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                name, _, rest = line.partition(":")
                if name in _MEMINFO:
                    memory.add_metric([_MEMINFO[name]], int(rest.split()[0]) * 1024)
        yield memory
        used = GaugeMetricFamily(
            "mrelease_breaker_used",
            "What counts in the breaker's window, of callers and targets that of the one with most.",
            labels=["limit"],
        )
        limits = GaugeMetricFamily("mrelease_breaker_limit", "Limits of the breaker that are set.", labels=["limit"])
        for name, (counted, most) in self.breaker().items():
            used.add_metric([name], counted)
            limits.add_metric([name], most)
        yield used
        yield limits
