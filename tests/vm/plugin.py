"""pytest inside the machine: leaves out what deselect.txt names, and writes down what becomes of each test as it happens."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vm.deselect import left_out

RESULTS = Path("/run/job/results")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kernel = os.environ["VM_KERNEL"]
    kept: list[pytest.Item] = []
    for item in items:
        reason = left_out(item.nodeid, kernel)
        if reason is None:
            kept.append(item)
        else:
            _write(test=item.nodeid, outcome="left out", why=reason)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
    _write(total=len(items))


def pytest_runtest_logstart(nodeid: str) -> None:
    _write(begun=nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when != "call" and report.passed:
        return
    why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    _write(test=report.nodeid, outcome=report.outcome, why=why.removeprefix("Skipped: "), seconds=round(report.duration, 1))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _write(test=report.nodeid, outcome="failed", why=report.longreprtext)


def _write(**facts: object) -> None:
    with RESULTS.open("a") as results:
        results.write(json.dumps(facts) + "\n")
