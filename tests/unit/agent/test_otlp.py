"""Spans on their way to a collector: bounded, counted, by TLS, and never waited for. The collector is a real server."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Generator, Mapping
from pathlib import Path

import grpc
import pytest

from mrelease_agent.telemetry import otlp
from mrelease_agent.telemetry.metrics import Metrics
from mrelease_agent.telemetry.otlp import QUEUE, Otlp
from mrelease_agent.telemetry.spans import Span, new_span_id, new_trace_id
from mrelease_agent.telemetry.trace_context import TraceContext
from support import lab
from support.collector import Collector, attributes, running_collector
from support.pki import Pki


class Counted(Metrics):
    def __init__(self) -> None:
        self.results: Counter[str] = Counter()

    def traced(self, result: str, count: int) -> None:
        self.results[result] += count


@contextlib.contextmanager
def sending(endpoint: str, environ: Mapping[str, str] | None = None) -> Generator[tuple[Otlp, Counted]]:
    counted = Counted()
    traces = Otlp(endpoint, environ or {}, {"service.name": "mrelease-agent"}, "1", counted)
    with contextlib.closing(traces):
        yield traces, counted


def spans(name: str) -> list[Span]:
    return [Span(TraceContext(new_trace_id(), new_span_id(), sampled=True), new_span_id(), "", name, 1, 2)]


def test_what_waits_is_bounded_and_what_is_dropped_is_counted() -> None:
    begun, go = threading.Event(), threading.Event()

    def stuck() -> list[Span]:
        begun.set()
        go.wait()
        return spans("stuck")

    with running_collector() as collector, sending(collector.endpoint) as (traces, counted):
        traces.put(stuck)
        lab.until(begun.is_set, "the thread is busy")
        for _ in range(QUEUE + 10):
            traces.put(lambda: spans("waits"))
        assert counted.results["dropped"] == 10
        go.set()
        collector.wait("waits", QUEUE)
        lab.until(lambda: counted.results["sent"] == QUEUE + 1, "what was sent is counted")
        assert counted.results["failed"] == 0


def test_what_cannot_be_delivered_is_counted_and_the_end_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "_PAUSES", (0.01,))
    with running_collector() as gone:
        pass
    with sending(gone.endpoint) as (traces, counted):
        traces.put(lambda: spans("lost"))
        lab.until(lambda: counted.results["failed"] == 1, "what was lost is counted")
    assert counted.results["sent"] == 0


def test_what_a_collector_refuses_for_good_is_not_tried_again() -> None:
    with running_collector() as collector, sending(collector.endpoint) as (traces, counted):
        collector.codes.append(grpc.StatusCode.PERMISSION_DENIED)
        traces.put(lambda: spans("refused"))
        lab.until(lambda: counted.results["failed"] == 1, "what was refused is counted")
        traces.put(lambda: spans("taken"))
        collector.wait("taken")
        assert collector.named("refused") == []


def test_a_defect_costs_one_batch_and_no_more() -> None:
    def broken() -> list[Span]:
        raise RuntimeError("a defect")

    with running_collector() as collector, sending(collector.endpoint) as (traces, counted):
        traces.put(broken)
        lab.until(lambda: counted.results["failed"] == 1, "it is counted")
        traces.put(lambda: spans("after"))
        collector.wait("after")


def test_a_collector_by_tls_is_verified_and_shown_a_certificate(tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir()
    pki = Pki.make(tmp_path / "pki")
    server, client = pki.pair("server"), pki.pair("client")
    credentials = grpc.ssl_server_credentials(
        [(server.key.read_bytes(), server.cert.read_bytes())], pki.ca.read_bytes(), require_client_auth=True
    )
    environ = {
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(pki.ca),
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(client.cert),
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(client.key),
        "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20x, broken,tenant=7",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
        "OTEL_SERVICE_NAME": "reaper",
    }
    with running_collector(credentials) as collector:
        with sending(f"https://127.0.0.1:{collector.port}", environ) as (traces, _):
            traces.put(lambda: spans("verified"))
            collector.wait("verified")
        assert told(collector) == ("Bearer x", "7", {"service.name": "reaper", "deployment.environment": "test"})


def told(collector: Collector) -> tuple[str, str, dict[str, object]]:
    return collector.headers["authorization"], collector.headers["tenant"], collector.resource


def test_names_of_processes_are_any_characters() -> None:
    with running_collector() as collector, sending(collector.endpoint) as (traces, _):
        made = spans("odd")
        made[0].attributes["process.executable.name"] = "\udcff\x1b"
        traces.put(lambda: made)
        assert attributes(collector.wait("odd").attributes)["process.executable.name"] == "\\udcff\x1b"
