"""What trust costs: the same small kills by plaintext, by mutual TLS with an access policy, and with the audit log besides."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path

from bench.agents import bench_agent
from bench.programs import Programs, running
from bench.results import Guarded, Run
from bench.rpc_cost import latency
from bench.scratch import scratch
from mrelease import TLS, Client, Process

_SIZE = 1 << 20
#: The first calls on a channel are slower: they connect.
_WARM_UP = 20
_POLICY = "version: 1\nrules:\n- {{name: bench, callers: [{{cn: bench}}], methods: [{}]}}\n"


def guarded(run: Run, programs: Programs, calls: int) -> Guarded:
    """Kill ``calls`` sleeping victims of 1 MiB by each way, in turns. Raises RuntimeError for a verdict other than RELEASED and EXITED."""
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        tls = certificates(folder, ["KillAndRelease"])
        files = ("--tls-cert", f"{folder}/agent.crt", "--tls-key", f"{folder}/agent.key", "--tls-ca", f"{folder}/ca.crt")
        secure = ("--tls-listen", "127.0.0.1:0", *files, "--policy", f"{folder}/policy.yaml", "--audit-dir")
        plain = stack.enter_context(bench_agent(tcp=True))
        trusting = stack.enter_context(bench_agent(*secure, "none"))
        audited = stack.enter_context(bench_agent(*secure, f"{folder}/audit"))
        clients = [
            stack.enter_context(Client(plain.address)),
            stack.enter_context(Client(trusting.tls_address, tls=tls)),
            stack.enter_context(Client(audited.tls_address, tls=tls)),
        ]
        whole: list[list[float]] = [[] for _ in clients]
        over: list[list[float]] = [[] for _ in clients]
        for number in range(_WARM_UP + calls):
            for turn in range(len(clients)):
                which = (number + turn) % len(clients)
                with running([programs.victim, "-p", os.getpid(), "hold", _SIZE]) as victim:
                    victim.hear()
                    took, released = _kill(clients[which], victim.pid)
                whole[which].append(took)
                over[which].append(took - released)
    return Guarded(run, *(latency(each[_WARM_UP:]) for each in (*whole, *over)))


def _kill(client: Client, pid: int) -> tuple[float, float]:
    """Seconds that the call took, and those of the release itself."""
    start = time.perf_counter()
    result = client.kill_and_release(Process(pid))
    took = time.perf_counter() - start
    released = result.processes[0].release_duration
    if not result.is_released or released is None:
        raise RuntimeError(f"a victim of 1 MiB: {result}")
    return took, released.total_seconds()


def certificates(folder: Path, methods: list[str]) -> TLS:
    """Write certificates of agent and caller, and a policy that lets this caller call ``methods``."""
    from mrelease import _certificates

    _certificates.create_authority(folder, "bench", 1)
    _certificates.issue(folder, "agent", server=True, client=False, ips=["127.0.0.1"], days=1)
    _certificates.issue(folder, "bench", server=False, client=True, days=1)
    (folder / "policy.yaml").write_text(_POLICY.format(", ".join(methods)))
    return TLS(folder / "ca.crt", folder / "bench.crt", folder / "bench.key")
