"""Many agents in one process: each a server of its own with the agent's services, limits and interceptor, on a port of its own.

What they share is what a fleet does not notice: the event loop, and the kernel. KillAndRelease and Release end in a seam that kills nobody
and says that the process was released; everything before it is the agent's. GetNode is the agent's, of this machine, under another name.

    python fleet_agents.py '{"first": 0, "count": 50, "odd": {"3": "silent"}, "tls": null}'

Writes one line of JSON, the ports, when it serves; ends when its standard input does. An odd agent is one of

    silent         takes connections, and never answers
    late SECONDS   answers after so long
    gate FIFO      answers when somebody has FIFO open for writing
    boot           runs in another boot than the name says
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrelease import TLS
    from support.pki import Pki

#: What every agent calls the boot that it runs in.
BOOT = "11111111-2222-3333-4444-555555555555"
OTHER_BOOT = "99999999-2222-3333-4444-555555555555"
#: Bytes that the seam says each process gave back.
RELEASED = 1 << 20


def name_of(number: int) -> str:
    """What an agent calls its node."""
    return f"node{number:04}"


@dataclass(frozen=True, slots=True)
class Crowd:
    """The agents of one process: their addresses by the names of their nodes, and how much memory it has."""

    agents: dict[str, str]
    pid: int


@contextmanager
def fleet_agents(
    count: int, *, first: int = 0, odd: Mapping[int, str] | None = None, pki: Pki | None = None, tmp: Path | None = None
) -> Generator[Crowd, None, None]:
    """Serve ``count`` agents, with numbers from ``first`` on, for as long as the context lasts; with ``pki`` by mutual TLS."""
    tls: dict[str, str] | None = None
    if pki is not None:
        assert tmp is not None
        policy = tmp / "policy.yaml"
        policy.write_text("version: 1\nrules:\n- name: all\n  callers: [{transport: mtls}]\n  methods: ['*']\n")
        pair = pki.pair("server")
        tls = {"cert": str(pair.cert), "key": str(pair.key), "ca": str(pki.ca), "policy": str(policy)}
    told = {"first": first, "count": count, "odd": {str(number): kind for number, kind in (odd or {}).items()}, "tls": tls}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MRELEASE_")}
    command = [sys.executable, str(Path(__file__).resolve()), json.dumps(told)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, f"the agents ended with {process.wait()}"
        ports: list[int] = json.loads(line)
        yield Crowd({name_of(first + at): f"127.0.0.1:{port}" for at, port in enumerate(ports)}, process.pid)
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def shown(pki: Pki) -> TLS:
    """What a caller shows them."""
    return pki.tls("client")


def main() -> None:
    """Serve until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started us ends us
    from mrelease_agent import grpc_environment

    grpc_environment.prepare()
    import asyncio

    asyncio.run(_serve(json.loads(sys.argv[1])))


async def _serve(told: dict[str, Any]) -> None:
    import asyncio

    from mrelease_agent.agent import raise_file_limit

    raise_file_limit()
    made = _Agents(told["tls"])
    servers: list[Any] = []
    ports: list[int] = []
    for number in range(told["first"], told["first"] + told["count"]):
        server, port = await made.start(name_of(number), told["odd"].get(str(number), ""))
        servers.append(server)
        ports.append(port)
    print(json.dumps(ports), flush=True)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(0, ended.set)
    await ended.wait()
    # Nobody waits for calls of those that never answer.
    os._exit(0)


