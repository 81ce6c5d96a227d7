from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

import mrelease
from mrelease import _address
from mrelease.errors import InvalidAddress


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("unix:///run/mrelease/agent.sock", "unix:///run/mrelease/agent.sock"),
        ("unix:///tmp/a b%20c.sock", "unix:///tmp/a%20b%2520c.sock"),
        ("127.0.0.1:7443", "dns:///127.0.0.1:7443"),
        ("127.8.8.8:1", "dns:///127.8.8.8:1"),
        ("tcp://127.0.0.1:7443", "dns:///127.0.0.1:7443"),
        ("[::1]:7443", "dns:///[::1]:7443"),
        ("localhost:7443", "dns:///localhost:7443"),
    ],
)
def test_addresses_that_a_client_takes(text: str, target: str) -> None:
    assert _address.parse(text).target == target


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected unix:///path"),
        ("agent", "expected unix:///path"),
        ("/run/mrelease/agent.sock", "expected unix:///path"),
        ("unix:agent.sock", "absolute path"),
        ("unix://agent.sock", "absolute path"),
        (f"unix:///{'x' * 107}", "107 bytes"),
        ("127.0.0.1", "expected unix:///path"),
        ("127.0.0.1:", "expected unix:///path"),
        ("127.0.0.1:0", "expected unix:///path"),
        ("127.0.0.1:65536", "expected unix:///path"),
        ("127.0.0.1:\u0661", "expected unix:///path"),
        ("::1:7443", "expected unix:///path"),
        ("192.0.2.7:7443", "without TLS only that is served"),
        ("0.0.0.0:7443", "without TLS only that is served"),
        ("node7:7443", "without TLS only that is served"),
        ("localhost.example.org:7443", "without TLS only that is served"),
    ],
)
def test_addresses_that_it_does_not(text: str, says: str) -> None:
    with pytest.raises(InvalidAddress, match=says) as caught:
        mrelease.Client(text)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(ValueError, match=says):
        mrelease.AsyncClient(text)


def test_the_default_is_the_variable_and_then_the_socket_of_this_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRELEASE_AGENT", "127.0.0.1:7443")
    with mrelease.Client() as client:
        assert client.address == "127.0.0.1:7443"
    monkeypatch.delenv("MRELEASE_AGENT")
    with mrelease.Client() as client:
        assert client.address == f"unix://{_address.default_socket()}"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert _address.default_socket({"XDG_RUNTIME_DIR": "/run/user/7"}) == "/run/mrelease/agent.sock"
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    assert _address.default_socket({"XDG_RUNTIME_DIR": "/elsewhere"}) == "/elsewhere/mrelease/agent.sock"
    assert _address.default_socket({}) == "/run/user/7/mrelease/agent.sock"


def test_why_nothing_answers_no_socket(tmp_path: Path) -> None:
    why, remedy = _address.why_unreachable(_address.parse(f"unix://{tmp_path}/no.sock"))
    assert why == f"there is no socket {tmp_path}/no.sock"
    assert "mrelease-agent" in remedy


def test_why_nothing_answers_stale_socket(tmp_path: Path) -> None:
    path = f"{tmp_path}/stale.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
    why, remedy = _address.why_unreachable(_address.parse(f"unix://{path}"))
    assert "is gone" in why
    assert "replaces the stale socket" in remedy


def test_why_nothing_answers_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is not the socket of an agent" in _address.why_unreachable(_address.parse(f"unix://{tmp_path}/file"))[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_why_nothing_answers_permission(tmp_path: Path) -> None:
    path = f"{tmp_path}/private.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        Path(path).chmod(0o600)
        os.seteuid(65534)
        try:
            why, remedy = _address.why_unreachable(_address.parse(f"unix://{path}"))
        finally:
            os.seteuid(0)
    assert why == f"user 65534 may not use {path}"
    assert "as root" in remedy
