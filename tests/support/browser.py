"""A real browser without a window: Debian's chromium, driven by the Chrome DevTools Protocol."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from support import lab, patience
from support.lab import Unavailable

PATIENCE = 60.0 * patience.FACTOR
#: As root there is no sandbox; what it opens here is what the tests made.
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run",
         "--remote-debugging-port=0")  # fmt: skip


class Tab:
    """One page of the browser. What it asks for and complains about is in ``problems``, ``requests``, since the last ``open``."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._loaded = False
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._statuses: dict[str, int] = {}
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.tell(f"{domain}.enable")

    def open(self, address: str) -> int:
        """Load a page wholly; returns its HTTP status, 0 for a file."""
        self.problems, self.requests, self._statuses, self._loaded = [], [], {}, False
        failed = self.tell("Page.navigate", url=address).get("errorText")
        assert not failed, f"{address}: {failed}"
        while not self._loaded:
            self._read()
        return self._statuses.get(address.partition("#")[0], 0)

    def resize(self, width: int, height: int = 900) -> None:
        """What the page has to fit into, in CSS pixels. Not as a telephone does it: that makes room for what is too wide."""
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, scheme: str) -> None:
        """``light`` or ``dark``, as the system's setting would."""
        self.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def tell(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol, and its answer."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._connection.recv(timeout=PATIENCE))
        params = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Network.responseReceived":
                self._statuses[params["response"]["url"]] = params["response"]["status"]
                if params["response"]["status"] >= 400 and params["type"] != "Document":
                    self.problems.append(f"{params['response']['status']} {params['response']['url']}")
            case "Network.loadingFailed" if not params.get("canceled"):
                self.problems.append(f"{params['errorText']} {params.get('type')}")
            case "Runtime.exceptionThrown":
                self.problems.append(params["exceptionDetails"]["text"])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert"):
                self.problems.append(str([each.get("value") for each in params["args"]]))
            case "Log.entryAdded" if params["entry"]["level"] == "error" and params["entry"]["source"] != "network":
                self.problems.append(params["entry"]["text"])
            case _:
                pass
        return message


@contextlib.contextmanager
def browsing() -> Generator[Tab, None, None]:
    """A browser with an empty profile and one tab; it ends with the block. ``Unavailable`` where there is none."""
    program = shutil.which("chromium")
    if program is None:
        raise Unavailable("no chromium: apt install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        environment = {**os.environ, "HOME": profile, "XDG_CONFIG_HOME": profile, "XDG_CACHE_HOME": profile}
        command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with connect(_tab(profile, running), max_size=None, proxy=None) as connection:
                yield Tab(connection)
        finally:
            running.terminate()
            running.wait(PATIENCE)


def _tab(profile: str, running: subprocess.Popen[bytes]) -> str:
    """The address at which the tab is driven: the browser writes its port where its profile is."""
    said = Path(profile, "DevToolsActivePort")
    lab.until(lambda: running.poll() is not None or (said.exists() and "\n" in said.read_text()), "the port of the browser", PATIENCE)
    assert running.poll() is None, f"chromium ended with {running.returncode}"
    port = int(said.read_text().splitlines()[0])
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def tabs() -> list[str]:
        with opener.open(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE) as answer:
            return [each["webSocketDebuggerUrl"] for each in json.loads(answer.read()) if each["type"] == "page"]

    lab.until(lambda: bool(tabs()), "a tab of the browser", PATIENCE)
    return tabs()[0]
