"""While the audit log cannot be written nobody is killed, everybody who asks is told why, and it goes on by itself."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mrelease import Process, Wait, errors
from mrelease._audit_verify import verify
from support import lab, raw, scrape
from support.agent import Agent, running_agent
from support.audit_log import events, files, records, sound
from support.lab.faulty_fs import faulty_fs

SIZE = 4 * lab.MIB
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
FS_IOC_GOINGDOWN = 0x8004587D  # XFS_IOC_GOINGDOWN of every Linux file system that has it
GOING_FLAGS_NOLOGFLUSH = 2

libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def auditing(folder: Path, log: Path, *more: str) -> Generator[Agent, None, None]:
    with running_agent(folder, *scrape.FLAGS, "--log-format", "json", "--audit-dir", str(log), *more) as agent:
        yield agent


def refused(agent: Agent, victim: lab.Victim, why: str) -> None:
    """Nobody is killed, and the error says why."""
    with agent.client() as node, pytest.raises(errors.AuditUnavailable, match=why) as caught:
        node.kill_and_release(Process(victim.pid))
    assert caught.value.nothing_signalled
    assert caught.value.retry_after is not None
    assert not victim.exited(0)


def unready(agent: Agent, why: str) -> None:
    """Readiness and health say so, too, and for as long as it is so."""
    status, text = scrape.get(agent, "/readyz")
    assert (status, why in text) == (503, True), text
    assert scrape.get(agent, "/healthz")[0] == 200  # a restart would not help
    assert scrape.metric(agent, "mrelease_audit_available") == 0
    assert scrape.metric(agent, "mrelease_audit_failures_total") >= 1
    assert [health(agent, service) for service in ("", "mrelease.v1.ReleaseService", "mrelease.v1.NodeService")] == [
        NOT_SERVING,
        NOT_SERVING,
        SERVING,
    ]


def health(agent: Agent, service: str) -> int:
    with grpc.insecure_channel(agent.address, raw.OPTIONS) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # pyright: ignore[reportUnknownMemberType]
        return int(stub.Check(health_pb2.HealthCheckRequest(service=service)).status)


def serves_again(agent: Agent, victim: lab.Victim) -> None:
    lab.until(lambda: scrape.get(agent, "/readyz")[0] == 200, "the agent is ready again")
    lab.until(lambda: health(agent, "") == SERVING, "its health says so")
    with agent.client() as node:
        assert node.kill_and_release(Process(victim.pid)).is_released
    assert agent.terminate() == 0


def kill(agent: Agent) -> None:
    with agent.client() as node, lab.live(0) as other:
        assert node.kill_and_release(Process(other.pid)).is_released


@contextlib.contextmanager
def mounted(folder: Path, *arguments: str) -> Generator[Path, None, None]:
    lab.need_root("mounting")
    folder.mkdir()
    done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise lab.Unavailable(f"mounting: {done.stderr.strip()}")
    try:
        folder.chmod(0o700)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def ext4(tmp_path: Path) -> Generator[Path, None, None]:
    """A real file system on a loop device."""
    make = shutil.which("mkfs.ext4", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if make is None:
        raise lab.Unavailable("mkfs.ext4 is not installed")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(8 * lab.MIB)
    subprocess.run([make, "-q", "-F", str(image)], check=True)
    with mounted(tmp_path / "disk", "-o", "loop", str(image)) as disk:
        yield disk


def test_a_full_disk(run_dir: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=64k", "tmpfs") as disk, lab.live(SIZE) as victim:
        with auditing(run_dir, disk / "audit") as agent:
            kill(agent)
            ballast = disk / "ballast"
            fill(ballast)
            with agent.client() as node:  # what is left of the last page is soon used up
                lab.until(lambda: is_refused(node.kill_and_release), "the disk is full")
            refused(agent, victim, "no space left on device")
            unready(agent, "no space left on device")
            ballast.unlink()
            serves_again(agent, victim)
        assert len(files(disk / "audit")) == 1
        assert events(disk / "audit", "interrupted") == []
        (resumed,) = events(disk / "audit", "resumed")
        assert "no space left" in resumed["cause"]
        ended = {record["intent"] for record in events(disk / "audit", "result")}
        assert ended == {record["seq"] for record in events(disk / "audit", "intent")}
        sound(disk / "audit")


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass


def is_refused(kill_and_release: Callable[[Process], object]) -> bool:
    with lab.live(0) as other:
        try:
            kill_and_release(Process(other.pid))
        except errors.AuditUnavailable:
            return True
    return False


def test_a_file_system_that_went_read_only(run_dir: Path, tmp_path: Path) -> None:
    with ext4(tmp_path) as disk, lab.live(SIZE) as victim, auditing(run_dir, disk / "audit") as agent:
        kill(agent)
        aborted = subprocess.run(["mount", "-o", "remount,abort", str(disk)], capture_output=True, text=True, check=False)
        assert aborted.returncode == 0, aborted.stderr
        refused(agent, victim, "read-only file system")
        unready(agent, "read-only file system")


def test_a_disk_that_is_gone(run_dir: Path, tmp_path: Path) -> None:
    with ext4(tmp_path) as disk, lab.live(SIZE) as victim, auditing(run_dir, disk / "audit") as agent:
        kill(agent)
        fd = os.open(disk, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, FS_IOC_GOINGDOWN, GOING_FLAGS_NOLOGFLUSH.to_bytes(4, "little"))
        finally:
            os.close(fd)
        refused(agent, victim, "input/output error")
        unready(agent, "input/output error")


@pytest.mark.parametrize("request_name", ["FSYNC", "WRITE"])
def test_an_input_or_output_error(request_name: str, run_dir: Path) -> None:
    with faulty_fs() as disk, lab.live(SIZE) as victim:
        with auditing(run_dir, disk.path) as agent:
            kill(agent)
            disk.fault(**{request_name: errno.EIO})
            refused(agent, victim, "input/output error")
            unready(agent, "input/output error")
            disk.fault(**{request_name: None})
            serves_again(agent, victim)
        # The kernel may have marked clean what it could not write: that file is not written again.
        assert len(files(disk.path)) == 2
        assert events(disk.path, "begin")[-1]["unconfirmed"]
        sound(disk.path)


def test_a_disk_that_does_not_answer(run_dir: Path) -> None:
    with faulty_fs() as disk, lab.live(SIZE) as victim, lab.live(SIZE) as other:
        with auditing(run_dir, disk.path) as agent:
            disk.fault(FSYNC="hold")
            refused(agent, victim, "the disk does not answer")
            unready_stalled(agent)
            refused(agent, other, "the disk does not answer")
            disk.fault(FSYNC=None)
            serves_again(agent, victim)
        # What became durable too late is closed: nobody was killed because of it.
        (late, asked) = events(disk.path, "intent")
        assert {record["intent"]: record.get("error", "") for record in events(disk.path, "result")} == {
            late["seq"]: "AUDIT_UNAVAILABLE",
            asked["seq"]: "",
        }
        sound(disk.path)


def unready_stalled(agent: Agent) -> None:
    status, text = scrape.get(agent, "/readyz")
    assert (status, "the disk does not answer" in text) == (503, True), text


def remove(log: Path) -> None:
    files(log)[-1].unlink()


def truncate(log: Path) -> None:
    os.truncate(files(log)[-1], 10)


def remove_directory(log: Path) -> None:
    shutil.rmtree(log)


@pytest.mark.parametrize(("harm", "why"), [(remove, "deleted"), (truncate, "truncated"), (remove_directory, "no such file or directory")])
def test_who_touches_the_log_stops_the_next_kill_and_leaves_a_gap(
    harm: Callable[[Path], None], why: str, run_dir: Path, tmp_path: Path
) -> None:
    log = tmp_path / "audit"
    with lab.live(SIZE) as victim, auditing(run_dir, log) as agent:
        kill(agent)
        harm(log)
        refused(agent, victim, why)
        assert why in scrape.wait_event(agent, "audit log unavailable")["why"]
        serves_again(agent, victim)
    # The chain goes on in a new file: what is missing stays missing.
    assert verify(files(log)[-1:]).problems == []
    assert why in events(log, "begin")[-1]["cause"]
    assert {problem.kind for problem in verify([log]).problems} <= {"missing", "changed"}
    assert verify([log]).problems


def test_a_directory_that_others_may_read_is_not_used_until_it_is_private(run_dir: Path, tmp_path: Path) -> None:
    log = tmp_path / "audit"
    log.mkdir()
    log.chmod(0o750)
    with lab.live(SIZE) as victim, auditing(run_dir, log) as agent:
        refused(agent, victim, "others may reach it")
        unready(agent, "others may reach it")
        assert "chmod" in scrape.wait_event(agent, "audit log unavailable")["why"]
        log.chmod(0o700)
        serves_again(agent, victim)
    sound(log)


def test_denials_cannot_bury_what_was_done(run_dir: Path, tmp_path: Path) -> None:
    """Who may do nothing asks two thousand times: some of it is written, the rest is a number."""
    log, policy = tmp_path / "audit", tmp_path / "policy.yaml"
    policy.write_text("version: 1\nrules: []\n")
    small = ("--audit-max-file", "65536", "--audit-max-files", "2", "--policy", str(policy))
    with lab.live(0) as victim, auditing(run_dir, log, *small) as agent, agent.client() as node:
        for _ in range(400):
            with pytest.raises(errors.CallerNotPermitted):
                node.kill_and_release(Process(victim.pid), request_id=str(uuid.uuid4()))
        assert not victim.exited(0)
        lab.until(lambda: scrape.metric(agent, "mrelease_audit_suppressed_total") >= 370, "refusals are counted")
        assert agent.terminate() == 0
    written = events(log, "refused")
    assert 1 <= len(written) <= 30
    assert written[0]["refusal"] == "CALLER_NOT_PERMITTED"
    assert len(written) + sum(record["count"] for record in events(log, "suppressed")) == 400
    assert [record["event"] for record in records(log)][:2] == ["begin", "start"]
    assert len(files(log)) == 1
    sound(log)


def test_what_is_in_flight_ends_and_its_result_waits_for_the_disk(run_dir: Path) -> None:
    with faulty_fs() as disk, lab.live(0) as other, lab.live(SIZE) as victim, ThreadPoolExecutor(1) as pool:
        with auditing(run_dir, disk.path) as agent, agent.client() as node:
            with lab.hold_at_exit(victim) as hold:
                call = pool.submit(node.kill_and_release, Process(victim.pid), wait=Wait.EXITED, timeout=60)
                hold.wait_held()
                disk.fault(WRITE=errno.EIO)
                refused(agent, other, "input/output error")
                assert not call.done()
            result = call.result()
            assert result.is_released
            disk.fault(WRITE=None)
            lab.until(lambda: scrape.get(agent, "/readyz")[0] == 200, "the agent is ready again")
            assert agent.terminate() == 0
        (asked,), (ended,) = events(disk.path, "intent"), events(disk.path, "result")
        assert (ended["intent"], ended["verdict"]) == (asked["seq"], result.verdict.name)
        assert [record["event"] for record in records(disk.path)][-4:] == ["begin", "resumed", "result", "stop"]
        sound(disk.path)
