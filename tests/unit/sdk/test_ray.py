"""References of Ray, and dashboards that answer what no dashboard should: those are made here, for Ray gives no such answers.

Ray itself: tests/plugins/ray.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from mrelease.errors import (
    InvalidReference,
    NotPlaced,
    OrchestratorDenied,
    OrchestratorUnavailable,
    ReferenceAmbiguous,
    ReferenceNotFound,
    ResolutionError,
)
from mrelease.resolvers.ray import Api, Ray, RayName
from mrelease.resolvers.ray._api import token

ACTOR, WORKER, TASK, NODE = "a" * 32, "b" * 56, "c" * 48, "d" * 56


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        (f"ray://head:8265/actor/{ACTOR}", RayName("head:8265", "actor", ACTOR)),
        ("ray://auto/actor/my%20actor?namespace=", RayName("auto", "actor", "my actor", namespace="")),
        (f"ray://[::1]:8265/task/{TASK}?attempt=2", RayName("[::1]:8265", "task", TASK, attempt=2)),
        (f"ray://head/worker/{WORKER}?container={'e' * 64}", RayName("head", "worker", WORKER, container="e" * 64)),
        ("ray://head/node/10.0.0.7/4711?node=n7", RayName("head", "pid", "4711", node="10.0.0.7", agent_node="n7")),
    ],
)
def test_references(ref: str, name: RayName) -> None:
    assert RayName.of(ref) == name


@pytest.mark.parametrize(
    "ref",
    [
        "ray://head", "ray://head/actor", "ray://head/actor/a/b", "ray://head/job/1", f"k8s://head/actor/{ACTOR}", "ray://head/worker/123",
        f"ray://head/task/{TASK.upper()}", "ray://head/node/n/0", "ray://head/node/n/-1", "ray://head/node/n/٣", "ray://head/node/n",
        f"ray://user@head/actor/{ACTOR}", f"ray://head:99999/actor/{ACTOR}", f"ray://he%20ad/actor/{ACTOR}", "ray://head/actor/a?attempt=1",
        f"ray://head/actor/{ACTOR}?namespace=x", f"ray://head/task/{TASK}?attempt=first", "ray://head/actor/a?container=../..",
        "ray://head/actor/a?node=", "ray://head/actor/a?container=",
    ],
)  # fmt: skip
def test_what_is_no_reference(ref: str) -> None:
    with pytest.raises(InvalidReference):
        RayName.of(ref)


def test_the_token_is_the_one_that_ray_would_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "own"
    file.write_text("of-the-file\n")
    assert token({}) == ""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of-the-home\n")
    assert token({}) == "of-the-home"
    assert token({"RAY_AUTH_TOKEN_PATH": str(file)}) == "of-the-file"
    assert token({"RAY_AUTH_TOKEN_PATH": str(file), "RAY_AUTH_TOKEN": " given "}) == "given"
    assert token({"RAY_AUTH_TOKEN": "given", "RAY_AUTH_MODE": "disabled"}) == ""
    for wrong in ({"RAY_AUTH_TOKEN": "a\r\nX-Header: b"}, {"RAY_AUTH_TOKEN": "é"}, {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "missing")}):
        with pytest.raises(OrchestratorDenied) as denied:
            token(wrong)
        assert "X-Header" not in str(denied.value)


@pytest.mark.parametrize(
    ("environment", "title"),
    [
        ({}, "127.0.0.1:8265"),
        ({"RAY_ADDRESS": "head:6379"}, "127.0.0.1:8265"),
        ({"RAY_ADDRESS": "http://localhost:8000"}, "localhost:8000"),
        ({"RAY_ADDRESS": "http://localhost:8000", "RAY_API_SERVER_ADDRESS": "https://127.0.0.1"}, "127.0.0.1:443"),
        ({"RAY_API_SERVER_ADDRESS": "api"}, "api:8265"),
    ],
)
def test_auto_is_the_dashboard_of_the_environment(environment: dict[str, str], title: str) -> None:
    assert Api("auto", {"RAY_AUTH_MODE": "disabled", **environment}).title == f"Ray's dashboard at {title}"


@pytest.mark.parametrize("address", ["ftp://head", "http://", "http://localhost:x", "http://localhost/path", "http://a:b@localhost"])
def test_addresses_that_name_no_dashboard(address: str) -> None:
    with pytest.raises(InvalidReference, match="RAY_API_SERVER_ADDRESS"):
        Api("auto", {"RAY_API_SERVER_ADDRESS": address, "RAY_AUTH_MODE": "disabled"})


@contextlib.contextmanager
def dashboard(*bodies: bytes, status: int = 200, location: str = "") -> Generator[str]:
    """``ray://HOST:PORT`` of one that gives these answers, the last one for ever."""
    answers = list(bodies)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its name there
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"ray://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def table(*rows: Any, **more: Any) -> bytes:
    return json.dumps({"result": True, "msg": "", "data": {"result": {"result": list(rows), **more}}}).encode()


