"""What a caller gives for TLS: what is taken, what is refused before any connection, and new certificates."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from mrelease import TLS, AsyncClient, Client, _address, _failure
from mrelease._tls import Credentials, from_environment, load, why_rejected
from mrelease.errors import InvalidAddress, InvalidTLS, Unreachable
from support.pki import CLIENT, SERVER, Pki


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki.make(tmp_path / "pki")


@pytest.mark.parametrize("address", ["node7:7443", "192.0.2.7:7443", "[2001:db8::7]:7443", "127.0.0.1:7443", "node7.ml.svc:1"])
def test_with_certificates_an_agent_may_be_anywhere(pki: Pki, address: str) -> None:
    with Client(address, tls=pki.tls()) as client:
        assert client.address == address


@pytest.mark.parametrize("address", ["node 7:7443", "node7/x:1", "node7?x:1", "[node7]:1", "a@b:1", "%2f:1", "-a:1", "node7:00001234"])
def test_what_is_no_host_is_refused(pki: Pki, address: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidAddress, match="is not an address of an agent"):
            kind(address, tls=pki.tls())


def test_a_socket_of_this_machine_has_no_tls(pki: Pki) -> None:
    with pytest.raises(InvalidAddress, match="there is no TLS: leave tls away"):
        Client("unix:///run/mrelease/agent.sock", tls=pki.tls())


def test_what_cannot_be_used_is_told_when_the_client_is_made(pki: Pki, tmp_path: Path) -> None:
    good, junk = pki.pair("client"), tmp_path / "junk"
    junk.write_text("junk")
    for tls, says in (
        (TLS(junk, good.cert, good.key), f"the authority {junk} has no certificate in PEM"),
        (TLS(pki.ca, good.cert, pki.pair("server").key), f"the key {pki.pair('server').key} is not the key of the certificate {good.cert}"),
        (TLS(pki.ca, junk, good.key), f"the certificate {junk} or the key {good.key} is not PEM"),
        (TLS(pki.ca, good.cert, tmp_path / "none"), f"the key {tmp_path}/none cannot be read: No such file or directory"),
        (TLS(pki.ca, good.cert, tmp_path), f"the key {tmp_path} cannot be read: Is a directory"),
        (TLS(pki.ca.read_bytes(), good.cert.read_bytes(), b"-----BEGIN ENCRYPTED PRIVATE KEY-----"), "the key is encrypted"),
        (TLS(b"", good.cert, good.key), "the authority has no certificate in PEM"),
    ):
        with pytest.raises(InvalidTLS) as caught:
            Client("node7:7443", tls=tls)
        assert says in str(caught.value)
        assert isinstance(caught.value, ValueError)


def test_the_environment_gives_all_or_nothing(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_environment({}) is None
    assert from_environment({"MRELEASE_CLIENT_SERVER_NAME": "x"}) is None
    with pytest.raises(InvalidTLS, match="MRELEASE_CLIENT_KEY is not set"):
        from_environment({"MRELEASE_CLIENT_CA": "a", "MRELEASE_CLIENT_CERT": "b"})
    pair = pki.pair("client")
    monkeypatch.setenv("MRELEASE_AGENT", "node7:7443")
    for name, path in (("CA", pki.ca), ("CERT", pair.cert), ("KEY", pair.key)):
        monkeypatch.setenv(f"MRELEASE_CLIENT_{name}", str(path))
    with Client() as client:
        assert client.address == "node7:7443"


def test_new_certificates_are_taken_when_they_belong_together(pki: Pki) -> None:
    credentials = Credentials(pki.tls())
    first = credentials.current
    assert credentials.renewed() is first
    new = pki.issue("new")
    pki.pair("client").cert.write_bytes(new.cert.read_bytes())
    assert credentials.renewed() is first  # its key has not come yet
    pki.pair("client").key.write_bytes(new.key.read_bytes())
    second = credentials.renewed()
    assert second is not first
    assert credentials.renewed() is second


def test_clients_with_the_same_files_share_what_was_read_until_it_changes(pki: Pki) -> None:
    first = Credentials.of(pki.tls())
    assert Credentials.of(pki.tls(server_name="node7")) is first
    new = pki.issue("new")
    pki.pair("client").cert.write_bytes(new.cert.read_bytes())
    with pytest.raises(InvalidTLS, match="is not the key of"):
        Credentials.of(pki.tls())
    pki.pair("client").key.write_bytes(new.key.read_bytes())
    assert Credentials.of(pki.tls()) is not first


def test_why_an_agent_would_not_accept_a_certificate(pki: Pki, tmp_path: Path) -> None:
    assert why_rejected(pki.tls()) == ""
    pki.odd("expired", CLIENT, days=(-2, -1))
    pki.odd("wrong", SERVER)
    assert why_rejected(pki.tls("expired")) == "certificate has expired"
    assert why_rejected(pki.tls("wrong")) in ("unsuitable certificate purpose", "unsupported certificate purpose")
    other = Pki.make(tmp_path / "other")
    assert why_rejected(TLS(other.ca, pki.pair("client").cert, pki.pair("client").key)) == "unable to get local issuer certificate"
    assert load(pki.tls())[0] == pki.ca.read_bytes()


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (
            "errors resolving no.invalid:7443: [address lookup failed for no.invalid:7443: Domain name not found]",
            "there is no host of this name",
        ),
        (
            "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:192.0.2.7:7443: Handshake read failed (Endpoint closing)",
            "in time",
        ),
        ("failed to connect to all addresses; last error: UNKNOWN: ipv4:192.0.2.7:7443: No route to host", "there is no route to it"),
        ("failed to connect to all addresses; last error: UNKNOWN: something new", "nothing answers at node7:7443 ("),
    ],
)
def test_what_grpc_says_where_there_was_no_connection(pki: Pki, said: str, says: str) -> None:
    """In gRPC's words, which a test cannot have it say everywhere; nothing was sent, so nothing was signalled."""
    failure = _failure.Failure(grpc.StatusCode.UNAVAILABLE, said, None)
    error = _failure.to_error(failure, _address.parse("node7:7443", tls=pki.tls()), signals=True)
    assert isinstance(error, Unreachable)
    assert error.nothing_signalled
    assert says in str(error)
    assert "192.0.2.7" not in str(error)
