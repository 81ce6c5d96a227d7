"""A real agent with a port for mutual TLS, beside its Unix socket."""

from __future__ import annotations

import contextlib
import re
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from mrelease import TLS, AsyncClient, Client
from support.agent import Agent, running_agent
from support.lab import until
from support.pki import Pair, Pki

_POLICY = "version: 1\nrules:\n- name: all\n  callers: [{transport: mtls}, {transport: unix}]\n  methods: ['*']\n"


@dataclass(frozen=True, slots=True)
class TlsAgent:
    """The agent, the port of its TLS and of its metrics."""

    agent: Agent
    port: int
    http: str

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def client(self, tls: TLS, address: str | None = None) -> Client:
        return Client(address or self.address, tls=tls)

    def async_client(self, tls: TLS) -> AsyncClient:
        return AsyncClient(self.address, tls=tls)

    def metric(self, series: str) -> float:
        """Value of a series, by its name with its labels."""
        with urllib.request.urlopen(f"http://{self.http}/metrics") as answer:
            found = re.search(rf"^{re.escape(series)} (\S+)$", answer.read().decode(), re.MULTILINE)
        assert found, series
        return float(found[1])

    def lines(self, text: str) -> int:
        """How often the log says so."""
        return self.agent.log.count(text)

    def reloaded(self, times: int) -> None:
        """Wait until certificates were exchanged so often."""
        until(lambda: self.lines("reloaded what=tls") >= times, f"{times} reloads: {self.agent.log}")


@contextlib.contextmanager
def tls_agent(folder: Path, pki: Pki, *flags: str, server: Pair | None = None) -> Generator[TlsAgent, None, None]:
    """Serve with the server's certificate of ``pki``, to callers of its authority."""
    server = server or pki.pair("server")
    folder.mkdir(mode=0o700, exist_ok=True)
    policy = folder / "policy.yaml"
    policy.write_text(_POLICY)
    files = ("--tls-cert", str(server.cert), "--tls-key", str(server.key), "--tls-ca", str(pki.ca))
    guard = ("--policy", str(policy), "--audit-dir", str(folder / "audit"))
    with running_agent(folder, "--tls-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", *files, *guard, *flags) as agent:
        # They are said before "serving", but the log is written on a thread of its own.
        found: dict[str, str] = {}

        def said() -> bool:
            found.update(re.findall(r"serving (TLS|HTTP) listen=(\S+)", agent.log))
            return len(found) == 2

        until(said, f"it says where it serves: {agent.log}")
        yield TlsAgent(agent, int(found["TLS"].rpartition(":")[2]), found["HTTP"])
