"""A real kube-apiserver with its etcd and nothing else: what a cluster of any size is to those who only ask it.

Objects of nodes, pods and EndpointSlices are written into it as kubelets and controllers would write them. To a client that reads there is
no difference to nodes that exist, or that kwok plays: it sees the same objects by the same requests. What needs kubelet is not there, as
tunnels to pods do.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from support import patience
from support.lab import Unavailable, until
from support.pki import Pki

#: Users of the API server: who writes the objects, and who is measured.
ADMIN, CALLER = "admin", "caller"
_REQUESTS = re.compile(r"apiserver_request_total\{([^}]*)\} (\S+)")
_SIZES = re.compile(r"apiserver_response_sizes_sum\{([^}]*)\} (\S+)")
_LONG = re.compile(r"apiserver_longrunning_requests\{([^}]*)\} (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
# Requests under way at the same time while objects are written.
_WRITERS = 8
_KEPT = 30.0


@dataclass(slots=True)
class Plane:
    """The API server. ``directory`` has a kubeconfig of each user: ``kubeconfig(CALLER)``."""

    directory: Path
    port: int
    tls: ssl.SSLContext
    apiserver_pid: int
    #: Connections that nobody uses, and until when: the server closes one that says nothing for 90 s.
    _idle: list[tuple[float, http.client.HTTPSConnection]] = field(default_factory=list[tuple[float, http.client.HTTPSConnection]])

    def kubeconfig(self, user: str) -> Path:
        """The file of a user."""
        return self.directory / f"{user}.conf"

    def ask(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> bytes:
        """The answer to a request of ADMIN's. Raises RuntimeError where it is refused."""
        end, connection = self._idle.pop() if self._idle else (0.0, None)
        if connection is None or time.monotonic() > end:
            if connection is not None:
                connection.close()
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.tls, timeout=60)
        headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": content_type}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read()
        except BaseException:
            connection.close()
            raise
        self._idle.append((time.monotonic() + _KEPT, connection))
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:500]!r}")
        return content

    def close(self) -> None:
        """Close what is open to it."""
        while self._idle:
            self._idle.pop()[1].close()

    def create(self, path: str, objects: Iterable[dict[str, Any]], *, status: bool = False) -> None:
        """Create objects of a collection; ``status``: and their status, which the API server takes apart from the rest."""

        def one(item: dict[str, Any]) -> None:
            self.ask("POST", path, item)
            if status:
                patch = {"status": item["status"]}
                self.ask("PATCH", f"{path}/{item['metadata']['name']}/status", patch, "application/merge-patch+json")

        with ThreadPoolExecutor(_WRITERS) as threads:
            for _ in threads.map(one, objects):
                pass

    def requests(self) -> Counter[str]:
        """How many requests the API server has answered since it was started, by its own metric: ``LIST pods`` and so on.

        Without its own and with watches only when they end. LIST is one page.
        """
        return self._metric(_REQUESTS)

    def sent_bytes(self) -> Counter[str]:
        """Bytes of answers, by the same names."""
        return self._metric(_SIZES)

    def watches(self) -> Counter[str]:
        """How many watches are open now, by the resource."""
        return Counter({name.removeprefix("WATCH "): n for name, n in self._metric(_LONG).items() if name.startswith("WATCH ")})

    def rss_bytes(self) -> int:
        """Memory of kube-apiserver."""
        return rss_of(self.apiserver_pid)

    def _metric(self, pattern: re.Pattern[str]) -> Counter[str]:
        found: Counter[str] = Counter()
        for labels, value in pattern.findall(self.ask("GET", "/metrics").decode()):
            named = dict(_LABEL.findall(labels))
            below = f"/{named['subresource']}" if named.get("subresource") else ""
            found[f"{named['verb']} {named['resource']}{below}"] += int(float(value))
        return found


def rss_of(pid: int) -> int:
    """Resident memory of a process, bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def plane() -> Generator[Plane]:
    """An API server of this machine's own, on free ports of the loopback interface; its data goes with it. Raises Unavailable."""
    programs = Path(os.environ.get("E2E_CACHE") or Path.home() / ".cache" / "mrelease-e2e") / "bin"
    if not (programs / "kube-apiserver").exists():
        raise Unavailable("there is no kube-apiserver: `make e2e-up` builds it")
    with tempfile.TemporaryDirectory(prefix="mrelease-plane-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        client, peer, port = _free_ports(3)
        etcd = [
            *(str(programs / "etcd"), "--data-dir", str(directory / "etcd"), "--unsafe-no-fsync", "--log-level", "error"),
            *("--listen-client-urls", f"http://127.0.0.1:{client}", "--advertise-client-urls", f"http://127.0.0.1:{client}"),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-cluster", f"default=http://127.0.0.1:{peer}", "--quota-backend-bytes", str(4 << 30)),
        ]
        stack.enter_context(_running(etcd, directory / "etcd.log"))
        pki = Pki.make(directory)
        server, authority = pki.pair("server"), pki.ca.read_bytes()
        accounts = directory / "accounts.key"
        key = ec.generate_private_key(ec.SECP256R1())
        accounts.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
        (directory / "tokens.csv").write_text(f'{ADMIN},{ADMIN},1,"system:masters"\n{CALLER},{CALLER},2\n')
        apiserver = [
            *(str(programs / "kube-apiserver"), "--bind-address", "127.0.0.1", "--secure-port", str(port)),
            *("--advertise-address", "127.0.0.1", "--etcd-servers", f"http://127.0.0.1:{client}"),
            *("--tls-cert-file", str(server.cert), "--tls-private-key-file", str(server.key)),
            *("--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", str(accounts)),
            *("--service-account-signing-key-file", str(accounts), "--token-auth-file", str(directory / "tokens.csv")),
            # No controller makes the accounts that it would want of pods. Who may what is tested elsewhere.
            *("--disable-admission-plugins", "ServiceAccount", "--authorization-mode", "AlwaysAllow"),
            *("--endpoint-reconciler-type", "none", "--service-cluster-ip-range", "10.99.0.0/16"),
        ]
        process = stack.enter_context(_running(apiserver, directory / "apiserver.log"))
        made = Plane(directory, port, ssl.create_default_context(cadata=authority.decode()), process.pid)
        for user in (ADMIN, CALLER):
            _write_kubeconfig(made.kubeconfig(user), port, authority, user)

        def is_ready() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"kube-apiserver ended: {(directory / 'apiserver.log').read_text()[-2000:]}")
            try:
                return made.ask("GET", "/readyz") == b"ok"
            except (OSError, RuntimeError, http.client.HTTPException):
                return False

        stack.callback(made.close)
        until(is_ready, "the API server to be ready", 60 * patience.FACTOR)
        yield made


@contextlib.contextmanager
def _running(command: Sequence[str], log: Path) -> Generator[subprocess.Popen[bytes]]:
    with log.open("wb") as file, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file) as process:
        try:
            yield process
        finally:
            process.kill()  # its data is thrown away


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _write_kubeconfig(file: Path, port: int, authority: bytes, user: str) -> None:
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": base64.b64encode(authority).decode()}
    data = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "plane",
        "contexts": [{"name": "plane", "context": {"cluster": "plane", "user": user}}],
        "clusters": [{"name": "plane", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": user}}],
    }
    file.write_text(yaml.safe_dump(data))