class _Agents:
    """Makes agents as ``mrelease_agent.agent`` does, with one set of reaper threads for all of them."""

    def __init__(self, tls: dict[str, str] | None) -> None:
        from mrelease_agent.boosting.booster import Booster
        from mrelease_agent.config import load
        from mrelease_agent.guard.gate import Gate
        from mrelease_agent.linux.capabilities import probe
        from mrelease_agent.reaping.reapers import Reapers
        from mrelease_agent.rpc.tls import TlsPort
        from mrelease_agent.telemetry.metrics import Metrics

        flags = ["--listen", "unix:///nowhere/agent.sock", "--audit-dir", "none"]
        if tls is not None:
            files = [f"--tls-{name}={tls[name]}" for name in ("cert", "key", "ca")]
            flags += ["--tls-listen", "127.0.0.1:0", "--policy", tls["policy"], *files]
        self.config = load(flags, {"HOME": os.sep})
        self.metrics, self.gate = Metrics(), Gate()
        self.capabilities = probe(nice=None).plus(Booster(None).features())
        self.side = Reapers(1, 1)
        self.tls = None if tls is None else TlsPort(self.config, _tell, _tell)

    async def start(self, name: str, odd: str) -> tuple[Any, int]:
        """One of them, and its port."""
        import grpc.aio

        from mrelease.v1 import node_service_pb2_grpc, release_service_pb2_grpc, result_pb2
        from mrelease_agent.reaping.sharer_search import SharerSearch
        from mrelease_agent.rpc.callers import caller_of
        from mrelease_agent.rpc.interceptor import Interceptor
        from mrelease_agent.rpc.limits import Limits
        from mrelease_agent.rpc.listener import CHANNEL_OPTIONS
        from mrelease_agent.rpc.node_service import NodeService
        from mrelease_agent.rpc.operations import Operations
        from mrelease_agent.rpc.release_service import ReleaseService, Settings
        from mrelease_agent.rpc.requests import Requests
        from mrelease_agent.rpc.watch_memory import Watchers

        config, limits = self.config, Limits(calls=1024, connections=512)
        identity = result_pb2.NodeIdentity(name=name, boot_id=OTHER_BOOT if odd == "boot" else BOOT)
        settings = Settings(config.reap_delay, config.default_timeout, config.max_timeout)
        execution = _seam(self, odd)
        operations, requests = Operations(config.max_operations), Requests(config.result_ttl, config.max_results)
        release = ReleaseService(identity, settings, self.capabilities, execution, operations, requests)

        class Nodes(NodeService):
            async def GetNode(self, request: Any, context: Any) -> Any:  # noqa: N802 -- the contract's name
                await _wait(odd)
                return await super().GetNode(request, context)

        nodes = Nodes(identity, self.capabilities, Watchers(config.max_watchers), SharerSearch(self.side), self.gate)
        tls = self.tls
        interceptor = Interceptor(self.metrics, self.gate, caller_of if tls is None else tls.callers.of, limits.calls)
        options = [*CHANNEL_OPTIONS, *(() if tls is None else tls.options), *limits.options]
        server = grpc.aio.server(interceptors=[interceptor], options=options)
        release_service_pb2_grpc.add_ReleaseServiceServicer_to_server(release, server)
        node_service_pb2_grpc.add_NodeServiceServicer_to_server(nodes, server)
        port = server.add_insecure_port("127.0.0.1:0") if tls is None else tls.add_to(server).port
        await server.start()
        return server, port


def _seam(agents: _Agents, odd: str) -> Any:
    """What carries orders out: nobody is killed, and the answer is the one of a process that was released."""
    from mrelease_agent.linux.process import Identity
    from mrelease_agent.linux.procfs import Memory
    from mrelease_agent.reaping.outcome import Outcome, Proof, Step
    from mrelease_agent.reaping.report import Done, Report
    from mrelease_agent.rpc.execution import Execution, Order

    class Seam(Execution):
        def __init__(self) -> None:
            self._capabilities = agents.capabilities

        @property
        def exhausted(self) -> bool:
            return False

        async def run(self, order: Order, progress: Any = None) -> Done:
            del progress
            await _wait(odd)
            target = order.target.process
            identity = Identity(target.pid, target.pidfd_inode, target.start_time_ticks, "victim")
            before, after = Memory(RELEASED, 0, 0, 0, 0, 0), Memory(0, 0, 0, 0, 0, 0)
            return Done([Report(identity, Outcome.RELEASED, Step.RELEASE, 0, before, after, RELEASED, Proof.RELEASE)])

    return Seam()


def _tell(*_: object) -> None:
    """Nobody wants to know."""


async def _wait(odd: str) -> None:
    import asyncio

    kind, _, argument = odd.partition(" ")
    if kind == "silent":
        await asyncio.Event().wait()
    elif kind == "late":
        await asyncio.sleep(float(argument))
    elif kind == "gate":
        os.close(await asyncio.to_thread(os.open, argument, os.O_RDONLY))


if __name__ == "__main__":
    main()
