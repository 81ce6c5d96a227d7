"""The agent called from Go: the load of ghz beside that of the SDK, by the Unix socket and by mutual TLS, in turns.

Nothing is killed: GetNode, and KillAndRelease with ``validate_only``, which makes every check.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

from bench import sdk_program
from bench.agents import bench_agent
from bench.guarded import certificates
from bench.programs import Programs, running
from bench.results import Ghz, GhzRow, Load, Run
from bench.rpc_cost import latency
from bench.scratch import scratch
from mrelease import TLS
from mrelease.v1 import node_service_pb2, release_service_pb2

_SERVICES = {"GetNode": "NodeService", "KillAndRelease": "ReleaseService"}
_MISSING = "ghz is not installed: go install github.com/bojand/ghz/cmd/ghz@v0.93.0"
_WARM_UP = 20
_SECONDS = 120
_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to an agent: ``sdk`` and ``ghz`` are its address as each of them writes it."""

    name: str
    sdk: str
    ghz: str
    tls: TLS | None = None

    @property
    def files(self) -> list[str]:
        return [str(file) for file in (self.tls.ca, self.tls.cert, self.tls.key)] if self.tls else []


@dataclass(slots=True)
class _Pool:
    """What one client took over all rounds."""

    took: list[float] = field(default_factory=list[float])
    rates: list[float] = field(default_factory=list[float])

    def add(self, rate: float, took: list[float]) -> None:
        self.rates.append(rate)
        self.took += took

    def load(self) -> Load:
        return Load(latency(self.took), statistics.median(self.rates))


def ghz(run: Run, programs: Programs, callers: tuple[int, ...], calls: int, rounds: int) -> Ghz:
    """Make ``calls`` calls by each client in each round, by each way and method and with so many ``callers`` at once on one connection.

    Raises RuntimeError where a call fails.
    """
    program = shutil.which("ghz")
    if program is None:
        return Ghz(run, skipped=_MISSING)
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        protoset = _protoset(folder / "contract.binpb")
        tls = certificates(folder, ["GetNode", "KillAndRelease"])
        files = ("--tls-cert", f"{folder}/agent.crt", "--tls-key", f"{folder}/agent.key", "--tls-ca", f"{folder}/ca.crt")
        unix = stack.enter_context(bench_agent())
        policy = ("--policy", f"{folder}/policy.yaml", "--audit-dir", "none")
        remote = stack.enter_context(bench_agent("--tls-listen", "127.0.0.1:0", *files, *policy))
        ways = [
            _Way("Unix socket", unix.address, unix.address),
            _Way("mutual TLS, policy", remote.tls_address, remote.tls_address, tls),
        ]
        victim = stack.enter_context(running([programs.victim, "-p", os.getpid(), "hold", _SIZE]))
        victim.hear()
        rows: list[GhzRow] = []
        for way in ways:
            for method in _SERVICES:
                for count in callers:
                    by_ghz, by_sdk = _Pool(), _Pool()
                    for number in range(rounds):
                        for pool in (by_ghz, by_sdk) if number % 2 else (by_sdk, by_ghz):
                            if pool is by_ghz:
                                pool.add(*_by_ghz(program, protoset, way, method, count, calls, victim.pid))
                            else:
                                pool.add(*_by_sdk(way, method, count, calls, victim.pid))
                    rows.append(GhzRow(way.name, method, count, by_ghz.load(), by_sdk.load()))
    return Ghz(run, rounds, rows)


def _protoset(file: Path) -> Path:
    """Write the contract as `protoc --descriptor_set_out` does: the parser of this ghz is older than `optional` in proto3."""
    found: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(part: FileDescriptor) -> None:
        for needed in part.dependencies:
            add(needed)
        found[part.name] = descriptor_pb2.FileDescriptorProto.FromString(part.serialized_pb)

    add(node_service_pb2.DESCRIPTOR)
    add(release_service_pb2.DESCRIPTOR)
    file.write_bytes(descriptor_pb2.FileDescriptorSet(file=found.values()).SerializeToString())
    return file


def _by_ghz(program: str, protoset: Path, way: _Way, method: str, callers: int, calls: int, pid: int) -> tuple[float, list[float]]:
    """Calls a second, and what each took; the first ones, which connect, are left out."""
    request: dict[str, Any] = {} if method == "GetNode" else {"target": {"process": {"pid": str(pid)}}, "validate_only": True}
    flags = [f"--{name}={file}" for name, file in zip(("cacert", "cert", "key"), way.files, strict=False)] or ["--insecure"]
    done = subprocess.run(
        [
            *(program, "--protoset", str(protoset), "--call", f"mrelease.v1.{_SERVICES[method]}/{method}"),
            *("--concurrency", str(callers), "--total", str(calls + _WARM_UP), "--connections", "1"),
            *("--data", json.dumps(request), "--format", "json", *flags, way.ghz),
        ],
        capture_output=True, text=True, timeout=_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"ghz, {method}: {done.stdout}{done.stderr}")
    told: dict[str, Any] = json.loads(done.stdout)
    if set(told["statusCodeDistribution"]) != {"OK"}:
        raise RuntimeError(f"ghz, {method}: {told['statusCodeDistribution']} {told['errorDistribution']}")
    details = sorted(told["details"], key=lambda call: call["timestamp"])
    return told["rps"], [call["latency"] / 1e9 for call in details[_WARM_UP:]]


def _by_sdk(way: _Way, method: str, callers: int, calls: int, pid: int) -> tuple[float, list[float]]:
    with running([sys.executable, "-m", sdk_program.__name__, method, way.sdk, callers, calls, pid, *way.files]) as program:
        rate, *took = map(float, program.hear(_SECONDS))
    return rate, took
