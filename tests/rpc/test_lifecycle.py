"""An agent starts, is found, is told to stop, and leaves nothing behind; who is on its socket before it stays there."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from mrelease import Client, Outcome, Process, Wait, errors
from support import lab, raw, scrape
from support.agent import Agent, agent_command, await_ready, clean_environment, notify_socket, running_agent

START = 30.0
SIZE = 16 * lab.MIB


def run_agent(*flags: str) -> subprocess.CompletedProcess[str]:
    """Run an agent that is expected to end by itself."""
    return subprocess.run(agent_command(*flags), capture_output=True, text=True, timeout=START, env=clean_environment(), check=False)


def serves(agent: Agent) -> bool:
    with raw.caller(agent.address) as call:
        return call(raw.HEALTH, b"").body == raw.SERVING


def test_a_second_agent_on_a_live_socket_names_the_first_and_ends(run_dir: Path) -> None:
    with running_agent(run_dir) as first:
        second = run_agent("--listen", first.address)
        assert second.returncode == 1
        assert f"pid {first.pid}" in second.stderr
        assert "Traceback" not in second.stderr
        assert serves(first)


def test_the_socket_of_a_killed_agent_is_replaced(run_dir: Path, tmp_path: Path) -> None:
    with running_agent(run_dir) as first:
        first.process.kill()
        first.process.wait(START)
        assert stat.S_ISSOCK(first.path.stat().st_mode)
        with running_agent(tmp_path / "second", "--listen", first.address) as second:
            assert second.pid != first.pid
            assert serves(first)


def test_only_its_user_reaches_the_socket(tmp_path: Path) -> None:
    folder = tmp_path / "made-by-the-agent"
    with running_agent(tmp_path / "run", "--listen", f"unix://{folder}/agent.sock"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "agent.sock").stat().st_mode) == 0o600


def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o755)
    ended = run_agent("--listen", f"unix://{folder}/agent.sock")
    assert ended.returncode == 1
    assert "chmod 700" in ended.stderr
    assert not (folder / "agent.sock").exists()


def test_tcp_needs_the_flag(run_dir: Path) -> None:
    refused = run_agent("--listen", "tcp://127.0.0.1:0")
    assert refused.returncode == 2
    assert "allow_plaintext_loopback" in refused.stderr.replace("-", "_")
    with running_agent(run_dir, "--listen", "tcp://127.0.0.1:0", "--allow-plaintext-loopback") as agent:
        lab.until(lambda: "listen=tcp" in agent.log, "the agent logs where it listens")
        found = re.search(r"listen=tcp://(127\.0\.0\.1:\d+) ", agent.log)
        assert found, agent.log
        with Client(found[1]) as node:
            assert node.get_node().identity.name


def test_tcp_beyond_loopback_is_refused() -> None:
    for listen in ("tcp://0.0.0.0:0", "tcp://[::]:0", "tcp://192.0.2.1:7443"):
        refused = run_agent("--listen", listen, "--allow-plaintext-loopback")
        assert refused.returncode != 0
        assert "loopback" in refused.stderr


def test_wrong_configuration_ends_with_2_and_the_nearest_key() -> None:
    refused = run_agent("--reap-dealy", "5ms")
    assert refused.returncode == 2
    assert "reap-delay" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_tells_systemd_and_ends_with_0(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    with notify_socket(folder / "notify") as notify, (folder / "log").open("wb") as log:
        notify.settimeout(START)
        process = subprocess.Popen(
            agent_command("--listen", f"unix://{folder}/agent.sock"),
            stderr=log,
            env={**clean_environment(), "NOTIFY_SOCKET": str(folder / "notify")},
        )
        try:
            await_ready(Agent(f"unix://{folder}/agent.sock", process, folder / "log"), notify)
            process.send_signal(number)
            assert notify.recv(4096) == b"STOPPING=1"
            assert process.wait(START) == 0
        finally:
            process.kill()
            process.wait()
    assert not (folder / "agent.sock").exists()


def test_sigterm_drains(run_dir: Path) -> None:
    """What is in flight gets its answer, what comes then is refused, and the agent ends with 0."""
    with running_agent(run_dir, *scrape.FLAGS) as agent, agent.client() as node, ThreadPoolExecutor() as pool:
        with lab.live(SIZE) as victim, lab.hold_at_exit(victim) as hold, lab.live(SIZE) as other:
            assert scrape.get(agent, "/readyz")[0] == 200
            flying = pool.submit(node.kill_and_release, Process(victim.pid), wait=Wait.EXITED, timeout=30)
            hold.wait_held()
            agent.process.send_signal(signal.SIGTERM)
            lab.until(lambda: scrape.get(agent, "/readyz")[0] == 503, "the agent drains")
            assert scrape.get(agent, "/readyz")[1] == "draining\n"
            assert scrape.get(agent, "/healthz")[0] == 200
            with pytest.raises(errors.ShuttingDown) as caught:
                node.kill_and_release(Process(other.pid))
            assert caught.value.nothing_signalled
            assert caught.value.retry_after
            with raw.caller(agent.address) as call:
                answer = call(raw.KILL, raw.process(other.pid))
                raw.assert_refused(answer, grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
                assert call(raw.HEALTH, b"").body != raw.SERVING
            assert not other.exited(0)
            hold.let_go()
            (process,) = flying.result(START).processes
            # Let go, it may have been quicker than the reaper.
            assert process.outcome in (Outcome.RELEASED, Outcome.EXITED)
            assert process.exit_duration is not None
        assert agent.process.wait(START) == 0
        assert not agent.path.exists()
        with pytest.raises(errors.Unreachable):
            node.kill_and_release(Process(os.getpid()))


def test_draining_ends_at_its_timeout(run_dir: Path) -> None:
    with (
        running_agent(run_dir, "--drain-timeout", "50ms") as agent,
        agent.client() as node,
        ThreadPoolExecutor() as pool,
        lab.live(SIZE) as victim,
        lab.hold_at_exit(victim) as hold,
    ):
        flying = pool.submit(node.kill_and_release, Process(victim.pid), wait=Wait.EXITED, timeout=60)
        hold.wait_held()
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(START) == 0
        assert "gave up draining" in agent.log
        with pytest.raises(errors.OutcomeUnknown):
            flying.result(START)


def test_pages_over_http(run_dir: Path) -> None:
    with running_agent(run_dir, *scrape.FLAGS) as agent, agent.client() as node:
        assert scrape.get(agent, "/healthz") == (200, "ok\n")
        assert scrape.get(agent, "/readyz") == (200, "ok\n")
        assert scrape.get(agent, "/secret")[0] == 404
        with lab.live(SIZE) as victim, lab.hold_at_exit(victim):
            released = node.kill_and_release(Process(victim.pid)).released_bytes
        with pytest.raises(errors.Protected):
            node.kill_and_release(Process(1))
        assert scrape.metric(agent, "mrelease_outcomes_total", method="KillAndRelease", outcome="RELEASED") == 1
        assert scrape.metric(agent, "mrelease_released_bytes_total") == released >= SIZE * 0.98
        assert scrape.metric(agent, "mrelease_requests_total", method="KillAndRelease", code="OK") == 1
        scrape.wait_metric(agent, 1, "mrelease_requests_total", method="KillAndRelease", code="PERMISSION_DENIED")
        for step in ("resolve", "kill", "release", "total"):
            assert scrape.metric(agent, "mrelease_step_duration_seconds_count", step=step) == 1, step
        lab.until(lambda: scrape.metric(agent, "mrelease_operations_in_flight") == 0, "the operation has ended")
        assert scrape.metric(agent, "mrelease_reaper_threads", state="stuck") == 0
        assert scrape.metric(agent, "mrelease_capability", feature="process_mrelease") == 1


def test_methods_that_callers_make_up_are_one_series(run_dir: Path) -> None:
    with running_agent(run_dir, *scrape.FLAGS) as agent, raw.caller(agent.address) as call:
        before = len(scrape.get(agent, "/metrics")[1].splitlines())
        for number in range(20):
            call(f"/mrelease.v1.ReleaseService/Method{number}", b"")
        assert scrape.metric(agent, "mrelease_requests_total", method="other", code="UNIMPLEMENTED") == 20
        assert len(scrape.get(agent, "/metrics")[1].splitlines()) == before


def services(address: str) -> list[str]:
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    with grpc.insecure_channel(address) as channel:
        return sorted(ProtoReflectionDescriptorDatabase(channel).get_services())


def test_reflection_is_off_unless_asked_for(agent: Agent, run_dir: Path) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        services(agent.address)
    code: Any = getattr(caught.value, "code")()  # noqa: B009 -- grpc.RpcError has none for type checkers
    assert code is grpc.StatusCode.UNIMPLEMENTED
    with running_agent(run_dir, "--reflection") as reflecting:
        assert {"mrelease.v1.ReleaseService", "mrelease.v1.NodeService", "grpc.health.v1.Health"} <= set(services(reflecting.address))


@pytest.mark.parametrize("service", ["", "mrelease.v1.ReleaseService", "mrelease.v1.NodeService"])
def test_health_of_each_service(agent: Agent, service: str) -> None:
    with raw.caller(agent.address) as call:
        assert call(raw.HEALTH, raw.field(1, service)).body == raw.SERVING


def test_health_of_an_unknown_service(agent: Agent) -> None:
    with raw.caller(agent.address) as call:
        assert call(raw.HEALTH, raw.field(1, "other")).code is grpc.StatusCode.NOT_FOUND


HOSTILE_NAME = 'e\nv"\x1b[2J\\il'
HOSTILE_REASON = 'x" outcome=EXITED pid="1'


def kill_hostile(agent: Agent, folder: Path) -> int:
    """Kill a process that has chosen its name to harm the reader of a log."""
    program = folder / HOSTILE_NAME
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "1000"]) as process, agent.client() as node:
        lab.until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == HOSTILE_NAME + "\n", "the program runs")
        result = node.kill_and_release(Process(process.pid), reason=HOSTILE_REASON)
        assert result.processes[0].command == HOSTILE_NAME
        assert result.is_released
        return process.pid


def ask_all(agent: Agent) -> None:
    """One request of each kind that leaves a line."""
    with agent.client() as node, lab.live(lab.MIB) as victim:
        node.get_node()
        node.kill_and_release(Process(victim.pid), validate_only=True)
        with pytest.raises(errors.NotDying):
            node.release(Process(victim.pid))


def test_the_text_log_has_one_line_for_each_request(run_dir: Path, tmp_path: Path) -> None:
    with running_agent(run_dir, "--nice", "0") as agent:
        pid = kill_hostile(agent, tmp_path)
        ask_all(agent)
        assert agent.terminate() == 0
        start = ("serving", "capability", "setting")
        lines = [line for line in agent.log.split("\n")[:-1] if line.split()[2] not in start]
    assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z (INFO|WARNING) ", line) for line in lines), lines
    assert "\x1b" not in "".join(lines)
    kinds = [line.split()[2] for line in lines]
    assert kinds == ["operation", "request", "validated", "request", "draining"], lines
    assert f"pid={pid} " in lines[0]
    assert lines[0].endswith('reason="x\\" outcome=EXITED pid=\\"1"')
    assert "NOT_DYING" in lines[3]


def test_the_json_log_has_one_object_for_each_request(run_dir: Path, tmp_path: Path) -> None:
    with running_agent(run_dir, "--log-format", "json") as agent:
        pid = kill_hostile(agent, tmp_path)
        ask_all(agent)
        assert agent.terminate() == 0
        (operation,) = scrape.events(agent, "operation")
        assert operation["pid"] == pid
        assert operation["command"] == HOSTILE_NAME
        assert operation["reason"] == HOSTILE_REASON
        assert operation["outcome"] in ("RELEASED", "EXITED")
        assert [event["method"] for event in scrape.events(agent, "request")] == ["GetNode", "Release"]
        assert len(scrape.events(agent, "validated")) == 1
        assert agent.log.isascii()


def test_a_socket_that_is_not_read_does_not_stop_the_start(run_dir: Path) -> None:
    """sd_notify(3) to a manager that hangs is no reason not to serve."""
    run_dir.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        full.bind(str(run_dir / "full"))
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.sendto(b"x", str(run_dir / "full"))
        with subprocess.Popen(
            agent_command("--listen", f"unix://{run_dir}/agent.sock"), env={**clean_environment(), "NOTIFY_SOCKET": str(run_dir / "full")}
        ) as process:
            try:
                lab.until((run_dir / "agent.sock").exists, "the agent listens")
                with Client(f"unix://{run_dir}/agent.sock") as node:
                    assert node.get_node().identity.name
            finally:
                process.terminate()
            assert process.wait(START) == 0


def test_the_line_of_an_operation_is_written_though_the_agent_is_stopped_right_after_the_answer(run_dir: Path) -> None:
    with running_agent(run_dir) as agent, lab.live(SIZE) as victim:
        with agent.client() as node:
            node.kill_and_release(Process(victim.pid), reason="the last one")
        assert agent.terminate() == 0
        (line,) = re.findall(r"operation .*", agent.log)
        assert f"pid={victim.pid}" in line
        assert 'reason="the last one"' in line
