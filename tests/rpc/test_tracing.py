"""One trace from the caller to the log, the audit log and the spans of each step; and nothing that goes wrong with it costs a release."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import uuid
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider

from mrelease import AsyncClient, Cgroup, Client, Fleet, Process, ReclaimSummary, ReleaseResult, Wait, errors, trace_context
from mrelease.v1 import release_service_pb2, target_pb2
from support import lab, raw, scrape
from support.agent import Agent, agent_command, clean_environment, running_agent
from support.audit_log import events, sound
from support.collector import Collector, attributes, running_collector
from support.lab.cgroups import in_hierarchy

SIZE = 8 * lab.MIB
CALL = "mrelease.v1.ReleaseService/KillAndRelease"


def new_trace(flags: str = "01") -> tuple[str, str, str]:
    """A trace id, a span id, and what they are as traceparent."""
    trace, span = uuid.uuid4().hex, uuid.uuid4().hex[16:]
    return trace, span, f"00-{trace}-{span}-{flags}"


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Agent, Path]]:
    """An agent that exports no spans, and its audit log."""
    folder = tmp_path_factory.mktemp("quiet")
    flags = (*scrape.FLAGS, "--log-format", "json", "--log-level", "debug", "--audit-dir", str(folder / "audit"))
    with running_agent(folder / "run", *flags) as agent:
        yield agent, folder / "audit"


@pytest.fixture(scope="module")
def collector() -> Generator[Collector]:
    with running_collector() as running:
        yield running


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Generator[Agent]:
    """An agent that exports its spans."""
    flags = (*scrape.FLAGS, "--log-format", "json", "--otlp-endpoint", collector.endpoint, "--node-name", "node7")
    with running_agent(tmp_path_factory.mktemp("traced") / "run", *flags) as agent:
        yield agent


def recorded(log: Path, trace: str) -> list[tuple[str, str]]:
    """Kind and span of the records of a trace in the audit log, once the result is there."""
    lab.until(lambda: any(each.get("trace_id") == trace for each in events(log, "result")), "the result is in the audit log")
    return [
        (each["event"], each["span_id"]) for kind in ("intent", "result") for each in events(log, kind) if each.get("trace_id") == trace
    ]


def kill(node: Client, **options: Any) -> ReleaseResult:
    with lab.live(SIZE) as victim:
        return node.kill_and_release(Process(victim.pid), **options)


def test_the_trace_of_the_caller_is_in_log_and_audit(quiet: tuple[Agent, Path]) -> None:
    agent, log = quiet
    trace, span, parent = new_trace("00")
    with agent.client() as node, trace_context(parent):
        assert kill(node).is_released
        with pytest.raises(errors.ProcessNotFound):
            node.kill_and_release(Process(4194303))
    scrape.wait_event(agent, "operation", trace_id=trace, span_id=span)
    scrape.wait_event(agent, "request", trace_id=trace, span_id=span, reason="PROCESS_NOT_FOUND")
    assert recorded(log, trace) == [("intent", span), ("result", span)]


def test_whoever_calls_by_whatever_client_is_traced(quiet: tuple[Agent, Path]) -> None:
    agent, log = quiet
    spans: dict[str, str] = {}
    tracer = TracerProvider().get_tracer(__name__)

    def by_asyncio(pid: int) -> None:
        async def main() -> None:
            async with AsyncClient(agent.address) as node:
                await node.kill_and_release(Process(pid))

        asyncio.run(main())

    def by_fleet(pid: int) -> None:
        with Fleet([agent.address]) as fleet:
            assert [answer.error for answer in fleet.kill_and_release([(agent.address, Process(pid))])] == [None]

    def by_reclaim(pid: int) -> None:
        with agent.client() as node:
            assert isinstance(list(node.reclaim([Process(pid)], released_bytes=1))[-1], ReclaimSummary)

    for name, call in {"asyncio": by_asyncio, "fleet": by_fleet, "reclaim": by_reclaim}.items():
        with lab.live(SIZE) as victim, tracer.start_as_current_span(name) as current:
            call(victim.pid)
        context = current.get_span_context()
        assert recorded(log, f"{context.trace_id:032x}") == [(kind, f"{context.span_id:016x}") for kind in ("intent", "result")]
        spans[name] = f"{context.span_id:016x}"
    assert len(set(spans.values())) == 3


def test_a_command_belongs_to_the_trace_in_which_it_was_started(quiet: tuple[Agent, Path]) -> None:
    agent, log = quiet
    trace, span, parent = new_trace()
    with lab.live(SIZE) as victim:
        command = [sys.executable, "-m", "mrelease", "--agent", agent.address, "kill", str(victim.pid), "--yes"]
        subprocess.run(command, check=True, capture_output=True, env={**clean_environment(), "TRACEPARENT": parent})
    assert recorded(log, trace) == [("intent", span), ("result", span)]


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", '00-{"msg":"forged"}-x-01')],
        [("traceparent", f"00-{'0' * 32}-{'0' * 16}-01")],
        [("traceparent", "%s" * 2000)],
        [("traceparent-bin", b"\x00\x01")],
    ],
    ids=["forged", "zero", "long", "binary"],
)
def test_who_has_a_broken_tracer_gets_memory_back_all_the_same(quiet: tuple[Agent, Path], headers: list[tuple[str, str | bytes]]) -> None:
    agent, log = quiet
    with lab.live(SIZE) as victim, grpc.insecure_channel(agent.address, raw.OPTIONS) as channel:
        target = target_pb2.Target(process=target_pb2.ProcessTarget(pid=victim.pid))
        request = release_service_pb2.KillAndReleaseRequest(target=target, request_id=str(uuid.uuid4()))
        method = channel.unary_unary(raw.KILL, release_service_pb2.KillAndReleaseRequest.SerializeToString, bytes)
        method(request, timeout=raw.PATIENCE, metadata=tuple(headers))
    scrape.wait_event(agent, "operation", pid=victim.pid)
    lab.until(lambda: any(each.get("request_id") == request.request_id for each in events(log, "result")), "the result is in the audit log")
    (found,) = [each for each in events(log, "result") if each.get("request_id") == request.request_id]
    assert "trace_id" not in found
    assert "trace_id" not in scrape.wait_event(agent, "operation", pid=victim.pid)
    assert "forged" not in agent.log
    assert "%s" not in agent.log


def test_an_operation_that_is_joined_keeps_its_trace_and_who_joins_keeps_his(quiet: tuple[Agent, Path]) -> None:
    agent, log = quiet
    (first, first_span, first_parent), (second, second_span, second_parent) = new_trace(), new_trace()
    request_id = str(uuid.uuid4())
    with lab.live(SIZE) as victim, agent.client() as node:
        for parent, replayed in ((first_parent, False), (second_parent, True)):
            with trace_context(parent):
                result = node.kill_and_release(Process(victim.pid), request_id=request_id, wait=Wait.EXITED)
                assert result.replayed is replayed
    scrape.wait_event(agent, "request", trace_id=second, span_id=second_span, method="KillAndRelease")
    assert recorded(log, first) == [("intent", first_span), ("result", first_span)]
    assert [each["trace_id"] for each in scrape.events(agent, "operation") if each["pid"] == victim.pid] == [first]
    assert not [each for each in events(log, "intent") if each.get("trace_id") == second]
    sound(log)


def took(span: Span) -> int:
    return span.end_time_unix_nano - span.start_time_unix_nano


def test_each_step_has_a_span_below_the_callers(traced: Agent, collector: Collector) -> None:
    trace, span, parent = new_trace()
    seen = len(collector.spans)
    with traced.client() as node, lab.live(SIZE) as victim, trace_context(parent, "vendor=opaque"):
        result = node.kill_and_release(Process(victim.pid), request_id=trace)
    lab.until(lambda: len([each for each in collector.spans[seen:] if each.trace_id.hex() == trace]) >= 6, "the spans have come")
    lab.until(lambda: any(each.parent_span_id.hex() == span for each in collector.spans), "the call's span has come")
    (call,) = [each for each in collector.spans if each.parent_span_id.hex() == span]
    assert (call.name, call.kind, call.trace_id.hex(), call.trace_state) == (CALL, Span.SPAN_KIND_SERVER, trace, "vendor=opaque")
    said = attributes(call.attributes)
    assert {name: said[name] for name in ("rpc.system", "rpc.service", "rpc.method", "rpc.grpc.status_code", "mrelease.caller")} == {
        "rpc.system": "grpc",
        "rpc.service": "mrelease.v1.ReleaseService",
        "rpc.method": "KillAndRelease",
        "rpc.grpc.status_code": 0,
        "mrelease.caller": said["mrelease.caller"],
    }
    (operation,) = collector.children(call).values()
    found = attributes(operation.attributes)
    process = result.processes[0]
    assert operation.name == "kill process"
    assert (found["process.pid"], found["mrelease.verdict"], found["mrelease.outcome"]) == (
        victim.pid,
        result.verdict.name,
        process.outcome.name,
    )
    assert (found["mrelease.released_bytes"], found["mrelease.request_id"]) == (result.released_bytes, trace)
    assert [event.name for event in operation.events if event.name == "memory back"]
    steps = collector.children(operation)
    assert {"resolve", "authorise", "kill", "exit", "verify"} <= set(steps) <= {"resolve", "authorise", "kill", "exit", "reap", "verify"}
    # Before the signal by one clock, after it by another one.
    for names in (("resolve", "authorise"), ("kill", "exit", "reap", "verify")):
        starts = [steps[name].start_time_unix_nano for name in names if name in steps]
        assert starts == sorted(starts)
    assert all(took(each) >= 0 for each in (call, operation, *steps.values()))
    assert sum(map(took, steps.values())) > 0
    assert collector.resource["service.name"] == "mrelease-agent"
    assert collector.resource["host.name"] == "node7"
    line = scrape.wait_event(traced, "operation", trace_id=trace)
    assert line["span_id"] == call.span_id.hex()


def test_a_victim_that_keeps_its_memory_is_red_and_says_why(traced: Agent, collector: Collector) -> None:
    trace, _, parent = new_trace()
    with traced.client() as node, lab.clone_vm_sharer(SIZE) as victim, trace_context(parent):
        assert not node.kill_and_release(Process(victim.pid), timeout=0.1).is_released
    lab.until(lambda: any(each.trace_id.hex() == trace and each.name == "kill process" for each in collector.spans), "its span has come")
    (operation,) = [each for each in collector.spans if each.trace_id.hex() == trace and each.name == "kill process"]
    assert (operation.status.code, operation.status.message) == (Status.STATUS_CODE_ERROR, "HELD")
    assert attributes(operation.attributes)["mrelease.held_cause"] == "SHARED_MM"


def test_of_many_processes_each_has_a_span(traced: Agent, collector: Collector) -> None:
    trace, _, parent = new_trace()
    with (
        lab.memory_cgroup() as group,
        lab.live(SIZE, within=[group]) as one,
        lab.live(SIZE, within=[group]) as two,
        traced.client() as node,
    ):
        with trace_context(parent):
            assert len(node.kill_and_release(Cgroup(in_hierarchy(group))).processes) == 2
        lab.until(lambda: len([each for each in collector.named("process") if each.trace_id.hex() == trace]) == 2, "the spans have come")
        (operation,) = [each for each in collector.named("kill cgroup") if each.trace_id.hex() == trace]
        processes = [each for each in collector.named("process") if each.parent_span_id == operation.span_id]
        assert {attributes(each.attributes)["process.pid"] for each in processes} == {one.pid, two.pid}
        assert attributes(operation.attributes)["mrelease.processes"] == 2
        assert all({"kill", "verify"} <= set(collector.children(each)) for each in processes)


def test_who_joins_or_watches_is_linked_to_what_he_joined(traced: Agent, collector: Collector) -> None:
    (first, first_span, first_parent), (_, second_span, second_parent), (_, third_span, third_parent) = (
        new_trace(),
        new_trace(),
        new_trace(),
    )
    request_id = str(uuid.uuid4())
    with lab.live(SIZE) as victim, lab.hold_at_exit(victim) as hold, traced.client() as node, ThreadPoolExecutor(2) as pool:

        def kill(parent: str) -> ReleaseResult:
            with trace_context(parent):
                return node.kill_and_release(Process(victim.pid), request_id=request_id, wait=Wait.EXITED, timeout=60)

        begun = pool.submit(kill, first_parent)
        hold.wait_held()
        joined = pool.submit(kill, second_parent)
        with trace_context(third_parent), contextlib.closing(node.watch_release(request_id)) as news:
            next(news)
            hold.let_go()
            assert isinstance(list(news)[-1], ReleaseResult)
        assert [begun.result().replayed, joined.result().replayed] == [False, True]
    lab.until(
        lambda: {first_span, second_span, third_span} <= {each.parent_span_id.hex() for each in collector.spans}, "the spans have come"
    )
    of = {each.parent_span_id.hex(): each for each in collector.spans}
    assert list(of[first_span].links) == []
    for span in (second_span, third_span):
        assert [(link.trace_id.hex(), link.span_id) for link in of[span].links] == [(first, of[first_span].span_id)]
        assert attributes(of[span].attributes)["mrelease.joined"] is True
        assert collector.children(of[span]) == {}


def test_the_callers_decision_whether_to_keep_a_trace_is_respected(traced: Agent, collector: Collector) -> None:
    trace, span, parent = new_trace("00")
    with traced.client() as node:
        with trace_context(parent):
            assert kill(node).is_released
            node.get_node()
        line = scrape.wait_event(traced, "operation", trace_id=trace)
        assert line["span_id"] == span  # there is no span of the agent's own
        node.get_node()  # no kill, and nobody's trace
        (root, _, parent) = new_trace()
        with trace_context(parent):
            node.get_node()
    lab.until(lambda: any(each.trace_id.hex() == root for each in collector.spans), "what came last has come")
    assert trace not in {each.trace_id.hex() for each in collector.spans}
    assert len(collector.named("mrelease.v1.NodeService/GetNode")) == 1


def test_a_kill_of_nobodys_trace_begins_one(traced: Agent, collector: Collector) -> None:
    with traced.client() as node, lab.live(SIZE) as victim:
        node.kill_and_release(Process(victim.pid))
        line = scrape.wait_event(traced, "operation", pid=victim.pid)
    lab.until(lambda: any(each.span_id.hex() == line["span_id"] for each in collector.spans), "its span has come")
    (call,) = [each for each in collector.spans if each.span_id.hex() == line["span_id"]]
    assert (call.trace_id.hex(), call.parent_span_id) == (line["trace_id"], b"")


def test_a_refusal_says_by_which_reason(traced: Agent, collector: Collector) -> None:
    trace, span, parent = new_trace()
    with traced.client() as node, trace_context(parent), pytest.raises(errors.ProcessNotFound):
        node.kill_and_release(Process(4194303))
    lab.until(lambda: any(each.parent_span_id.hex() == span for each in collector.spans), "its span has come")
    (call,) = [each for each in collector.spans if each.trace_id.hex() == trace]
    found = attributes(call.attributes)
    assert (found["error.type"], found["rpc.grpc.status_code"]) == ("PROCESS_NOT_FOUND", grpc.StatusCode.NOT_FOUND.value[0])
    assert call.status.code == Status.STATUS_CODE_UNSET  # the caller's affair, not a failure of the server


def test_a_candidate_each_has_a_span_in_the_call(traced: Agent, collector: Collector) -> None:
    _, span, parent = new_trace()
    with traced.client() as node, lab.live(SIZE) as one, lab.live(SIZE) as two, trace_context(parent):
        list(node.reclaim([Process(one.pid), Process(two.pid)], released_bytes=1 << 40))
    lab.until(lambda: any(each.parent_span_id.hex() == span for each in collector.spans), "the call's span has come")
    (call,) = [each for each in collector.spans if each.parent_span_id.hex() == span]
    killed = [attributes(each.attributes)["process.pid"] for each in collector.spans if each.parent_span_id == call.span_id]
    assert killed == [one.pid, two.pid]


def test_a_collector_that_comes_back_gets_what_waited(traced: Agent, collector: Collector) -> None:
    _, span, parent = new_trace()
    failed = scrape.metric(traced, "mrelease_traced_total", result="failed")
    collector.codes.append(grpc.StatusCode.UNAVAILABLE)
    with traced.client() as node, trace_context(parent):
        assert kill(node).is_released
    lab.until(lambda: any(each.parent_span_id.hex() == span for each in collector.spans), "it was sent once more")
    assert collector.codes == []
    assert scrape.metric(traced, "mrelease_traced_total", result="failed") == failed


def test_without_a_collector_memory_comes_back_and_the_log_says_what_is_lost(run_dir: Path) -> None:
    with running_collector() as gone:
        pass
    with running_agent(run_dir, *scrape.FLAGS, "--log-format", "json", "--otlp-endpoint", gone.endpoint) as agent, agent.client() as node:
        assert all(kill(node).is_released for _ in range(3))
        assert agent.terminate() == 0
        lost = scrape.events(agent, "spans lost")[0]
        assert (lost["level"], lost["why"]) == ("warning", "UNAVAILABLE")
        assert lost["calls"] >= 1


def test_without_its_library_the_agent_says_how_to_get_it(run_dir: Path) -> None:
    code = f"""
