"""The prekill hook of deploy/oomd, spoken to as systemd-oomd does: Varlink over its socket. What systemd-oomd then does is done here."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from support import lab
from support.agent import Agent, clean_environment
from support.lab import Cgroup, HangingVictim
from support.lab.cgroups import in_hierarchy
from support.markdown import ROOT
from support.privileges import tool

FOLDER = ROOT / "deploy" / "oomd"
SIZE = 32 * lab.MIB
NOTIFY = "io.systemd.oom.Prekill.Notify"
pytestmark = pytest.mark.usefixtures("process_mrelease")


@contextlib.contextmanager
def hook(agent: Agent, folder: Path, *flags: str) -> Generator[Path]:
    """The hook, from when it says that it is ready; its socket."""
    path = folder / "hook"
    command = [sys.executable, str(FOLDER / "mrelease_oomd_prekill.py"), "--socket", str(path), "--agent", agent.address, *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=clean_environment()) as process:
        assert process.stderr
        try:
            assert process.stderr.readline() == "ready\n"
            yield path
        finally:
            process.terminate()
            process.communicate()


def call(path: Path, *messages: bytes) -> list[dict[str, Any]]:
    """Send, and read as many answers; fewer where the other side hangs up."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(lab.kernel.PATIENCE)
        connection.connect(str(path))
        connection.sendall(b"".join(message + b"\0" for message in messages))
        received = b""
        while received.count(b"\0") < len(messages) and (more := connection.recv(4096)):
            received += more
    return [json.loads(answer) for answer in received.split(b"\0")[:-1]]


def notify(path: Path, cgroup: object) -> dict[str, Any]:
    (answer,) = call(path, json.dumps({"method": NOTIFY, "parameters": {"cgroup": cgroup}}).encode())
    return answer


@pytest.fixture
def unit() -> Generator[Cgroup]:
    """The memory cgroup of a unit."""
    with lab.memory_cgroup() as group:
        yield group


@pytest.fixture
def victim(unit: Cgroup) -> Generator[HangingVictim]:
    """A process of the unit that SIGKILL does not end."""
    with lab.unkillable(SIZE, worker=True, within=(unit,)) as made:
        yield made


def is_back(victim: HangingVictim) -> bool:
    return lab.rss_anon(victim.pid) <= SIZE // 20


def test_what_systemd_oomd_kills_gives_its_memory_back(agent: Agent, tmp_path: Path, unit: Cgroup, victim: HangingVictim) -> None:
    with hook(agent, tmp_path) as path:
        assert notify(path, in_hierarchy(unit)) == {"parameters": {}}
        assert not victim.exited(0), "the hook itself kills nothing"
        assert not is_back(victim)
        signal.pidfd_send_signal(victim.pidfd, signal.SIGKILL)  # as systemd-oomd does after the answer
        lab.until(lambda: is_back(victim), "the memory of a process that SIGKILL does not end is back")
    assert not victim.exited(0)


def test_with_kill_the_memory_is_back_before_the_answer(agent: Agent, tmp_path: Path, unit: Cgroup, victim: HangingVictim) -> None:
    with hook(agent, tmp_path, "--kill") as path:
        assert notify(path, in_hierarchy(unit)) == {"parameters": {}}
        assert is_back(victim)


def test_a_cgroup_that_is_gone_delays_nothing(agent: Agent, tmp_path: Path) -> None:
    with hook(agent, tmp_path, "--kill") as path:
        assert notify(path, "/system.slice/was-there.service") == {"parameters": {}}


@pytest.mark.parametrize("cgroup", ["", "/", "//", "/..", "/a/../..", "relative", "/.", "/a\0b", "/" + "x" * 5000, None, 7, ["/a"], {}])
def test_what_is_no_cgroup_is_refused(agent: Agent, tmp_path: Path, cgroup: object) -> None:
    with hook(agent, tmp_path, "--kill") as path:
        assert notify(path, cgroup) == {"error": "org.varlink.service.InvalidParameter", "parameters": {"parameter": "cgroup"}}


def test_it_can_be_looked_at_with_varlinkctl(agent: Agent, tmp_path: Path) -> None:
    with hook(agent, tmp_path) as path:
        info, described, unknown, method = call(
            path,
            b'{"method": "org.varlink.service.GetInfo"}',
            b'{"method": "org.varlink.service.GetInterfaceDescription", "parameters": {"interface": "io.systemd.oom.Prekill"}}',
            b'{"method": "org.varlink.service.GetInterfaceDescription", "parameters": {"interface": "x.y"}}',
            b'{"method": "x.y.Z"}',
        )
    assert info["parameters"]["interfaces"] == ["io.systemd.oom.Prekill", "org.varlink.service"]
    assert "method Notify(cgroup: string) -> ()" in described["parameters"]["description"]
    assert unknown == {"error": "org.varlink.service.InterfaceNotFound", "parameters": {"interface": "x.y"}}
    assert method == {"error": "org.varlink.service.MethodNotFound", "parameters": {"method": "x.y.Z"}}


@pytest.mark.parametrize(
    "message", [b"", b"no json", b"[]", b"{}", b'{"method": 7}', b'{"method": "a.B", "parameters": []}', b"[" * 60_000]
)
def test_what_is_no_call_ends_the_connection_and_nothing_else(agent: Agent, tmp_path: Path, message: bytes) -> None:
    with hook(agent, tmp_path) as path:
        assert call(path, message) == []
        assert notify(path, "/") != {}


def test_another_user_is_refused(agent: Agent, tmp_path: Path, unit: Cgroup, victim: HangingVictim) -> None:
    lab.need_root("becoming another user")
    with hook(agent, tmp_path, "--kill") as path:
        tmp_path.chmod(0o755)
        path.chmod(0o666)
        program = "import socket, sys; s = socket.socket(1); s.connect(sys.argv[1]); s.sendall(sys.argv[2].encode() + bytes(1)); s.recv(9)"
        message = json.dumps({"method": NOTIFY, "parameters": {"cgroup": in_hierarchy(unit)}})
        # The directory is entered as root: those above it are closed to others.
        subprocess.run(
            ["/usr/bin/env", "python3", "-c", program, f"./{path.name}", message],
            cwd=path.parent, user=lab.NOBODY, group=lab.NOBODY, extra_groups=[], check=False, timeout=lab.kernel.PATIENCE,
        )  # fmt: skip
    assert not victim.exited(0)
    assert not is_back(victim)


@pytest.mark.parametrize("name", ["mrelease-oomd-prekill.service", "mrelease-oomd-prekill.socket"])
def test_systemd_takes_the_units(tmp_path: Path, name: str) -> None:
    for unit in FOLDER.glob("mrelease-oomd-prekill.*"):
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/mrelease/bin/python", "/bin/true"))
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    command = [tool("systemd-analyze"), "verify", str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
