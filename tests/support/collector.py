"""An OpenTelemetry collector for tests: a real server of OTLP over gRPC that keeps what it is sent."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from support import lab


class Collector:
    """``codes``: with which the next calls are refused, one each. ``headers``: of the last call."""

    def __init__(self) -> None:
        self.port = 0
        self.codes: list[grpc.StatusCode] = []
        self.headers: dict[str, Any] = {}
        self.resource: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._spans: list[Span] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def spans(self) -> list[Span]:
        with self._lock:
            return list(self._spans)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def wait(self, name: str, count: int = 1) -> Span:
        """The last one of ``count`` spans of this name. Raises TimeoutError."""
        lab.until(lambda: len(self.named(name)) >= count, f"the collector has {count} spans {name}")
        return self.named(name)[count - 1]

    def children(self, parent: Span) -> dict[str, Span]:
        return {span.name: span for span in self.spans if span.parent_span_id == parent.span_id}

    def export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        with self._lock:
            if self.codes:
                context.abort(self.codes.pop(0), "not now")
            self.headers = dict(context.invocation_metadata())
            for resource in request.resource_spans:
                self.resource = attributes(resource.resource.attributes)
                for scope in resource.scope_spans:
                    self._spans += scope.spans
        return ExportTraceServiceResponse()


def attributes(of: Sequence[KeyValue]) -> dict[str, Any]:
    """Attributes of a span, an event or a resource by their names."""
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in of}


@contextlib.contextmanager
def running_collector(credentials: grpc.ServerCredentials | None = None) -> Generator[Collector, None, None]:
    """A collector on a free port of the loopback interface, by TLS with ``credentials``."""
    collector = Collector()
    handler = grpc.unary_unary_rpc_method_handler(
        collector.export, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString
    )
    service = grpc.method_handlers_generic_handler("opentelemetry.proto.collector.trace.v1.TraceService", {"Export": handler})
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((service,))
    if credentials is None:
        collector.port = server.add_insecure_port("127.0.0.1:0")
    else:
        collector.port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()
