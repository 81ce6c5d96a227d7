"""Metrics: names, types, help and labels against a golden file; counts; nothing imported where they are off."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mrelease_agent.telemetry.metrics import Metrics, PrometheusMetrics

GOLDEN = Path(__file__).parent / "golden" / "metrics.txt"


class Core:
    """What the gauges ask."""

    def __init__(self) -> None:
        self.states: Mapping[str, int] = {"busy": 0, "idle": 4, "stuck": 0}
        self.in_flight = 0

    def reaper_states(self) -> Mapping[str, int]:
        return self.states

    def operations(self) -> int:
        return self.in_flight


@pytest.fixture
def core() -> Core:
    return Core()


@pytest.fixture
def metrics(core: Core) -> PrometheusMetrics:
    return PrometheusMetrics(
        reaper_states=core.reaper_states,
        operations=core.operations,
        capabilities={"process_mrelease": True, "pidfd_inode": False},
        version="0.0.0-test",
    )


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def test_names_types_help_and_labels_are_the_golden_ones(metrics: PrometheusMetrics) -> None:
    """Dashboards and alerts are written against these lines. Changed on purpose? Run this with UPDATE_GOLDEN=1 and read the diff."""
    lines: list[str] = []
    for line in metrics.exposition().decode().splitlines():
        name = line.split()[2] if line.startswith("#") else line
        if name.startswith("mrelease_"):
            lines.append(line if line.startswith("#") else line.rpartition(" ")[0])
    found = "\n".join(lines) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(found)
    assert found == GOLDEN.read_text()


def test_every_count_starts_at_zero(metrics: PrometheusMetrics) -> None:
    found = samples(metrics)
    counts = [name for name in found if name[0].startswith("mrelease_") and name[0].endswith(("_total", "_count", "_sum", "_bucket"))]
    assert len(counts) > 100
    assert all(found[name] == 0 for name in counts)


def test_what_the_core_tells_is_counted(metrics: PrometheusMetrics, core: Core) -> None:
    metrics.request("KillAndRelease", "OK")
    metrics.request("KillAndRelease", "NOT_FOUND")
    metrics.outcome("KillAndRelease", "RELEASED", 1 << 30)
    metrics.outcome("Release", "EXITED", 1 << 20)
    metrics.step("release", 0.013)
    metrics.syscall_error("ESRCH")
    metrics.syscall_error("EFAULT")
    metrics.reaper_cpu(0.25)
    metrics.reaper_cpu(0.5)
    core.states, core.in_flight = {"busy": 3, "idle": 1, "stuck": 2}, 5
    found = samples(metrics)
    assert found["mrelease_requests_total", (("code", "OK"), ("method", "KillAndRelease"))] == 1
    assert found["mrelease_requests_total", (("code", "NOT_FOUND"), ("method", "KillAndRelease"))] == 1
    assert found["mrelease_outcomes_total", (("method", "KillAndRelease"), ("outcome", "RELEASED"))] == 1
    assert found["mrelease_released_bytes_total", ()] == (1 << 30) + (1 << 20)
    assert found["mrelease_step_duration_seconds_bucket", (("le", "0.01"), ("step", "release"))] == 0
    assert found["mrelease_step_duration_seconds_bucket", (("le", "0.02"), ("step", "release"))] == 1
    assert found["mrelease_process_mrelease_errors_total", (("errno", "ESRCH"),)] == 1
    assert found["mrelease_process_mrelease_errors_total", (("errno", "EFAULT"),)] == 1
    assert [found["mrelease_reaper_threads", (("state", state),)] for state in ("busy", "idle", "stuck")] == [3, 1, 2]
    assert found["mrelease_reaper_cpu_seconds_total", ()] == 0.75
    assert found["mrelease_operations_in_flight", ()] == 5
    assert found["mrelease_capability", (("feature", "process_mrelease"),)] == 1
    assert found["mrelease_capability", (("feature", "pidfd_inode"),)] == 0
    assert found["mrelease_build_info", (("version", "0.0.0-test"),)] == 1


def test_a_caller_cannot_make_new_series(metrics: PrometheusMetrics) -> None:
    before = len(samples(metrics))
    for n in range(50):
        metrics.request(f"Made{n}\nUp", f"CODE{n}")
        metrics.outcome(f"Made{n}", f"OUTCOME{n}", -1)
    found = samples(metrics)
    assert len(found) == before
    assert found["mrelease_requests_total", (("code", "other"), ("method", "other"))] == 50
    assert found["mrelease_released_bytes_total", ()] == 0


def test_node_memory_is_that_of_the_kernel(metrics: PrometheusMetrics) -> None:
    found = samples(metrics)
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    assert found["mrelease_node_memory_bytes", (("kind", "total"),)] == int(total.split()[1]) * 1024
    for kind in ("free", "available", "swap_total", "swap_free"):
        assert found["mrelease_node_memory_bytes", (("kind", kind),)] >= 0


def test_metrics_that_are_off_take_everything_and_import_nothing() -> None:
    off = Metrics()
    off.request("KillAndRelease", "OK")
    off.outcome("KillAndRelease", "RELEASED", 1)
    off.step("kill", 0.1)
    off.syscall_error("ESRCH")
    off.reaper_cpu(0.1)
    assert off.exposition() == b""
    code = "import sys, mrelease_agent.telemetry.metrics; sys.exit('prometheus_client' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
