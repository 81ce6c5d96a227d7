"""Certificates are exchanged while calls are made: none is lost, new connections use the new ones, what is broken is never taken."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from mrelease import TLS, Client, Process, Wait, _certificates, errors
from support import lab
from support.agent import PATIENCE
from support.pki import Pki
from support.tls_agent import TlsAgent, tls_agent

CALLERS = 3


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki.make(tmp_path / "pki" / "first")


@pytest.fixture
def other(tmp_path: Path) -> Pki:
    """The authority that comes after it."""
    return Pki.make(tmp_path / "pki" / "second")


@pytest.fixture
def node(pki: Pki, run_dir: Path) -> Generator[TlsAgent, None, None]:
    with tls_agent(run_dir, pki) as started:
        yield started


def replace(path: Path, content: bytes) -> None:
    """As every careful program does it."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(content)
    new.replace(path)


def give(source: Pki, name: str, target: Pki) -> None:
    """Put certificate and key of one authority in the place of another's."""
    replace(target.pair(name).key, source.pair(name).key.read_bytes())
    replace(target.pair(name).cert, source.pair(name).cert.read_bytes())


def shown(node: TlsAgent, ca: Path) -> bytes:
    """The certificate that the agent shows to who connects now, in DER."""
    made = ssl.create_default_context(cafile=str(ca))
    with (
        socket.create_connection(("127.0.0.1", node.port), PATIENCE) as plain,
        made.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        der = secured.getpeercert(binary_form=True)
    assert der
    return der


def der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text())


class Load:
    """Callers that kill one victim after another, and one that watches, each with a client of its own, until the end of the block."""

    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._stop = threading.Event()
        self._counts = [0] * (CALLERS + 1)

    def _kill(self, number: int) -> None:
        with self._make() as client:
            while not self._stop.is_set():
                with lab.live(lab.MIB) as victim:
                    assert client.kill_and_release(Process(victim.pid)).is_released
                self._counts[number] += 1

    def _watch(self) -> None:
        with self._make() as client, contextlib.closing(client.watch_memory(interval=0.1)) as samples:
            for _ in samples:
                self._counts[CALLERS] += 1
                if self._stop.is_set():
                    return

    def more(self) -> None:
        """Wait until each has done something from its beginning to its end."""
        before = list(self._counts)
        lab.until(lambda: self._failed() or all(now > then + 1 for now, then in zip(self._counts, before, strict=True)), "calls of each")

    def _failed(self) -> bool:
        return any(each.done() for each in self._futures)

    @contextlib.contextmanager
    def running(self) -> Generator[None, None, None]:
        with ThreadPoolExecutor(CALLERS + 1) as pool:
            self._futures: list[Future[None]] = [*(pool.submit(self._kill, n) for n in range(CALLERS)), pool.submit(self._watch)]
            try:
                self.more()
                yield
                self.more()
            finally:
                self._stop.set()
        for each in self._futures:
            each.result()


def test_everything_is_exchanged_under_load_and_nothing_is_lost(node: TlsAgent, pki: Pki, other: Pki) -> None:
    first_authority = pki.ca.read_bytes()
    old_client = TLS(first_authority, pki.pair("client").cert.read_bytes(), pki.pair("client").key.read_bytes())
    load = Load(lambda: node.client(pki.tls()))
    with (
        node.client(pki.tls()) as patient,
        ThreadPoolExecutor(1) as pool,
        lab.live(16 * lab.MIB) as victim,
        lab.hold_at_exit(victim) as hold,
        load.running(),
    ):
        in_flight = pool.submit(patient.kill_and_release, Process(victim.pid), wait=Wait.EXITED, timeout=200)
        hold.wait_held()

        _certificates.renew(pki.folder, "server", None)
        node.reloaded(1)
        assert shown(node, pki.ca) == der(pki.pair("server").cert)
        load.more()

        # Both sides believe both authorities: then certificates of the new one may come, one after the other.
        replace(pki.ca, first_authority + other.ca.read_bytes())
        node.reloaded(2)
        load.more()
        give(other, "client", pki)
        load.more()
        give(other, "server", pki)
        node.reloaded(3)
        assert shown(node, other.ca) == der(other.pair("server").cert)
        load.more()
        replace(pki.ca, other.ca.read_bytes())
        node.reloaded(4)
        load.more()

        # Who still has a certificate of the first one is not let in; who is in finishes.
        with (
            node.client(TLS(other.ca, old_client.cert, old_client.key)) as late,
            pytest.raises(errors.Unreachable, match="does not accept this caller"),
        ):
            late.get_node()
        assert not in_flight.done()
        hold.let_go()
        assert in_flight.result().is_released
    assert node.metric('mrelease_config_stale{what="tls"}') == 0
    assert node.metric('mrelease_reload_failures_total{what="tls"}') == 0


