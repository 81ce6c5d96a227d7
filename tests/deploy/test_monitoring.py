"""What watches the agents: alerts fire for their symptoms and lead to a page, and each query of the dashboard has an answer.

The rules are tested by promtool; the queries by a real Prometheus that scrapes a real agent at work.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mrelease import Process, errors
from support import lab
from support.agent import Agent, running_agent

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import dashboard  # type: ignore[import-not-found, unused-ignore]  # noqa: E402

MONITORING = ROOT / "deploy" / "monitoring"
RULES = MONITORING / "rules.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"
#: What a page says, in this order, for somebody who was woken up.
HEADINGS = ("What it means", "What to do", "What to expect")

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None, reason="prometheus is not installed: apt install prometheus"
)


def rules() -> list[dict[str, str]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def queries() -> list[tuple[str, str]]:
    """Panel and query, as Grafana would send them for the last hour and all agents."""
    found = [(panel.title, query) for row in dashboard.ROWS.values() for panel in row for query in panel.queries.values()]
    return [(title, re.sub(r"\$__(rate_interval|range)", "1h", query).replace("$instance", ".*")) for title, query in found]


@needs_prometheus
def test_each_alert_fires_for_its_symptom_and_nothing_less() -> None:
    for words in (["check", "rules", "rules.yaml"], ["test", "rules", "rules_test.yaml"]):
        done = subprocess.run(["promtool", *words], cwd=MONITORING, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test() -> None:
    cases = yaml.safe_load((MONITORING / "rules_test.yaml").read_text())["tests"]
    fired = {test["alertname"] for case in cases for test in case.get("alert_rule_test", ()) if test["exp_alerts"]}
    assert fired == {rule["alert"] for rule in alerts()}


def test_every_alert_leads_to_a_page_that_says_what_to_do() -> None:
    pages: dict[str, list[str]] = {}
    for rule in alerts():
        pages.setdefault(rule["annotations"]["runbook_url"], []).append(rule["alert"])
    assert sorted(pages) == sorted(str(page.relative_to(ROOT)) for page in RUNBOOKS.glob("*.md") if page.name != "README.md")
    for name, names in pages.items():
        text = (ROOT / name).read_text()
        assert all(f"`{alert}`" in text for alert in names), name
        assert tuple(re.findall(r"^## (.*)$", text, re.MULTILINE)) == HEADINGS, name
        assert f"({Path(name).name})" in (RUNBOOKS / "README.md").read_text()


def test_in_a_cluster_alerts_link_to_where_the_pages_are_published() -> None:
    rendered = (ROOT / "tests/deploy/golden/all.yaml").read_text()  # a test compares it with the chart
    found = re.findall(r"runbook_url: (\S+)", rendered)
    assert found == [f"https://docs.example/runbooks/{Path(rule['annotations']['runbook_url']).name}" for rule in alerts()]


def test_alerts_and_panels_ask_for_metrics_that_there_are() -> None:
    known = set(re.findall(r"^\| `(\w+)`", (ROOT / "docs/reference/metrics.md").read_text(), re.MULTILINE))
    known |= {f"{name}_{part}" for name in known if name.endswith("_seconds") for part in ("bucket", "count", "sum")}
    known |= {"kube_daemonset_status_number_unavailable", "mrelease"}
    for text in [rule["expr"] for rule in rules()] + [query for _, query in queries()]:
        names = re.sub(r'"[^"]*"', "", text)
        assert set(re.findall(r"\b((?:mrelease|process|kube)_\w+)", names)) <= known, text


def test_what_is_committed_follows_from_the_tables() -> None:
    assert dashboard.OUT.read_text() == json.dumps(dashboard.dashboard(), indent=2) + "\n", "run scripts/dashboard.py"


class Prometheus:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, **parameters: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, text: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("query", query=text)["result"]
        return found

    def value(self, text: str) -> float:
        try:
            return sum(float(each["value"][1]) for each in self.query(text))
        except (urllib.error.URLError, ConnectionError):
            return 0.0  # it is starting


@pytest.fixture
def busy(tmp_path: Path) -> Generator[tuple[Agent, Prometheus]]:
    """An agent, and a Prometheus that has scraped it before anything happened."""
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        metrics, web = one.getsockname()[1], two.getsockname()[1]
    (tmp_path / "audit").mkdir(mode=0o700)
    flags = ("--http-listen", f"127.0.0.1:{metrics}", "--audit-dir", str(tmp_path / "audit"), "--max-kills", "3")
    (tmp_path / "prometheus.yml").write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(RULES)],
                "scrape_configs": [{"job_name": "mrelease", "static_configs": [{"targets": [f"127.0.0.1:{metrics}"]}]}],
            }
        )
    )
    with running_agent(tmp_path / "run", *flags) as agent, (tmp_path / "log").open("wb") as log:
        command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{web}"], stdout=log, stderr=log)
        try:
            prometheus = Prometheus(web)
            lab.until(lambda: prometheus.value("count(mrelease_build_info)") == 1, "Prometheus has scraped the agent")
            yield agent, prometheus
        finally:
            process.terminate()
            process.wait(30)


@needs_prometheus
def test_every_query_of_the_dashboard_and_every_rule_has_an_answer(busy: tuple[Agent, Prometheus]) -> None:
    agent, prometheus = busy
    with agent.client() as node:
        for _ in range(3):
            with lab.live(8 * lab.MIB) as victim:
                node.kill_and_release(Process(victim.pid))
        with lab.live() as spared, pytest.raises(errors.KillLimit):
            node.kill_and_release(Process(spared.pid))
    lab.until(lambda: prometheus.value("sum(mrelease_breaker_refusals_total)") == 1, "Prometheus has scraped what happened")
    unanswered = {title for title, query in queries() if not prometheus.query(query)}
    assert unanswered == set()
    assert prometheus.value(f"{dict(queries())['Memory proven back']}") > 0
    lab.until(lambda: all(prometheus.query(rule["record"]) for rule in rules() if "record" in rule), "each record has been recorded")
    groups = prometheus.ask("rules")["groups"]
    assert [rule["name"] for group in groups for rule in group["rules"] if rule["health"] not in ("ok", "unknown")] == []
