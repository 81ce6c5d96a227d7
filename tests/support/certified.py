"""An agent that serves by TLS, and callers of it with certificates of a test's own authority."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from mrelease._certificates import create_authority, issue
from support import raw
from support.agent import Agent, running_agent
from support.lab import until

_SERVING = re.compile(r"serving TLS.* listen=(\S+)")

EVERYBODY = """
version: 1
rules:
- {name: everybody, callers: [{transport: unix}, {transport: mtls}], methods: ["*"]}
"""


@dataclass(frozen=True, slots=True)
class Certified:
    """``agent`` serves on its Unix socket too."""

    agent: Agent
    address: str
    folder: Path

    def caller(self, name: str, *, uris: Sequence[str] = (), dns: Sequence[str] = ()) -> contextlib.AbstractContextManager[raw.Caller]:
        """A caller with a certificate whose common name is ``name``."""
        if not (self.folder / f"{name}.crt").exists():
            issue(self.folder, name, server=False, client=True, uris=uris, dns=dns, days=1)
        return self._connected(name)

    @contextlib.contextmanager
    def _connected(self, name: str) -> Generator[raw.Caller, None, None]:
        credentials = grpc.ssl_channel_credentials(
            (self.folder / "ca.crt").read_bytes(), (self.folder / f"{name}.key").read_bytes(), (self.folder / f"{name}.crt").read_bytes()
        )
        with grpc.secure_channel(self.address, credentials, raw.OPTIONS) as channel:
            yield raw.Caller(channel)


@contextlib.contextmanager
def certified_agent(folder: Path, *flags: str, prefix: Sequence[str] = ()) -> Generator[Certified, None, None]:
    """Start an agent in ``folder`` with a port for TLS on the loopback interface; without a policy of its own it lets everybody do all.

    ``prefix`` is put before its command.
    """
    certificates = folder / "certificates"
    folder.mkdir(mode=0o700, exist_ok=True)
    create_authority(certificates, "tests", 1)
    issue(certificates, "agent", server=True, client=False, ips=["127.0.0.1"], days=1)
    files = [f"--tls-{key}={certificates / file}" for key, file in (("cert", "agent.crt"), ("key", "agent.key"), ("ca", "ca.crt"))]
    if not any(flag.partition("=")[0] == "--policy" for flag in flags):
        policy = folder / "policy.yaml"
        policy.write_text(EVERYBODY)
        policy.chmod(0o644)  # whatever the umask
        files.append(f"--policy={policy}")
    if not any(flag.partition("=")[0] == "--audit-dir" for flag in flags):
        files.append("--audit-dir=none")
    with running_agent(folder / "run", "--tls-listen", "127.0.0.1:0", *files, *flags, prefix=prefix) as agent:
        # The log is written behind the agent's back.
        until(lambda: _SERVING.search(agent.log) is not None, "the agent logs where it serves TLS")
        found = _SERVING.search(agent.log)
        assert found
        yield Certified(agent, found[1].removeprefix("tcp://"), certificates)
