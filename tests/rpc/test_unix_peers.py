"""Who is at the other end of the Unix socket: the group that may connect, and the user that the policy and the audit log name."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from mrelease import Client, Process, errors
from support import lab, raw
from support.agent import Agent, agent_command, clean_environment, running_agent
from support.other_user import OtherUser, other_user

GROUP = 64210
MEMBER, STRANGER, OTHER = 64211, 64212, 64213


@pytest.fixture
def folder() -> Generator[Path, None, None]:
    """Open to every user, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="mrelease-test-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextlib.contextmanager
def shared_agent(folder: Path, *flags: str) -> Generator[Agent, None, None]:
    """An agent on a socket that a group may use."""
    if os.geteuid() != 0:
        raise lab.Unavailable("only root can give a directory to any group")
    run = folder / "run"
    run.mkdir(mode=0o700)
    os.chown(run, -1, GROUP)
    run.chmod(0o750)
    with running_agent(run, "--socket-group", str(GROUP), *flags) as agent:
        yield agent


@contextlib.contextmanager
def member(agent: Agent, uid: int = MEMBER) -> Generator[OtherUser, None, None]:
    with other_user(str(agent.path), uid, groups=[GROUP]) as user:
        yield user


def test_members_of_the_group_are_served_and_nobody_else_is(folder: Path) -> None:
    with shared_agent(folder) as agent:
        assert stat.S_IMODE(agent.path.stat().st_mode) == 0o660
        assert agent.path.stat().st_gid == GROUP
        with member(agent) as user, Client(user.address) as node, lab.live(lab.MIB) as victim:
            assert node.kill_and_release(Process(victim.pid)).is_released
        with other_user(str(agent.path), MEMBER, GROUP) as user, Client(user.address) as node:
            assert node.get_node().identity.name
        with other_user(str(agent.path), STRANGER) as user, raw.caller(user.address) as call:
            assert call(raw.HEALTH, b"").code is grpc.StatusCode.UNAVAILABLE
            assert user.errno() == errno.EACCES


def policy(folder: Path, *callers: str) -> str:
    path = folder / "policy.yaml"
    rules = "".join(f"- name: rule{number}\n  callers: [{caller}]\n  methods: ['*']\n" for number, caller in enumerate(callers))
    path.write_text(f"version: 1\nrules:\n{rules}")
    return str(path)


