"""Where the agent listens: addresses, private directories, and that no agent takes another one's place. Real sockets, real gRPC."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from mrelease_agent.address import AddressError, TcpAddress, UnixAddress, parse, parse_tcp
from mrelease_agent.rpc.listener import prepare
from mrelease_agent.rpc.socket_directory import ListenError


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not tmp_path: a Unix socket's path has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="mrelease-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "run" / "agent.sock"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:///run/a.sock", UnixAddress("/run/a.sock")),
        ("unix:/run/a.sock", UnixAddress("/run/a.sock")),
        ("unix:///" + "x" * 106, UnixAddress("/" + "x" * 106)),
        ("tcp://127.0.0.1:7443", TcpAddress("127.0.0.1", 7443)),
        ("tcp://127.1.2.3:0", TcpAddress("127.1.2.3", 0)),
        ("tcp://[::1]:65535", TcpAddress("::1", 65535)),
        ("tcp://[0:0::1]:1", TcpAddress("::1", 1)),
    ],
)
def test_addresses(text: str, address: UnixAddress | TcpAddress) -> None:
    assert parse(text) == address


def test_a_relative_path_is_below_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert parse("unix:run/a.sock") == UnixAddress(f"{folder}/run/a.sock")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "neither"),
        ("unix", "neither"),
        ("/run/a.sock", "neither"),
        ("127.0.0.1:7443", "neither"),
        ("unix-abstract:a", "neither"),
        ("unix:", "names no socket"),
        ("unix:///", "names no socket"),
        ("unix:///run/", "names no socket"),
        ("unix://run/a.sock", "two slashes and a relative path"),
        ("unix:///run/a\nb", "cannot be printed"),
        ("unix:///run/a\0b", "cannot be printed"),
        ("unix:///" + "x" * 107, "longer than 107 bytes"),
        ("unix:///" + "\u00e4" * 54, "longer than 107 bytes"),
        ("tcp://127.0.0.1", "port"),
        ("tcp://127.0.0.1:", "port"),
        ("tcp://127.0.0.1:65536", "port"),
        ("tcp://127.0.0.1:" + "9" * 5000, "port"),
        ("tcp://127.0.0.1:-1", "port"),
        ("tcp://127.0.0.1:\u0661", "port"),
        ("tcp://:7443", "no IP address"),
        ("tcp://localhost:7443", "no IP address"),
        ("tcp://127.1:7443", "no IP address"),
        ("tcp://::1:7443", "no IP address"),
        ("tcp://a\0:1", "no IP address"),
        ("tcp://0.0.0.0:7443", "not a loopback address"),
        ("tcp://10.0.0.1:7443", "not a loopback address"),
        ("tcp://[::]:7443", "not a loopback address"),
        ("tcp://[::ffff:127.0.0.1]:7443", "not a loopback address"),
    ],
)
def test_other_addresses_are_refused(text: str, problem: str) -> None:
    with pytest.raises(AddressError, match=problem):
        parse(text)
    with pytest.raises(ListenError, match=problem), prepare(text):
        pass


def test_an_address_prints_as_it_is_read() -> None:
    for text in ("127.0.0.1:1", "[::1]:1"):
        assert str(parse_tcp(text)) == text


@pytest.mark.parametrize("name", ["agent.sock", "a b%41#?&+.sock", "\u00fc.sock"])
async def test_grpc_serves_on_a_private_socket_that_is_gone_afterwards(folder: Path, name: str) -> None:
    path = folder / "new" / "run" / name
    with prepare(f"unix://{path}") as endpoint:
        assert endpoint.path == path
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        server = grpc.aio.server(options=endpoint.channel_options)
        endpoint.bound(server.add_insecure_port(endpoint.grpc_address))
        await server.start()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert endpoint.listen == f"unix://{path}"
        async with grpc.aio.insecure_channel(endpoint.grpc_address) as channel:
            await asyncio.wait_for(channel.channel_ready(), 10)
        await server.stop(0)
    assert not path.exists()


async def test_a_tcp_port_is_not_shared() -> None:
    with prepare("tcp://127.0.0.1:0") as endpoint:
        server = grpc.aio.server(options=endpoint.channel_options)
        endpoint.bound(server.add_insecure_port(endpoint.grpc_address))
        await server.start()
        assert not endpoint.listen.endswith(":0")
        assert endpoint.path is None
        with (
            pytest.raises(ListenError, match="Address already in use; stop what listens there or choose another port"),
            prepare(endpoint.listen),
        ):
            pass
        other = grpc.aio.server(options=endpoint.channel_options)
        with pytest.raises(RuntimeError):
            other.add_insecure_port(endpoint.grpc_address)
        await server.stop(0)


def bind(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    server = socket.socket(socket.AF_UNIX, kind)
    server.bind(str(path))
    if kind is socket.SOCK_STREAM:
        server.listen(1)
    return server


def refusal(path: Path) -> str:
    with pytest.raises(ListenError) as caught, prepare(f"unix://{path}"):
        pass
    return str(caught.value)


HOLD = "import sys; from mrelease_agent.rpc.listener import prepare\nwith prepare(sys.argv[1]): print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has prepared ``path`` and not bound it yet."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, f"unix://{path}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_of_two_agents_that_start_at_once_one_fails(path: Path, holder: subprocess.Popen[str]) -> None:
    assert refusal(path).startswith(f"another agent (pid {holder.pid}) listens on {path}: stop it first")


def test_a_killed_agent_leaves_nothing_that_hinders_the_next(path: Path, holder: subprocess.Popen[str]) -> None:
    bind(path).close()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with prepare(f"unix://{path}"):
        assert not path.exists()


def test_a_living_server_without_our_lock_keeps_its_socket(path: Path) -> None:
    with bind(path):
        inode = path.stat().st_ino
        assert refusal(path).startswith(f"another agent (pid {os.getpid()}) listens on {path}")
        assert path.stat().st_ino == inode


def test_a_living_server_with_a_full_backlog_keeps_its_socket(path: Path) -> None:
    with bind(path):
        waiting: list[socket.socket] = []
        try:
            while True:
                waiting.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                waiting[-1].setblocking(False)
                waiting[-1].connect(str(path))
        except BlockingIOError:
            pass
        assert refusal(path).startswith(f"another agent listens on {path}")
        assert path.exists()
        for client in waiting:
            client.close()


def test_what_is_no_stream_socket_is_not_removed(path: Path, folder: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_text("precious")
    assert "is not a socket: remove it or choose another path" in refusal(path)
    assert path.read_text() == "precious"
    path.unlink()
    target = folder / "target"
    target.write_text("precious")
    path.symlink_to(target)
    assert "is a symbolic link: remove it" in refusal(path)
    assert target.exists()
    path.unlink()
    with bind(path, socket.SOCK_DGRAM):
        assert "cannot tell whether the socket" in refusal(path)
        assert path.exists()


def test_a_lock_file_that_is_a_link_is_not_followed(path: Path, folder: Path) -> None:
    path.parent.mkdir(mode=0o700)
    target = folder / "target"
    target.write_text("precious")
    Path(f"{path}.lock").symlink_to(target)
    assert "cannot open the lock file" in refusal(path)
    assert target.read_text() == "precious"


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o720, 0o777])
def test_an_open_directory_is_refused_with_the_remedy(path: Path, mode: int) -> None:
    path.parent.mkdir()
    path.parent.chmod(mode)
    message = refusal(path)
    assert f"run `chmod 700 {path.parent}` (systemd: RuntimeDirectoryMode=0700)" in message
    assert stat.S_IMODE(path.parent.stat().st_mode) == mode
    assert not list(path.parent.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a directory to another user")
def test_a_directory_of_another_user_is_refused(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    os.chown(path.parent, 12345, 12345)
    assert f"{path.parent} belongs to user 12345" in refusal(path)


def test_what_is_no_directory_is_refused(path: Path, folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    path.parent.symlink_to(elsewhere)
    assert "is a symbolic link: name the directory itself" in refusal(path)
    path.parent.unlink()
    path.parent.write_text("")
    assert "is not a directory" in refusal(path)
    assert "cannot make the directory" in refusal(path.parent / "below" / "agent.sock")


def test_existing_parents_are_left_as_they_are(folder: Path) -> None:
    parent = folder / "open"
    parent.mkdir()
    parent.chmod(0o777)
    with prepare(f"unix://{parent}/run/agent.sock"):
        assert stat.S_IMODE(parent.stat().st_mode) == 0o777


def test_only_its_own_socket_is_removed(path: Path) -> None:
    with prepare(f"unix://{path}") as endpoint:
        own = bind(path)
        endpoint.bound()
        path.rename(path.with_name("moved"))
        other = bind(path)
    assert path.exists()
    own.close()
    other.close()


def test_a_missing_socket_is_noticed(path: Path) -> None:
    with prepare(f"unix://{path}") as endpoint, pytest.raises(ListenError, match=r"cannot make the socket .* private: No such file"):
        endpoint.bound()


def test_a_failed_start_releases_the_place(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), prepare(f"unix://{path}"):
        raise ZeroDivisionError
    with prepare(f"unix://{path}"):
        pass
