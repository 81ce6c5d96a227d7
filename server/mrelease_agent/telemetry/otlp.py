"""Sends spans to an OpenTelemetry collector, OTLP over gRPC. Its library is the extra `otel`; nothing of this is imported where it is off.

Not the OpenTelemetry SDK: that takes 10 MiB where the protocol alone takes 3, drops spans without counting them, and waits up to 30 s for
a collector when the agent ends. What is sent here waits in a bounded queue; what does not fit in, or cannot be delivered within some
seconds, is dropped and counted, and no release ever waits.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from mrelease_agent.telemetry.logs import event
from mrelease_agent.telemetry.metrics import Metrics
from mrelease_agent.telemetry.spans import SERVER, Attributes, Span, Traces

_log = logging.getLogger("mrelease")
#: Calls and operations that wait at most.
QUEUE: Final = 1024
#: As many are sent at once at most.
_BATCH: Final = 256
#: Spans of one request, of some 500 bytes each: a collector takes 4 MiB.
_REQUEST: Final = 1024
#: Seconds for which more are waited for before the first one is sent.
_GATHER: Final = 0.2
#: Seconds that one attempt may take, and after which no further one is made for the same spans; pauses between attempts.
_ATTEMPT: Final = 5.0
_PATIENCE: Final = 10.0
_PAUSES: Final = (0.5, 1.0, 2.0, 4.0)
#: Seconds that the end of the agent waits for the collector.
_LAST_WAIT: Final = 1.0
#: Seconds between two lines about lost spans.
_QUIET: Final = 60.0
_EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
#: Trying again may help, https://opentelemetry.io/docs/specs/otlp/#failures.
_RETRYABLE: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_OPTIONS: Final = (("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))

_Queued = Callable[[], list[Span]]


class Otlp(Traces):
    """Sends to ``endpoint``, ``http://host:port`` or ``https://host:port``, from construction to ``close``.

    ``environ``: of the variables of OpenTelemetry it reads OTEL_EXPORTER_OTLP_HEADERS, _CERTIFICATE, _CLIENT_CERTIFICATE and _CLIENT_KEY,
    OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME. ``resource`` says which agent it is. Raises OSError for files that cannot be read.
    """

    on = True

    def __init__(self, endpoint: str, environ: Mapping[str, str], resource: Attributes, version: str, metrics: Metrics) -> None:
        url = urlsplit(endpoint)
        self._target = url.netloc
        self._credentials = _credentials(environ) if url.scheme == "https" else None
        self._headers = tuple(_pairs(environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""), lower=True).items())
        named = {"service.name": environ["OTEL_SERVICE_NAME"]} if environ.get("OTEL_SERVICE_NAME") else {}
        self._resource = Resource(attributes=_values({**resource, **_pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES", "")), **named}))
        self._scope = InstrumentationScope(name="mrelease-agent", version=version)
        self._metrics = metrics
        self._queue: queue.Queue[_Queued] = queue.Queue(QUEUE)
        self._closing = threading.Event()
        self._lost = 0
        self._said = -_QUIET
        self._thread = threading.Thread(target=self._work, name="otlp", daemon=True)
        self._thread.start()

    def put(self, spans: _Queued) -> None:
        """Have these sent, or drop them where too many wait."""
        try:
            self._queue.put_nowait(spans)
        except queue.Full:
            self._metrics.traced("dropped", 1)

    def close(self) -> None:
        """Send what waits, for a second at most, and end."""
        self._closing.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(list)  # wakes the thread
        self._thread.join(2 * _LAST_WAIT)

    def _work(self) -> None:
        with self._channel() as channel:
            export: Any = channel.unary_unary(_EXPORT, ExportTraceServiceRequest.SerializeToString, ExportTraceServiceResponse.FromString)
            while not (self._closing.is_set() and self._queue.empty()):
                batch = self._take()
                try:
                    why = self._send_all(export, [span for each in batch for span in each()])
                except Exception:
                    # A defect of ours: the next ones are tried all the same.
                    _log.exception("spans could not be made")
                    why = "a defect"
                count = sum(each is not list for each in batch)
                self._metrics.traced("failed" if why else "sent", count)
                if why:
                    self._tell(count, why)

    def _channel(self) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(self._target, options=_OPTIONS)
        return grpc.secure_channel(self._target, self._credentials, options=_OPTIONS)

    def _take(self) -> list[_Queued]:
        """Wait for something to send, and a moment for what comes with it."""
        batch = [self._queue.get()]
        until = time.monotonic() + _GATHER
        while len(batch) < _BATCH:
            left = 0.0 if self._closing.is_set() else until - time.monotonic()
            try:
                batch.append(self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait())
            except queue.Empty:
                break
        return batch

    def _send_all(self, export: Any, spans: Sequence[Span]) -> str:
        """Send spans, in requests of a size that every collector takes; why some are lost, empty where none is."""
        for start in range(0, len(spans), _REQUEST):
            why = self._send(export, spans[start : start + _REQUEST])
            if why:
                return why
        return ""

    def _send(self, export: Any, spans: Sequence[Span]) -> str:
        """Send spans; why they are lost, empty where they are not."""
        request = self._request(spans)
        until = time.monotonic() + _PATIENCE
        for pause in (*_PAUSES, None):
            try:
                answer = export(request, timeout=_LAST_WAIT if self._closing.is_set() else _ATTEMPT, metadata=self._headers)
            except grpc.RpcError as error:  # noqa: PERF203 - an attempt takes longer
                code: grpc.StatusCode = error.code()
                over = pause is None or time.monotonic() + pause > until or self._closing.is_set()
                if code not in _RETRYABLE or over or self._closing.wait(pause):
                    return code.name
            else:
                return "the collector rejected some" if answer.partial_success.rejected_spans else ""
        raise AssertionError("the last attempt returns")

    def _request(self, spans: Sequence[Span]) -> ExportTraceServiceRequest:
        scope = trace_pb2.ScopeSpans(scope=self._scope, spans=map(_encoded, spans))
        return ExportTraceServiceRequest(resource_spans=[trace_pb2.ResourceSpans(resource=self._resource, scope_spans=[scope])])

    def _tell(self, count: int, why: str) -> None:
        self._lost += count
        now = time.monotonic()
        if now - self._said >= _QUIET:
            self._said = now
            remedy = "see that the collector of otlp_endpoint listens and accepts OTLP over gRPC; releases are not affected"
            event(_log, logging.WARNING, "spans lost", calls=self._lost, why=why, remedy=remedy)
            self._lost = 0


def _credentials(environ: Mapping[str, str]) -> grpc.ChannelCredentials:
    def read(name: str) -> bytes | None:
        path = environ.get(f"OTEL_EXPORTER_OTLP_{name}")
        return Path(path).read_bytes() if path else None

    return grpc.ssl_channel_credentials(read("CERTIFICATE"), read("CLIENT_KEY"), read("CLIENT_CERTIFICATE"))


def _pairs(text: str, *, lower: bool = False) -> dict[str, str]:
    """``key=value,key=value`` with percent-encoded values, as the variables of OpenTelemetry have them; anything else is left out."""
    found: dict[str, str] = {}
    for each in text.split(","):
        key, equals, value = each.partition("=")
        if equals and key.strip():
            found[key.strip().lower() if lower else key.strip()] = unquote(value.strip())
    return found


def _encoded(span: Span) -> trace_pb2.Span:
    events = [trace_pb2.Span.Event(time_unix_nano=time, name=name, attributes=_values(of)) for name, time, of in span.events]
    made = trace_pb2.Span(
        trace_id=bytes.fromhex(span.trace.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=bytes.fromhex(span.parent_id),
        trace_state=span.trace.state,
        flags=1,  # sampled: no other ones are made
        name=span.name,
        kind=trace_pb2.Span.SpanKind.SPAN_KIND_SERVER if span.kind == SERVER else trace_pb2.Span.SpanKind.SPAN_KIND_INTERNAL,
        start_time_unix_nano=span.start,
        end_time_unix_nano=span.end,
        attributes=_values(span.attributes),
        events=events,
    )
    if span.link is not None:
        made.links.add(trace_id=bytes.fromhex(span.link.trace_id), span_id=bytes.fromhex(span.link.span_id), trace_state=span.link.state)
    if span.error:
        made.status.code = trace_pb2.Status.StatusCode.STATUS_CODE_ERROR
        made.status.message = span.error
    return made


def _values(attributes: Attributes) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in attributes.items()]


def _value(value: object) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    # Names of processes are any bytes; protobuf's texts are not.
    return AnyValue(string_value=str(value).encode("utf-8", "backslashreplace").decode())