def test_what_is_broken_is_not_taken_and_said_once(node: TlsAgent, pki: Pki, other: Pki) -> None:
    before = shown(node, pki.ca)
    expiry = node.metric('mrelease_tls_certificate_expiry_timestamp_seconds{file="tls_cert"}')
    good = pki.pair("server").key.read_bytes()

    replace(pki.pair("server").key, other.pair("server").key.read_bytes())
    lab.until(lambda: node.lines('reload failed" what=tls') + node.lines("reload failed what=tls") == 1, "the line of the failure")
    assert "is not the key of the certificate in tls_cert" in node.agent.log
    assert node.metric('mrelease_config_stale{what="tls"}') == 1
    assert node.metric('mrelease_reload_failures_total{what="tls"}') == 1
    assert shown(node, pki.ca) == before
    with node.client(pki.tls()) as client:
        assert client.get_node().identity.boot_id

    pki.pair("server").key.unlink()
    lab.until(lambda: node.lines("cannot read ") == 1, "the line of the next failure")
    assert node.metric('mrelease_reload_failures_total{what="tls"}') == 2
    assert shown(node, pki.ca) == before

    replace(pki.pair("server").key, good)
    _certificates.renew(pki.folder, "server", 1)
    node.reloaded(1)
    assert node.lines("reload failed") == 2
    assert node.metric('mrelease_config_stale{what="tls"}') == 0
    assert node.metric('mrelease_tls_certificate_expiry_timestamp_seconds{file="tls_cert"}') < expiry
    assert shown(node, pki.ca) == der(pki.pair("server").cert)


def test_a_secret_as_kubernetes_mounts_it_changes_as_a_whole(pki: Pki, other: Pki, tmp_path: Path, run_dir: Path) -> None:
    """Directories of the time that they were written, and a link to the one in use, atomic_writer.go of kubelet."""
    mount = Pki(tmp_path / "mount")
    mount.folder.mkdir()
    for stamp, source in (("..2026_1", pki), ("..2026_2", other)):
        shutil.copytree(source.folder, mount.folder / stamp)
    (mount.folder / "..data").symlink_to("..2026_1")
    for name in ("ca.crt", "server.crt", "server.key"):
        (mount.folder / name).symlink_to(f"..data/{name}")
    with tls_agent(run_dir, mount) as node:
        assert shown(node, pki.ca) == der(pki.pair("server").cert)
        (mount.folder / "..data_tmp").symlink_to("..2026_2")
        (mount.folder / "..data_tmp").rename(mount.folder / "..data")
        shutil.rmtree(mount.folder / "..2026_1")
        node.reloaded(1)
        assert shown(node, other.ca) == der(other.pair("server").cert)
        with node.client(other.tls()) as client:
            assert client.get_node().identity.boot_id
        assert node.lines("reload failed") == 0


def test_a_revoked_certificate_is_refused_on_its_open_connection_too(pki: Pki, run_dir: Path) -> None:
    pki.issue("another")
    crl = _certificates.revoke(pki.folder, [], 1)
    with (
        tls_agent(run_dir, pki, "--tls-crl", str(crl)) as node,
        node.client(pki.tls()) as client,
        node.client(pki.tls("another")) as another,
    ):
        assert client.get_node().identity == another.get_node().identity
        _certificates.revoke(pki.folder, ["client"], 1)
        node.reloaded(1)
        with lab.live(lab.MIB) as victim:
            with pytest.raises(errors.CertificateRejected, match="was revoked") as caught:
                client.kill_and_release(Process(victim.pid))
            assert caught.value.nothing_signalled
            assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED
            with node.client(pki.tls()) as again, pytest.raises(errors.CertificateRejected):
                next(again.watch_memory())
            assert lab.state(victim.pid) != "Z"
            assert another.kill_and_release(Process(victim.pid)).is_released


def test_a_session_of_before_does_not_bring_back_who_is_no_longer_trusted(node: TlsAgent, pki: Pki, other: Pki) -> None:
    """A resumed session is not verified again, so its ticket must be worth nothing once the authorities have changed."""
    made = ssl.create_default_context(cafile=str(pki.ca))
    made.set_alpn_protocols(["h2"])
    made.load_cert_chain(pki.pair("client").cert, pki.pair("client").key)

    def connect(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bytes]:
        with (
            socket.create_connection(("127.0.0.1", node.port), PATIENCE) as plain,
            made.wrap_socket(plain, server_hostname="localhost", session=session) as secured,
        ):
            first = secured.recv(9)  # HTTP/2, after the tickets
            return secured.session, first

    ticket, said = connect(None)
    assert said
    replace(pki.ca, other.ca.read_bytes())
    node.reloaded(1)
    assert connect(ticket)[1] == b""
