"""The examples in Go and JavaScript against a real agent: kill, follow, be refused, lose the answer, find nobody there."""

from __future__ import annotations

import re
import subprocess
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mrelease import _certificates
from support import audit_log, lab, patience
from support.examples import Called, Example
from support.relay import relay

# The first build of the Go example compiles gRPC.
pytestmark = [pytest.mark.languages, pytest.mark.timeout(600)]

SIZE = 64 * lab.MIB
PATIENCE = 60 * patience.FACTOR
LAST = re.compile(r"^(\w+) (\d+) bytes on \S+( \(by an earlier attempt\))?$")


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


class Running:
    """A program that runs beside the test; it says on standard error what it does."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.said: list[str] = []

    def await_line(self, pattern: str) -> re.Match[str]:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said.append(line)
            if found := re.search(pattern, line, re.IGNORECASE):
                return found
        raise AssertionError(f"it ended without {pattern!r}: {self.said}")

    def end(self) -> tuple[int, str]:
        out, errors = self._process.communicate(timeout=PATIENCE)
        self.said.append(errors)
        return self._process.returncode, out


@contextmanager
def running(command: list[str]) -> Generator[Running]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


def assert_all_back(status: int, out: str, said: object = "") -> re.Match[str]:
    assert status == 0, (out, said)
    last = LAST.match(out.splitlines()[-1])
    assert last, out
    assert last[1] in ("RELEASED", "EXITED")
    assert int(last[2]) >= SIZE * 0.98
    return last


def intents(called: Called, request_id: str) -> int:
    return sum(record.get("request_id") == request_id for record in audit_log.events(called.audit, "intent"))


@pytest.mark.parametrize("way", ["tls", "unix"])
def test_a_kill_is_proven(example: Example, called: Called, way: str) -> None:
    address = called.address if way == "tls" else called.certified.agent.address
    with lab.live(SIZE) as victim:
        done = run(example.calling(address, called.files(), "kill", str(victim.pid)))
        assert_all_back(done.returncode, done.stdout, done.stderr)
        assert done.stdout.startswith(f"{victim.pid} ")
        lab.until(lambda: victim.exited(0), "the victim exits")
    *_, intent = (record for record in audit_log.events(called.audit, "intent") if record["processes"][0]["pid"] == victim.pid)
    assert intent["reason"] == "a test"
    assert (intent["caller"]["name"] == "cn:killer") == (way == "tls"), "the certificate is who called"


def test_another_process_with_the_pid_is_left_alone(example: Example, called: Called) -> None:
    with lab.live(SIZE) as victim:
        done = run(example.calling(called.address, called.files(), "kill", f"{victim.pid}:1"))
        assert done.returncode == 1
        assert re.search("IDENTITY_MISMATCH|FEATURE_UNAVAILABLE", done.stderr), done.stderr
        assert not victim.exited(0)


def test_a_slow_release_is_followed_to_its_end(example: Example, called: Called) -> None:
    request_id = str(uuid.uuid4())
    with (
        lab.mmap_locked(SIZE) as victim,
        running(example.calling(called.address, called.files(), "kill", str(victim.pid), request_id=request_id)) as killing,
    ):
        assert killing.await_line(r"^request_id (\S+)")[1] == request_id
        lab.until(lambda: intents(called, request_id) == 1, "the operation has begun")
        with running(example.calling(called.address, called.files(), "watch", request_id)) as watching:
            held = watching.await_line(r"^(\d+) of (\d+) bytes held")
            assert int(held[1]) >= SIZE * 0.98
            victim.let_go()
            assert_all_back(*watching.end(), watching.said)
        assert_all_back(*killing.end(), killing.said)


def test_memory_that_stays_is_a_result_with_a_remedy(example: Example, called: Called) -> None:
    with lab.clone_vm_sharer(SIZE) as victim:
        done = run(example.calling(called.address, called.files(), "kill", str(victim.pid), deadline=4))
        assert done.returncode == 3, (done.stdout, done.stderr)
        assert "SHARED_MM, 0 bytes back\n  " in done.stdout
        assert done.stdout.splitlines()[-1].startswith("HELD 0 bytes on ")


@pytest.mark.parametrize(
    ("caller", "pid", "told"),
    [
        ("killer", "1", {"PROTECTED", "rule: init", "remedy: the agent never kills it; there is no override"}),
        ("killer", "4194305", {"INVALID_FIELD", "field: target.process.pid", "target.process.pid: "}),
        ("killer", "what", {"what", "PID:INODE"}),
        ("stranger", "1", {"CALLER_NOT_PERMITTED", "caller: ", "remedy: "}),
    ],
)
def test_a_refusal_says_why_and_what_to_do(example: Example, called: Called, caller: str, pid: str, told: set[str]) -> None:
    done = run(example.calling(called.address, called.files(caller), "kill", pid))
    assert (done.returncode, done.stdout) == (1, "")
    assert {text for text in told if text not in done.stderr} == set(), done.stderr
    assert "again in" not in done.stderr


def test_an_operation_that_nobody_knows_cannot_be_followed(example: Example, called: Called) -> None:
    done = run(example.calling(called.address, called.files(), "watch", "nonesuch"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "OPERATION_NOT_FOUND" in done.stderr
    assert "request_id: nonesuch" in done.stderr


def test_an_agent_that_comes_back_is_asked_again(example: Example, called: Called) -> None:
    with lab.live(SIZE) as victim, relay(called.address) as way:
        with running(example.calling(way.address, called.files(), "kill", str(victim.pid))) as killing:
            killing.await_line("^unavailable: ")
            killing.await_line("^again in ")
            way.open()
            last = assert_all_back(*killing.end(), killing.said)
        assert last[3] is None, "nothing had reached the agent before"


def test_a_lost_answer_is_asked_for_again_and_nothing_is_killed_twice(example: Example, called: Called) -> None:
    request_id = str(uuid.uuid4())
    with lab.mmap_locked(SIZE) as victim, relay(called.address) as way:
        way.open()
        with running(example.calling(way.address, called.files(), "kill", str(victim.pid), request_id=request_id)) as killing:
            lab.until(lambda: intents(called, request_id) == 1, "the operation has begun")
            way.cut()
            killing.await_line("^unavailable: ")
            victim.let_go()
            last = assert_all_back(*killing.end(), killing.said)
        assert last[3], "the second attempt got the result of the first"
    assert intents(called, request_id) == 1


def test_an_agent_of_another_authority_is_not_believed(example: Example, called: Called, tmp_path: Path) -> None:
    other = tmp_path / "other"
    _certificates.create_authority(other, "somebody", 1)
    with lab.live(SIZE) as victim:
        done = run(example.calling(called.address, called.files() | {"ca": other / "ca.crt"}, "kill", str(victim.pid), deadline=1))
        assert (done.returncode, done.stdout) == (1, "")
        assert not victim.exited(0)
