"""What a running agent says over HTTP and in its log."""

from __future__ import annotations

import http.client
import json
import re
from typing import Any

from support import lab
from support.agent import Agent

#: The flags that these functions need.
FLAGS = ("--http-listen", "127.0.0.1:0")


def get(agent: Agent, path: str) -> tuple[int, str]:
    """GET a page of the agent: status and text."""
    connection = http.client.HTTPConnection("127.0.0.1", _port(agent), timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def accept(agent: Agent, path: str, formats: str) -> tuple[int, str, str]:
    """GET a page in one of these formats, an Accept header: status, content type and text."""
    connection = http.client.HTTPConnection("127.0.0.1", _port(agent), timeout=30)
    try:
        connection.request("GET", path, headers={"Accept": formats})
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type", ""), answer.read().decode()
    finally:
        connection.close()


def ask(agent: Agent, method: str, path: str, body: str) -> int:
    """Any other request; its status."""
    connection = http.client.HTTPConnection("127.0.0.1", _port(agent), timeout=30)
    try:
        connection.request(method, path, body)
        return connection.getresponse().status
    finally:
        connection.close()


def _port(agent: Agent) -> int:
    pattern = re.compile(r"serving HTTP\W.*?127\.0\.0\.1:(\d+)")
    # The log is written behind the agent's back.
    lab.until(lambda: pattern.search(agent.log) is not None, "the agent logs where it serves HTTP")
    found = pattern.search(agent.log)
    assert found
    return int(found[1])


def metric(agent: Agent, name: str, **labels: str) -> float:
    """One sample of /metrics."""
    wanted = name + ("{" + ",".join(f'{key}="{value}"' for key, value in sorted(labels.items())) + "}" if labels else "")
    for line in get(agent, "/metrics")[1].splitlines():
        sample, _, value = line.rpartition(" ")
        if sample == wanted:
            return float(value)
    raise AssertionError(f"no sample {wanted}")


def wait_metric(agent: Agent, value: float, name: str, **labels: str) -> None:
    """Wait until a sample has this value: errors are counted after they were sent. Raises TimeoutError."""
    lab.until(lambda: metric(agent, name, **labels) == value, f"{name} {labels} is {value:g}")


def events(agent: Agent, message: str) -> list[dict[str, Any]]:
    """The events with that message in the log of an agent with ``--log-format json``."""
    # A line that is being written has no end yet.
    lines = agent.log.split("\n")[:-1]
    return [event for event in map(json.loads, lines) if event["msg"] == message]


def wait_event(agent: Agent, message: str, **fields: object) -> dict[str, Any]:
    """Wait for the event with these fields. Raises TimeoutError."""

    def found() -> list[dict[str, Any]]:
        return [event for event in events(agent, message) if fields.items() <= event.items()]

    lab.until(lambda: bool(found()), f"the agent logs {message} {fields}")
    return found()[0]
