"""A real Prometheus takes the exemplars of a real agent: from a slow release in a panel to its trace."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from mrelease import Process, trace_context
from support import lab
from support.agent import running_agent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed: apt install prometheus")
def test_prometheus_leads_from_a_bucket_to_the_trace(tmp_path: Path) -> None:
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        metrics, web = one.getsockname()[1], two.getsockname()[1]
    scrape = {"job_name": "mrelease", "static_configs": [{"targets": [f"127.0.0.1:{metrics}"]}]}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}))

    def exemplars() -> list[dict[str, Any]]:
        asked = {"query": 'mrelease_step_duration_seconds_bucket{step="total"}', "start": "0", "end": "9999999999"}
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{web}/api/v1/query_exemplars?{urllib.parse.urlencode(asked)}") as answer:
                return [found for series in json.load(answer)["data"] for found in series["exemplars"]]
        except (urllib.error.URLError, ConnectionError):
            return []  # it is starting

    with running_agent(tmp_path / "run", "--http-listen", f"127.0.0.1:{metrics}") as agent, (tmp_path / "log").open("wb") as log:
        with agent.client() as node, lab.live(8 * lab.MIB) as victim, trace_context(f"00-{TRACE}-{SPAN}-01"):
            node.kill_and_release(Process(victim.pid))
        flags = [
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{web}",
        ]
        process = subprocess.Popen(["prometheus", *flags, "--enable-feature=exemplar-storage"], stdout=log, stderr=log)
        try:
            lab.until(lambda: bool(exemplars()), "Prometheus has the exemplar")
            assert [found["labels"] for found in exemplars()] == [{"trace_id": TRACE, "span_id": SPAN}]
        finally:
            process.terminate()
            process.wait(30)
