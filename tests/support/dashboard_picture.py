"""Draw the dashboard as Grafana would show it: an agent at work, a Prometheus that scrapes it, and each panel's query over the time.

    PYTHONPATH=tests python -m support.dashboard_picture docs/img/dashboard.svg

Grafana itself is not needed: a panel here is its title and the lines of its queries, in its place and with its unit.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from mrelease import MreleaseError, Process
from support import lab
from support.agent import running_agent

_ROOT = Path(__file__).parents[2]
_SECONDS = 90
_SCALE = {"bytes": (1 / (1 << 30), "GiB"), "Bps": (1 / (1 << 20), "MiB/s"), "s": (1000.0, "ms"), "percentunit": (100.0, "%")}


def main() -> int:
    """Let an agent work for a while, then draw."""
    out = Path(sys.argv[1])
    dashboard = json.loads((_ROOT / "deploy/monitoring/dashboard.json").read_text())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        metrics, web = _port(), _port()
        (folder / "audit").mkdir(mode=0o700)
        job = {"job_name": "mrelease", "static_configs": [{"targets": [f"127.0.0.1:{metrics}"]}]}
        (folder / "prometheus.yml").write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
        flags = ("--http-listen", f"127.0.0.1:{metrics}", "--audit-dir", str(folder / "audit"), "--max-kills", "120")
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        with running_agent(folder / "run", *flags) as agent, (folder / "log").open("wb") as log:
            process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{web}"], stdout=log, stderr=log)
            try:
                begin = time.time()
                with agent.client() as node:
                    _work(node, begin + _SECONDS)
                _draw(dashboard, f"http://127.0.0.1:{web}", begin, time.time(), out)
            finally:
                process.terminate()
                process.wait()
    return 0


def _work(node: Any, until: float) -> None:
    """More and more victims, of several sizes, and now and then one that is not there."""
    number = 0
    while time.time() < until:
        number += 1
        with lab.live((32 << number % 5) * lab.MIB) as victim:
            try:
                node.kill_and_release(Process(victim.pid), reason="for a picture")
                if number % 4 == 0:
                    node.kill_and_release(Process(victim.pid))
            except MreleaseError:
                pass
        time.sleep(0.4 + 0.6 * (number % 7 == 0))


def _draw(dashboard: dict[str, Any], url: str, begin: float, end: float, out: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update(
        {"svg.hashsalt": "mrelease", "font.size": 7, "axes.titlesize": 8, "axes.spines.top": False, "axes.spines.right": False}
    )
    from matplotlib import pyplot as untyped

    pyplot: Any = untyped
    panels = dashboard["panels"]
    height = max(each["gridPos"]["y"] + each["gridPos"]["h"] for each in panels)
    figure = pyplot.figure(figsize=(13, height * 0.24))
    for panel in panels:
        place = panel["gridPos"]
        left, width = place["x"] / 24, place["w"] / 24
        bottom, size = 1 - (place["y"] + place["h"]) / height, place["h"] / height
        if panel["type"] == "row":
            figure.text(left + 0.01, bottom, panel["title"], fontsize=10, weight="bold")
            continue
        names = 0.06 if panel["type"] == "bargauge" else 0.0
        axes = figure.add_axes((left + 0.035 + names, bottom + 0.018, width - 0.05 - names, size - 0.04))
        _panel(axes, panel, url, begin, end)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Date": None})


def _panel(axes: Any, panel: dict[str, Any], url: str, begin: float, end: float) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    scale, word = _SCALE.get(unit, (1.0, ""))
    axes.set_title(panel["title"] + (f" ({word})" if word else ""), loc="left")
    found = [
        (_legend(target["legendFormat"], each["metric"]), each["values"])
        for target in panel["targets"]
        for each in _ask(url, target, begin, end)
    ]
    if panel["type"] == "stat":
        axes.axis("off")
        text = ", ".join(f"{float(values[-1][1]) * scale:{'.1f' if word else '.0f'}} {word or name}".strip() for name, values in found)
        axes.text(0, 0.35, text, fontsize=18, color="tab:green")
    elif panel["type"] == "bargauge":
        axes.barh([name for name, _ in found], [float(values[-1][1]) for _, values in found], color="tab:green")
    else:
        for name, values in found:
            axes.plot([float(at) - begin for at, _ in values], [float(value) * scale for _, value in values], label=name, linewidth=1)
        axes.set_xlim(0, end - begin)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.2)
        if any(name for name, _ in found):
            axes.legend(loc="best", fontsize=6, frameon=False, ncols=2)


def _ask(url: str, target: dict[str, Any], begin: float, end: float) -> list[dict[str, Any]]:
    query = target["expr"].replace("$__rate_interval", "10s").replace("$__range", f"{int(end - begin)}s").replace("$instance", ".*")
    words = urllib.parse.urlencode({"query": query, "start": begin, "end": end, "step": 1})
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{words}", timeout=30) as answer:
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return result


def _legend(template: str, labels: dict[str, str]) -> str:
    named = {**labels, "instance": "node1"}
    return "" if template == "__auto" else re.sub(r"\{\{(\w+)\}\}", lambda found: named.get(found[1], ""), template)


def _port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
