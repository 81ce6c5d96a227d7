"""Write deploy/monitoring/dashboard.json: the Grafana dashboard, from the tables below.

    .venv/bin/python scripts/dashboard.py [--check]

A dashboard of Grafana is a thousand lines of JSON that nobody reviews. What matters is a title, a query and a unit for each panel: that
is what stands here. tests/deploy/test_monitoring.py evaluates each query against a real Prometheus.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

OUT: Final = Path(__file__).resolve().parent.parent / "deploy" / "monitoring" / "dashboard.json"

#: Which agents are shown: the variable of the dashboard, as a matcher of each query.
WHERE: Final = 'instance=~"$instance"'
_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH: Final = 24


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: queries by their legends (``{{label}}``), and the unit of their values, as Grafana names units."""

    title: str
    unit: str
    queries: dict[str, str]
    says: str
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False


def _rate(metric: str, matchers: str = "") -> str:
    return f"rate({metric}{{{WHERE}{matchers}}}[$__rate_interval])"


def _quantile(quantile: float, metric: str, by: str = "", matchers: str = "") -> str:
    return f"histogram_quantile({quantile}, sum by (le{by}) ({_rate(metric + '_bucket', matchers)}))"


ROWS: Final[dict[str, list[Panel]]] = {
    "What came back": [
        Panel(
            "Memory proven back",
            "bytes",
            {"": f"sum(increase(mrelease_released_bytes_total{{{WHERE}}}[$__range]))"},
            "Anonymous memory and swap of killed processes, proven back in the time that is shown.",
            "stat",
            6,
        ),
        Panel(
            "Processes released",
            "short",
            {"": f'sum(increase(mrelease_outcomes_total{{{WHERE},outcome=~"RELEASED|EXITED"}}[$__range]))'},
            "Whose memory is proven back.",
            "stat",
            6,
        ),
        Panel(
            "Processes whose memory is held",
            "short",
            {"": f'sum(increase(mrelease_outcomes_total{{{WHERE},outcome=~"HELD|PARTIAL"}}[$__range]))'},
            "Killed, and their memory, or some of it, was not back by the deadline. More than none: docs/runbooks/memory-held.md.",
            "stat",
            6,
        ),
        Panel(
            "Agents",
            "short",
            {"{{version}}": f"count by (version) (mrelease_build_info{{{WHERE}}})"},
            "Agents that answer Prometheus, by version.",
            "stat",
            6,
        ),
        Panel(
            "Memory proven back, by agent",
            "Bps",
            {"{{instance}}": f"sum by (instance) ({_rate('mrelease_released_bytes_total')})"},
            "Bytes a second.",
            width=12,
        ),
        Panel(
            "Outcomes",
            "ops",
            {"{{outcome}}": f"sum by (outcome) ({_rate('mrelease_outcomes_total')}) > 0"},
            "Processes a second, by what became of them. docs/reference/outcomes.md says what each means.",
            width=12,
            stacked=True,
        ),
    ],
    "How fast": [
        Panel(
            "From the signal to the proof",
            "s",
            {
                "p50": _quantile(0.5, "mrelease_step_duration_seconds", matchers=',step="release"'),
                "p99": _quantile(0.99, "mrelease_step_duration_seconds", matchers=',step="release"'),
            },
            "How long the memory of a process takes to be back after SIGKILL.",
        ),
        Panel(
            "Steps, p99",
            "s",
            {"{{step}}": _quantile(0.99, "mrelease_step_duration_seconds", ", step")},
            "Each step of an operation, docs/explanation/how-it-works.md.",
        ),
        Panel(
            "Operations in flight",
            "short",
            {"{{instance}}": f"mrelease_operations_in_flight{{{WHERE}}}"},
            "Operations that have not ended.",
        ),
        Panel(
            "Calls",
            "reqps",
            {"{{method}}": f"sum by (method) ({_rate('mrelease_requests_total')})"},
            "Calls answered, by method.",
        ),
        Panel(
            "Calls that failed",
            "reqps",
            {"{{method}} {{code}}": f"""sum by (method, code) ({_rate("mrelease_requests_total", ',code!="OK"')}) > 0"""},
            "Calls answered with an error, by method and status code. PERMISSION_DENIED and NOT_FOUND are answers like others.",
        ),
        Panel(
            "CPU time of reaping",
            "percentunit",
            {"{{instance}}": f"sum by (instance) ({_rate('mrelease_reaper_cpu_seconds_total')})"},
            "The kernel frees on the time of who calls process_mrelease(2): some 0.1 s for each GiB.",
        ),
    ],
    "Is it well": [
        Panel(
            "Reaper threads",
            "short",
            {"{{state}}": f"sum by (state) (mrelease_reaper_threads{{{WHERE}}})"},
            "Stuck ones wait in the kernel for a victim's mmap_lock. docs/runbooks/reapers-stuck.md.",
            stacked=True,
        ),
        Panel(
            "Breaker: share of its limits",
            "percentunit",
            {
                "{{limit}}": f"max by (limit) (mrelease_breaker_used{{{WHERE}}} / on (instance, limit) mrelease_breaker_limit)",
                "refused {{limit}}": f"sum by (limit) ({_rate('mrelease_breaker_refusals_total')}) > 0",
            },
            "What counts in the window, as a share of each limit, and orders a second that were refused.",
        ),
        Panel(
            "Audit log: time to disk, p99",
            "s",
            {"": _quantile(0.99, "mrelease_audit_sync_seconds")},
            "Before this nothing is signalled.",
        ),
        Panel(
            "Failed process_mrelease(2) calls",
            "ops",
            {"{{errno}}": f"sum by (errno) ({_rate('mrelease_process_mrelease_errors_total')})"},
            "By errno. ESRCH: it exited by itself meanwhile; EAGAIN is tried again.",
        ),
        Panel(
            "Files that cannot be used",
            "short",
            {"{{what}} {{instance}}": f"mrelease_config_stale{{{WHERE}}}"},
            "1: what is on the disk is wrong, and older files are in force.",
        ),
        Panel(
            "Memory of the agents",
            "bytes",
            {"{{instance}}": f"process_resident_memory_bytes{{{WHERE}}} and on (instance) mrelease_build_info"},
            "Resident.",
        ),
    ],
    "The nodes": [
        Panel(
            "Memory available",
            "bytes",
            {"{{instance}}": f'mrelease_node_memory_bytes{{{WHERE},kind="available"}}'},
            "MemAvailable of each node. Context, not proof: the kernel's figure lags.",
            width=12,
        ),
        Panel(
            "What works where",
            "short",
            {"{{feature}}": f"avg by (feature) (mrelease_capability{{{WHERE}}})"},
            "Share of the agents that can do each: `mrelease doctor` says why one cannot.",
            "bargauge",
            12,
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append({"type": "row", "title": title, "gridPos": {"x": 0, "y": top, "w": _WIDTH, "h": 1}, "collapsed": False, "panels": []})
        top, left, height = top + 1, 0, 0
        for panel in row:
            if left + panel.width > _WIDTH:
                top, left, height = top + height, 0, 0
            size = 5 if panel.kind == "stat" else 8
            panels.append(_panel(panel, {"x": left, "y": top, "w": panel.width, "h": size}))
            left, height = left + panel.width, max(height, size)
        top += height
    for number, each in enumerate(panels, 1):
        each["id"] = number
    return {
        "uid": "mrelease",
        "title": "mrelease",
        "description": "What was killed, how fast its memory came back, and whether the agents are well.",
        "tags": ["mrelease", "memory"],
        "schemaVersion": 39,
        "editable": True,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
        {
            "name": "instance",
            "type": "query",
            "label": "Agent",
            "datasource": _DATASOURCE,
            "query": "label_values(mrelease_build_info, instance)",
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        },
    ]


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.kind == "timeseries":
        defaults["custom"] = {"fillOpacity": 20 if panel.stacked else 0, "stacking": {"mode": "normal" if panel.stacked else "none"}}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "gridPos": place,
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": _DATASOURCE, "expr": query, "legendFormat": legend or "__auto"}
            for number, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def main() -> int:
    """Write it; with --check say whether it is as it would be written."""
    text = json.dumps(dashboard(), indent=2) + "\n"
    if "--check" in sys.argv[1:]:
        return int(OUT.read_text(encoding="utf-8") != text)
    OUT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
