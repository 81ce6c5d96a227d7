"""Who may connect, attacks: other callers are served meanwhile, and the agent's memory stays below what docs/running.md says.

Served means: Health.Check, GetNode and a real kill succeed, on a connection that was there and on a new one.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Generator
from pathlib import Path

import grpc
import pytest

from mrelease import Client, Process
from support import lab, raw
from support.agent import Agent, running_agent
from support.attacker import KINDS, attack

GROUP, ATTACKER = 64210, 64211
#: The most that the agent has resident in any of these, whatever the attack.
BOUND = 160 * lab.MIB
IDLE = ("idle", "idle-http2")


@pytest.fixture(scope="module")
def shared() -> Generator[Agent, None, None]:
    """An agent whose socket others may use too; without root its own user is the attacker."""
    with tempfile.TemporaryDirectory(prefix="mrelease-test-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        run = Path(name) / "run"
        flags = ["--unix-peers", "on"]
        if os.geteuid() == 0:
            run.mkdir()
            os.chown(run, -1, GROUP)
            run.chmod(0o750)
            flags += ["--socket-group", str(GROUP)]
        with running_agent(run, *flags) as agent:
            yield agent


def served(node: Client) -> None:
    assert node.get_node().identity.name
    with lab.live(lab.MIB) as victim:
        assert node.kill_and_release(Process(victim.pid)).is_released


def forget_peak(agent: Agent) -> None:
    """The peak of resident memory begins anew, proc_pid_clear_refs(5)."""
    Path(f"/proc/{agent.pid}/clear_refs").write_text("5")


def peak(agent: Agent) -> int:
    return lab.field_bytes(agent.pid, "VmHWM")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "crowd"])
def test_other_users_of_the_unix_socket_are_served(shared: Agent, kind: str) -> None:
    user = (ATTACKER, GROUP) if os.geteuid() == 0 else ()
    with shared.client() as node:
        node.get_node()
        forget_peak(shared)
        with attack(kind, str(shared.path), *user) as flying:
            flying.wait_rounds(2)
            served(node)
            if user or kind not in IDLE:  # a user who takes all connections has none left
                with shared.client() as another, raw.caller(shared.address) as call:
                    served(another)
                    assert call(raw.HEALTH, b"").body == raw.SERVING
            flying.wait_rounds(1)
            assert peak(shared) < BOUND
    assert shared.process.poll() is None


@pytest.fixture(scope="module")
def on_tcp(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Agent, str], None, None]:
    """An agent and its port."""
    flags = ("--listen", "tcp://127.0.0.1:0", "--allow-plaintext-loopback")
    with running_agent(tmp_path_factory.mktemp("tcp") / "run", *flags) as agent:
        lab.until(lambda: "serving listen=tcp" in agent.log, "the port is in the log")
        found = re.search(r"serving listen=tcp://127\.0\.0\.1:(\d+)", agent.log)
        assert found, agent.log
        yield agent, found[1]


@pytest.mark.parametrize("kind", ["idle", "half-headers", "never-reading", "settings", "large"])
def test_callers_by_tcp_are_served(on_tcp: tuple[Agent, str], kind: str) -> None:
    """Here nobody is told apart by user: who is connected stays served, and new callers are as soon as there is room."""
    agent, port = on_tcp
    with Client(f"127.0.0.1:{port}") as node:
        node.get_node()
        forget_peak(agent)
        with attack(kind, port) as flying:
            flying.wait_rounds(2)
            served(node)
            flying.wait_rounds(1)
            assert peak(agent) < BOUND
    lab.until(lambda: can_call(port), "there is room for a new caller")


def can_call(port: str) -> bool:
    with raw.caller(f"127.0.0.1:{port}") as call:
        return call(raw.HEALTH, b"").code is grpc.StatusCode.OK


def test_a_user_never_has_more_connections_than_are_left_for_others(shared: Agent) -> None:
    lab.need_root("to be another user")

    def descriptors() -> int:
        return len(list(Path(f"/proc/{shared.pid}/fd").iterdir()))

    own = 16  # the agent's own, which come and go: a file of /proc, a pidfd
    before = descriptors()
    with attack("crowd", str(shared.path), ATTACKER, GROUP) as flying:
        flying.wait_rounds(1)
        lab.until(lambda: descriptors() >= before + 3 * 512 - own, "it has all that it may have")
        assert descriptors() <= before + 3 * 512 + own
        with attack("crowd", str(shared.path), ATTACKER + 1, GROUP) as other:
            other.wait_rounds(1)
            lab.until(lambda: descriptors() >= before + 3 * 768 - own, "the next one has half of the rest")
            with shared.client() as node:
                served(node)
    lab.until(lambda: descriptors() <= before + own, "all is given back")
    assert "connections refused" in shared.log


def test_descriptors_are_kept_for_kills(run_dir: Path) -> None:
    """With few descriptors more connections than it may have leave it enough for its work."""
    limited = ("/bin/sh", "-c", 'ulimit -n 256; exec "$@"', "sh")
    with running_agent(run_dir, prefix=limited) as agent, agent.client() as node:
        served(node)
        with attack("crowd", str(agent.path)) as flying:
            flying.wait_rounds(2)
            served(node)
        assert "EMFILE" not in agent.log