import runpy, sys
sys.modules["opentelemetry"] = None
sys.argv[1:] = {agent_command("--listen", f"unix://{run_dir}/agent.sock", "--otlp-endpoint", "http://127.0.0.1:4317")[3:]!r}
runpy.run_module("mrelease_agent", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=clean_environment())
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "mrelease-agent: otlp_endpoint needs opentelemetry-proto: pip install 'mrelease[otel]', or remove otlp_endpoint"
    )


def test_an_agent_that_exports_nothing_loads_nothing_for_it() -> None:
    code = "import sys, mrelease_agent.agent; print('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_exemplars_lead_from_a_metric_to_a_trace_that_somebody_keeps(quiet: tuple[Agent, Path]) -> None:
    agent, _ = quiet
    (kept, span, parent), (unkept, _, other) = new_trace(), new_trace("00")
    with agent.client() as node:
        for each in (other, parent):
            with trace_context(each):
                kill(node)
    classic, text = scrape.get(agent, "/metrics")[1], openmetrics(agent)
    assert "trace_id" not in classic
    assert classic.startswith("# HELP mrelease_requests_total ")
    assert text.endswith("# EOF\n")
    buckets = [line for line in text.splitlines() if line.startswith("mrelease_step_duration_seconds_bucket{") and 'step="total"' in line]
    exemplars = [line.partition(" # ")[2] for line in buckets if " # " in line]
    assert any(each.startswith(f'{{span_id="{span}",trace_id="{kept}"}} ') for each in exemplars)
    assert any(line.startswith("mrelease_released_bytes_total ") and kept in line for line in text.splitlines())
    assert unkept not in text


def openmetrics(agent: Agent) -> str:
    status, content_type, text = scrape.accept(agent, "/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert (status, content_type) == (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    return text


@pytest.mark.parametrize(
    "accept",
    ["", "*/*", "text/plain", "application/openmetrics-text;q=0", "application/openmetrics-text;version=9", "\x01;;,=;q", "a" * 4000],
)
def test_who_does_not_ask_for_openmetrics_gets_the_classic_format(quiet: tuple[Agent, Path], accept: str) -> None:
    status, content_type, text = scrape.accept(quiet[0], "/metrics", accept)
    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "# EOF" not in text
