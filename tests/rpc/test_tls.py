"""Mutual TLS of a real agent: who is let in, who is not, and what each is told."""

from __future__ import annotations

import random
import socket
import ssl
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mrelease import TLS, AsyncClient, Client, Process, errors
from support import lab
from support.agent import PATIENCE, clean_environment
from support.pki import CLIENT, SERVER, Pki
from support.tls_agent import TlsAgent, tls_agent


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.make(tmp_path_factory.mktemp("pki") / "ours")


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Another authority, of which the agent knows nothing."""
    return Pki.make(tmp_path_factory.mktemp("pki") / "theirs")


@pytest.fixture(scope="module")
def node(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Generator[TlsAgent, None, None]:
    with tls_agent(tmp_path_factory.mktemp("tls") / "run", pki) as started:
        yield started


def context(pki: Pki, name: str | None = "client") -> ssl.SSLContext:
    """OpenSSL's idea of a caller."""
    made = ssl.create_default_context(cafile=str(pki.ca))
    made.set_alpn_protocols(["h2"])
    if name is not None:
        made.load_cert_chain(pki.pair(name).cert, pki.pair(name).key)
    return made


def connect(node: TlsAgent, made: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", node.port), PATIENCE)
    return made.wrap_socket(plain, server_hostname="localhost")


def call(channel: Any, method: str) -> bytes:
    """A call with nothing in it, past the SDK."""
    answer: bytes = channel.unary_unary(method)(b"", timeout=PATIENCE)
    return answer


def test_a_caller_with_a_certificate_kills_and_gets_its_proof(node: TlsAgent, pki: Pki) -> None:
    with lab.live(8 * lab.MIB) as victim, node.client(pki.tls()) as client:
        result = client.kill_and_release(Process(victim.pid))
        assert result.is_released
        assert victim.exited()


async def test_the_asynchronous_client_does_too(node: TlsAgent, pki: Pki) -> None:
    with lab.live(lab.MIB) as victim:
        async with node.async_client(pki.tls()) as client:
            assert (await client.kill_and_release(Process(victim.pid))).is_released


def test_the_unix_socket_is_served_too(node: TlsAgent) -> None:
    with node.agent.client() as client:
        assert client.get_node().identity.boot_id


def test_certificates_may_be_given_as_text(node: TlsAgent, pki: Pki) -> None:
    pair = pki.pair("client")
    tls = TLS(pki.ca.read_bytes(), pair.cert.read_bytes(), pair.key.read_bytes())
    assert b"PRIVATE" not in repr(tls).encode()
    with node.client(tls) as client:
        assert client.get_node().identity.boot_id


def rejected(node: TlsAgent, tls: TLS) -> errors.Unreachable:
    with lab.live(lab.MIB) as victim, node.client(tls) as client, pytest.raises(errors.Unreachable) as caught:
        client.kill_and_release(Process(victim.pid))
    assert caught.value.nothing_signalled
    return caught.value


def test_a_certificate_of_another_authority_is_not_accepted(node: TlsAgent, pki: Pki, others: Pki) -> None:
    theirs = others.pair("client")
    error = rejected(node, TLS(pki.ca, theirs.cert, theirs.key))
    assert "does not accept this caller's certificate (unable to get local issuer certificate)" in str(error)
    assert "of the agent's authority" in error.remedy


@pytest.mark.parametrize(
    ("name", "usage", "days", "signed", "says"),
    [
        ("self-signed", CLIENT, (-1, 1), False, "self-signed certificate"),
        ("expired", CLIENT, (-2, -1), True, "certificate has expired"),
        ("future", CLIENT, (1, 2), True, "certificate is not yet valid"),
        ("server-as-client", SERVER, (-1, 1), True, "unsuitable certificate purpose"),
    ],
)
def test_a_certificate_that_cannot_be_accepted_is_not(
    node: TlsAgent, pki: Pki, name: str, usage: object, days: tuple[float, float], signed: bool, says: str
) -> None:
    if not pki.pair(name).cert.exists():
        pki.odd(name, CLIENT if usage is CLIENT else SERVER, days=days, signed=signed)
    assert f"does not accept this caller's certificate ({says})" in str(rejected(node, pki.tls(name))).replace("self signed", "self-signed")


def test_a_caller_without_a_certificate_is_not_let_in(node: TlsAgent, pki: Pki) -> None:
    credentials = grpc.ssl_channel_credentials(pki.ca.read_bytes())
    with grpc.secure_channel(node.address, credentials) as channel, pytest.raises(grpc.RpcError) as caught:
        call(channel, "/grpc.health.v1.Health/Check")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_tls_1_3_is_spoken(node: TlsAgent, pki: Pki) -> None:
    with connect(node, context(pki)) as secured:
        assert secured.version() == "TLSv1.3"
        assert secured.selected_alpn_protocol() == "h2"
        assert secured.recv(9)  # the first frame of HTTP/2: the certificate was accepted


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_older_versions_are_not(node: TlsAgent, pki: Pki, version: ssl.TLSVersion) -> None:
    older = context(pki)
    older.minimum_version = older.maximum_version = version
    older.set_ciphers("ALL:@SECLEVEL=0")  # every suite that OpenSSL has
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(node, older)


@pytest.mark.skipif(not Path("/usr/bin/openssl").exists(), reason="needs openssl")
def test_a_key_that_both_sides_know_is_none(node: TlsAgent, pki: Pki) -> None:
    """The suites of TLS 1.2 that are left are for those, so offer one."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{node.port}", "-tls1_2", "-psk", "00", "-psk_identity", ""]
    command += ["-cipher", "ECDHE-PSK-CHACHA20-POLY1305", "-alpn", "h2", "-CAfile", str(pki.ca)]
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert said.returncode
    assert "Cipher is (NONE)" in said.stdout


def test_plaintext_on_the_port_of_tls_is_not_served(node: TlsAgent) -> None:
    with grpc.insecure_channel(node.address) as channel, pytest.raises(grpc.RpcError) as caught:
        call(channel, "/grpc.health.v1.Health/Check")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(errors.Unreachable), Client(node.address) as client:
        client.get_node()


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        random.Random(1).randbytes(1 << 16),
        b"\x16\x03\x01\xff\xff" + b"\x01" * 0xFFFF,  # a record as long as one can say, which holds no hello
        b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + b"\0" * 0x3FFC,  # a hello that says it is 16 MiB
        b"\x80\x2e\x01\x00\x02",  # SSL 2
    ],
    ids=["http1", "http2", "random", "record", "hello", "ssl2"],
)
def test_garbage_ends_its_connection_and_nothing_else(node: TlsAgent, pki: Pki, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", node.port), PATIENCE) as plain:
        try:
            plain.sendall(said)
            plain.shutdown(socket.SHUT_WR)
            while plain.recv(1 << 16):
                pass
        except OSError:  # it has hung up
            pass
    with node.client(pki.tls()) as client:
        assert client.get_node().identity.boot_id


def test_many_that_begin_a_handshake_and_stop_do_not_keep_a_caller_out(node: TlsAgent, pki: Pki) -> None:
    hello = ssl.MemoryBIO()
    half = context(pki).wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        half.do_handshake()
    begun = hello.read()
    idle = [socket.create_connection(("127.0.0.1", node.port), PATIENCE) for _ in range(100)]
    try:
        for number, plain in enumerate(idle):
            plain.sendall(begun[: number * len(begun) // len(idle)])
        with node.client(pki.tls()) as client:
            assert client.get_node().identity.boot_id
    finally:
        for plain in idle:
            plain.close()


# --- what a caller does not accept of an agent ---


def test_an_agent_of_another_authority_is_not_believed(node: TlsAgent, pki: Pki, others: Pki) -> None:
    ours = pki.pair("client")
    error = rejected(node, TLS(others.ca, ours.cert, ours.key))
    assert f"the certificate of {node.address} is not accepted: unable to get local issuer certificate" in str(error)


def test_an_agent_of_another_name_is_not_believed(node: TlsAgent, pki: Pki) -> None:
    error = rejected(node, pki.tls(server_name="node9.example"))
    assert f"the certificate of {node.address} is not for node9.example" in str(error)
    assert "server_name" in error.remedy


def test_a_name_may_be_said_where_the_address_is_another(node: TlsAgent, pki: Pki) -> None:
    with node.client(pki.tls(server_name="localhost"), f"localhost:{node.port}") as client:
        assert client.get_node().identity.boot_id


def test_what_does_not_speak_tls_is_told_apart(pki: Pki, raw_server: str) -> None:
    with pytest.raises(errors.Unreachable) as caught, Client(raw_server, tls=pki.tls()) as client:
        client.get_node()
    assert "does not speak TLS" in str(caught.value)


@pytest.fixture
def raw_server() -> Generator[str, None, None]:
    """A gRPC server without TLS."""
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_where_nothing_listens_the_error_says_so(pki: Pki) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # nobody else gets it meanwhile
        with (
            pytest.raises(errors.Unreachable, match="the connection was refused"),
            _client(f"127.0.0.1:{bound.getsockname()[1]}", pki) as client,
        ):
            client.get_node()


def _client(address: str, pki: Pki) -> Client:
    return Client(address, tls=pki.tls())


async def test_the_asynchronous_client_says_the_same(node: TlsAgent, pki: Pki, others: Pki) -> None:
    theirs = others.pair("client")
    async with AsyncClient(node.address, tls=TLS(pki.ca, theirs.cert, theirs.key)) as client:
        with pytest.raises(errors.Unreachable, match="does not accept this caller's certificate"):
            await client.get_node()
        with pytest.raises(errors.Unreachable, match="does not accept this caller's certificate"):
            async for _ in client.watch_memory():
                pass


def test_no_text_of_failed_handshakes_gets_into_the_log(node: TlsAgent, pki: Pki) -> None:
    """Whoever can connect could fill a disk with it."""
    before = node.agent.log
    for _ in range(3):
        with grpc.insecure_channel(node.address) as channel, pytest.raises(grpc.RpcError):
            call(channel, "/grpc.health.v1.Health/Check")
    with node.client(pki.tls()) as client:
        client.get_node()  # whatever was to be logged came before this
    lab.until(lambda: "GetNode" in node.agent.log[len(before) :], "the line of the call")
    assert "handshake" not in node.agent.log.lower()


# --- an agent that cannot serve says why ---


def refused(folder: Path, *flags: str) -> str:
    folder.mkdir(mode=0o700, exist_ok=True)
    listen = ("--listen", f"unix://{folder}/agent.sock")
    command = [sys.executable, "-m", "mrelease_agent", *listen, *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=clean_environment())
    assert ended.returncode == 2, ended.stderr
    assert not (folder / "agent.sock").exists()
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_it_does_not_start_with_certificates_that_nobody_would_accept(tmp_path: Path, pki: Pki, others: Pki) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nrules: []\n")
    odd = {
        "expired-server": (pki.odd("expired-server", SERVER, days=(-2, -1)), "tls_cert", "has expired"),
        "future-server": (pki.odd("future-server", SERVER, days=(1, 2)), "tls_cert", "is not valid yet"),
        "client": (pki.pair("client"), "tls_cert", "is not for servers"),
    }
    for pair, key, says in odd.values():
        files = (
            "--tls-cert",
            str(pair.cert),
            "--tls-key",
            str(pair.key),
            "--tls-ca",
            str(pki.ca),
            "--policy",
            str(policy),
            "--audit-dir",
            "none",
        )
        message = refused(tmp_path / "run", "--tls-listen", "127.0.0.1:0", *files)
        assert f"mrelease-agent: {key}, {pair.cert}, {says}" in message
    server = pki.pair("server")
    files = (
        "--tls-cert",
        str(server.cert),
        "--tls-key",
        str(others.pair("server").key),
        "--tls-ca",
        str(pki.ca),
        "--policy",
        str(policy),
        "--audit-dir",
        "none",
    )
    assert "is not the key of the certificate in tls_cert" in refused(tmp_path / "run", "--tls-listen", "127.0.0.1:0", *files)


def test_unauthenticated_peers_are_unknown_to_the_health_service_too(node: TlsAgent, pki: Pki) -> None:
    """A connection is needed for anything at all: there is no method that is served without a certificate."""
    credentials = grpc.ssl_channel_credentials(pki.ca.read_bytes())
    with grpc.secure_channel(node.address, credentials) as channel:
        for method in ("/grpc.health.v1.Health/Watch", "/mrelease.v1.NodeService/GetNode", "/no/such"):
            with pytest.raises(grpc.RpcError) as caught:
                call(channel, method)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