def test_the_policy_knows_users_and_groups(folder: Path) -> None:
    rules = policy(folder, f"{{unix_uid: {MEMBER}}}", f"{{unix_gid: {OTHER}}}")
    with shared_agent(folder, "--policy", rules) as agent:
        for uid, gid in ((MEMBER, MEMBER), (STRANGER, OTHER)):
            with other_user(str(agent.path), uid, gid, [GROUP]) as user, Client(user.address) as node:
                assert node.get_node().identity.name
        with member(agent, STRANGER) as user, raw.caller(user.address) as call, lab.live(lab.MIB) as victim:
            answer = call(raw.KILL, raw.process(victim.pid))
            raw.assert_refused(answer, grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_PERMITTED")
            assert answer.details is not None
            assert answer.details.metadata["caller"] == f"uid:{STRANGER}"
            assert not victim.exited(0)
            # Its connection stays its own, whoever else calls at the same time.
            with member(agent) as allowed, raw.caller(allowed.address) as other, ThreadPoolExecutor(8) as pool:
                calls = [pool.submit(caller, raw.GET_NODE, b"") for _ in range(100) for caller in (call, other)]
                codes = [done.result().code for done in calls]
            assert codes == [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.OK] * 100


def private_sockets(agent: Agent) -> list[Path]:
    """Descriptors of sockets that the agent could connect to itself."""
    fds = list(Path(f"/proc/{agent.pid}/fd").iterdir())
    return [fd for fd in fds if re.fullmatch(r".*/grpc\.sock \(deleted\)", str(fd.readlink()))]


def test_grpcs_own_socket_has_no_path_and_takes_nobody_the_relay_did_not_bring(run_dir: Path) -> None:
    with running_agent(run_dir, "--unix-peers", "on") as agent, agent.client() as node:
        assert node.get_node().identity.name
        assert sorted(path.name for path in run_dir.iterdir()) == ["agent.sock", "agent.sock.lock", "boost.journal", "log", "notify"]
        bound = [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "grpc.sock" in line]
        assert bound
        for path in bound:
            with socket.socket(socket.AF_UNIX) as stranger, pytest.raises(FileNotFoundError):
                stranger.connect(path.replace("/self/", f"/{agent.pid}/"))
        # Root can still get at it: gRPC takes the connection, and the agent says that it is nobody's.
        (private,) = private_sockets(agent)
        with raw.caller(f"unix://{private}") as call:
            answer = call(raw.GET_NODE, b"")
            raw.assert_refused(answer, grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_PERMITTED")


def descriptors(agent: Agent) -> int:
    return len(list(Path(f"/proc/{agent.pid}/fd").iterdir()))


def test_connections_leave_nothing_behind_however_they_end(run_dir: Path) -> None:
    with running_agent(run_dir, "--unix-peers", "on") as agent, agent.client() as node:
        node.list_processes(limit=3)
        before = descriptors(agent)
        for _ in range(20):
            with agent.client() as other:
                assert other.get_node().identity.name
        ends: list[socket.socket] = []
        for number in range(60):
            end = socket.socket(socket.AF_UNIX)
            end.settimeout(raw.PATIENCE)
            end.connect(str(agent.path))
            end.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[: number % 25])
            if number % 3 == 0:
                end.close()
            elif number % 3 == 1:
                end.shutdown(socket.SHUT_WR)
                ends.append(end)
            else:
                end.sendall(b"\r\n\r\n" * 1000)
                ends.append(end)
        for end in ends:
            with contextlib.suppress(ConnectionError):
                while end.recv(65536):
                    pass
            end.close()
        lab.until(lambda: descriptors(agent) <= before, f"the agent has {before} descriptors again")
        assert node.get_node().identity.name


def test_a_whole_agent_through_the_relay(run_dir: Path) -> None:
    """Large answers, many calls at once, and one that is given up: nothing is lost or mixed up on the way."""
    with running_agent(run_dir, "--unix-peers", "on") as agent, agent.client() as node:
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(16) as pool:
            victims = [stack.enter_context(lab.live(lab.MIB)) for _ in range(16)]
            listed = [pool.submit(node.list_processes, limit=None) for _ in range(16)]
            killed = [pool.submit(node.kill_and_release, Process(victim.pid)) for victim in victims]
            assert all(result.result(60).is_released for result in killed)
            assert all({os.getpid(), agent.pid} <= {row.pid for row in result.result(60)} for result in listed)
        with lab.mmap_locked() as locked, raw.caller(agent.address) as call:
            flying = call.start(raw.KILL, raw.process(locked.pid))
            lab.until(lambda: lab.state(locked.pid) == "D", "the victim is killed, and waits for the lock")
            flying.cancel()
            assert call(raw.HEALTH, b"").body == raw.SERVING


def test_a_second_agent_and_one_after_a_crash(run_dir: Path) -> None:
    flags = ("--unix-peers", "on")
    with running_agent(run_dir, *flags) as agent:
        second = subprocess.run(
            agent_command("--listen", agent.address, *flags),
            capture_output=True,
            text=True,
            timeout=60,
            env=clean_environment(),
            check=False,
        )
        assert f"another agent (pid {agent.pid}) listens" in second.stderr
        with agent.client() as node:
            assert node.get_node().identity.name
        agent.process.send_signal(signal.SIGKILL)
        agent.process.wait()
        (run_dir / "agent.sock.private").mkdir(mode=0o700)  # as if it had died before gRPC listened
        with running_agent(run_dir, *flags) as after, after.client() as node:
            assert node.get_node().identity.name
            assert after.terminate() == 0
        assert not (run_dir / "agent.sock").exists()


def refusal(folder: Path, *flags: str) -> str:
    command = agent_command("--listen", f"unix://{folder}/run/agent.sock", *flags)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean_environment(), check=False)
    assert ended.returncode in (1, 2), ended
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize("mode", [0o700, 0o770, 0o755, 0o751, 0o1750])
def test_a_directory_that_is_not_exactly_the_groups_is_refused_with_the_remedy(folder: Path, mode: int) -> None:
    run = folder / "run"
    run.mkdir()
    os.chown(run, -1, os.getegid())
    run.chmod(mode)
    said = refusal(folder, "--socket-group", str(os.getegid()))
    assert f"has mode {mode:04o}" in said
    assert f"chgrp {os.getegid()} {run} && chmod 750 {run}" in said
    assert not list(run.iterdir())


def test_other_groups_and_users_and_lists_are_refused(folder: Path) -> None:
    assert "there is no group 'no-such-group' here" in refusal(folder, "--socket-group", "no-such-group")
    assert "is no Unix socket" in refusal(
        folder, "--listen", "tcp://127.0.0.1:0", "--allow-plaintext-loopback", "--socket-group", str(os.getegid())
    )
    lab.need_root("to give a directory to any group")
    run = folder / "run"
    run.mkdir()
    run.chmod(0o750)
    os.chown(run, -1, OTHER)
    assert f"group {OTHER}" in refusal(folder, "--socket-group", str(GROUP))
    os.chown(run, OTHER, GROUP)
    assert f"belongs to user {OTHER}" in refusal(folder, "--socket-group", str(GROUP))


def test_a_missing_directory_is_made_for_the_group(folder: Path) -> None:
    lab.need_root("to give a directory to any group")
    log = folder / "log"
    with log.open("wb") as stderr:
        command = agent_command("--listen", f"unix://{folder}/run/agent.sock", "--socket-group", str(GROUP))
        with subprocess.Popen(command, stderr=stderr, env=clean_environment()) as process:
            try:
                lab.until((folder / "run" / "agent.sock").exists, "the agent listens")
                found = (folder / "run").stat()
                assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o750, GROUP)
                assert stat.S_IMODE((folder / "run" / "state").stat().st_mode) == 0o700
            finally:
                process.terminate()


def test_without_relay_the_policy_knows_no_user(folder: Path) -> None:
    """`unix_peers: off` is for who decides by the directory alone."""
    rules = policy(folder, "{unix_uid: 0}")
    with (
        running_agent(folder / "run", "--unix-peers", "off", "--policy", rules) as agent,
        agent.client() as node,
        pytest.raises(errors.CallerNotPermitted),
    ):
        node.get_node()