def resolve(ref: str) -> list[Any]:
    return list(Ray(environment={"RAY_AUTH_MODE": "disabled"}).resolve(ref, 10))


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", OrchestratorUnavailable),
        (b"<html>", OrchestratorUnavailable),
        (b"[" * 100_000, OrchestratorUnavailable),
        (b"[]", OrchestratorUnavailable),
        (b"{}", OrchestratorUnavailable),
        (b'{"result": false, "msg": "GCS is gone\\u001b[2J"}', OrchestratorUnavailable),
        (b'{"result": true, "data": {"result": {"result": 7}}}', OrchestratorUnavailable),
        (table(partial_failure_warning="one raylet did not answer"), OrchestratorUnavailable),
        (table(), ReferenceNotFound),
        (table(7), NotPlaced),
        (table({"state": "ALIVE", "pid": "4711", "node_id": NODE}), OrchestratorUnavailable),
        (table({"state": "ALIVE", "pid": True, "node_id": NODE}), OrchestratorUnavailable),
        (table({"state": "ALIVE", "pid": 0, "node_id": NODE}), NotPlaced),
        (table({"state": "ALIVE", "pid": -1, "node_id": NODE}), NotPlaced),
        (table({"state": "ALIVE", "pid": 4711, "node_id": ["x"]}), NotPlaced),
        (table({"state": "DEPENDENCIES_UNREADY"}), NotPlaced),
        (table({"state": "RESTARTING", "pid": 4711, "node_id": NODE}), NotPlaced),
    ],
)
def test_an_answer_that_is_none(body: bytes, error: type[ResolutionError]) -> None:
    with dashboard(body) as address, pytest.raises(error) as raised:
        resolve(f"{address}/actor/{ACTOR}")
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "rows",
    [
        [{"state": "ALIVE", "ray_namespace": "a"}, {"state": "ALIVE", "ray_namespace": "b"}],
        [{"state": "DEAD", "ray_namespace": "a"}, {"state": "DEAD", "ray_namespace": "a"}],
    ],
)
def test_a_name_of_several_actors_is_ambiguous(rows: list[dict[str, str]]) -> None:
    with dashboard(table(*rows)) as address, pytest.raises(ReferenceAmbiguous):
        resolve(f"{address}/actor/name")


@pytest.mark.parametrize(("state", "error"), [("FINISHED", NotPlaced), ("FAILED", NotPlaced), ("PENDING_NODE_ASSIGNMENT", NotPlaced)])
def test_the_worker_of_a_task_that_is_over_is_not_the_tasks(state: str, error: type[ResolutionError]) -> None:
    row = {"state": state, "attempt_number": 0, "node_id": NODE, "worker_pid": 4711 if state in ("FINISHED", "FAILED") else None}
    with dashboard(table(row)) as address, pytest.raises(error):
        resolve(f"{address}/task/{TASK}")


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, OrchestratorDenied), (403, OrchestratorDenied), (404, OrchestratorUnavailable), (500, OrchestratorUnavailable)],
)
def test_statuses(status: int, error: type[ResolutionError]) -> None:
    with dashboard(b"no", status=status) as address, pytest.raises(error):
        resolve(f"{address}/actor/{ACTOR}")


def test_a_token_is_not_taken_elsewhere_by_a_redirect() -> None:
    with dashboard(table({"state": "DEPENDENCIES_UNREADY"})) as other:
        elsewhere = other.replace("ray:", "http:") + "/api/v0/actors"
        with dashboard(b"", status=302, location=elsewhere) as address, pytest.raises(OrchestratorUnavailable, match="status 302"):
            resolve(f"{address}/actor/{ACTOR}")


def test_without_time_nobody_is_asked() -> None:
    with pytest.raises(OrchestratorUnavailable, match="time was over"):
        Api("127.0.0.1:1", {"RAY_AUTH_MODE": "disabled"}).rows("actors", time.monotonic() - 1)
