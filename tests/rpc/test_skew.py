"""Callers and agents of different versions: what both know works, and what one of them does not know is said, or survived."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

import mrelease
from mrelease import Custom, Process, Verdict, _status, errors
from mrelease.v1 import node_service_pb2, release_service_pb2
from support import lab, other_agent
from support.agent import Agent, running_agent
from support.sdk_fake_agent import Fail, fake_agent
from support.sdk_samples import full_message

(RELEASED,) = (Path(__file__).parents[2] / "proto/released").glob("*.binpb")
JOB = Custom("slurm", {"job": "1234"})


class Contract:
    """A contract of its own, beside that of the tree: messages by their name."""

    def __init__(self, files: descriptor_pb2.FileDescriptorSet) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        for file in files.file:
            self._pool.AddSerializedFile(file.SerializeToString())

    @classmethod
    def released(cls) -> Contract:
        return cls(descriptor_pb2.FileDescriptorSet.FromString(RELEASED.read_bytes()))

    @classmethod
    def newer(cls, message: str, field: str) -> Contract:
        """The released one with a number more in a message."""
        files = descriptor_pb2.FileDescriptorSet.FromString(RELEASED.read_bytes())
        (found,) = [each for file in files.file for each in file.message_type if f"{file.package}.{each.name}" == f"mrelease.v1.{message}"]
        kinds = descriptor_pb2.FieldDescriptorProto
        found.field.add(name=field, number=999, type=kinds.TYPE_INT64, label=kinds.LABEL_OPTIONAL)
        return cls(files)

    def __getattr__(self, name: str) -> Any:
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"mrelease.v1.{name}"))


def call(agent: Agent, method: str, request: Message, response: Any) -> Any:
    with grpc.insecure_channel(agent.address) as channel:
        made = channel.unary_unary(f"/mrelease.v1.{method}", type(request).SerializeToString, response.FromString)
        return made(request, timeout=60)


# A caller older than the agent


def test_a_client_made_from_the_last_release_kills_and_reads_the_proof(agent: Agent) -> None:
    v1 = Contract.released()
    with lab.live(16 * lab.MIB) as victim:
        rows = call(agent, "NodeService/ListProcesses", v1.ListProcessesRequest(page_size=1000), v1.ListProcessesResponse).processes
        (row,) = [row for row in rows if row.process.pid == victim.pid]
        request = v1.KillAndReleaseRequest(target=v1.Target(process=row.process), request_id="from-an-older-client")
        result = call(agent, "ReleaseService/KillAndRelease", request, v1.KillAndReleaseResponse).result
    assert result.verdict in (Verdict.RELEASED, Verdict.EXITED)
    assert [process.process.pid for process in result.processes] == [victim.pid]
    assert call(agent, "NodeService/GetNode", v1.GetNodeRequest(), v1.GetNodeResponse).node.agent_version


def test_a_client_survives_what_a_newer_agent_adds(tmp_path: Path) -> None:
    """An agent that nobody has yet: its answers are made up."""
    response = full_message(release_service_pb2.KillAndReleaseResponse)
    response.result.verdict = 77  # type: ignore[assignment]
    unknown = b"\xba\x3e\x03new"  # field 999, three bytes
    with fake_agent(tmp_path) as fake, mrelease.Client(fake.address) as node:
        fake.script("KillAndRelease", type(response).FromString(response.SerializeToString() + unknown))
        result = node.kill_and_release(Process(4711))
        assert str(result.verdict) == "UNKNOWN_77"
        assert not result.is_released
        with pytest.raises(errors.NotReleased):
            result.raise_unless_released()
        details = _status.ErrorDetails("MOON_IS_FULL", {"remedy": "wait for the next one", "phase": "7"}, retry_after=3)
        fake.script("KillAndRelease", Fail(grpc.StatusCode.UNAVAILABLE, "the moon is full", details))
        with pytest.raises(errors.AgentError) as caught:
            node.kill_and_release(Process(4711))
    assert (caught.value.reason, caught.value.metadata["phase"]) == ("MOON_IS_FULL", "7")
    assert str(caught.value) == "the moon is full (wait for the next one)"
    assert caught.value.retry_after is not None
    assert not caught.value.nothing_signalled, "what nobody has told is not taken for harmless"


# A caller newer than the agent


@pytest.mark.parametrize("message", ["KillAndReleaseRequest", "Target", "ProcessTarget", "NodePrecondition"])
def test_what_a_newer_client_relies_on_is_never_left_out(message: str, agent: Agent) -> None:
    v1 = Contract.newer(message, "unless_it_is_tuesday")
    with lab.live(lab.MIB) as victim:
        request = v1.KillAndReleaseRequest(target=v1.Target(process=v1.ProcessTarget(pid=victim.pid)))
        part = {"KillAndReleaseRequest": request, "Target": request.target, "ProcessTarget": request.target.process}
        part.get(message, request.node).unless_it_is_tuesday = 1
        with pytest.raises(grpc.RpcError) as caught:
            call(agent, "ReleaseService/KillAndRelease", request, v1.KillAndReleaseResponse)
        failure: Any = caught.value
        assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert f"999 is not known to this agent, version {mrelease.__version__}: upgrade the agent" in failure.details()
        assert not victim.exited(0)


def test_an_older_agent_refuses_a_custom_target_and_the_sdk_says_its_name_and_version(run_dir: Path) -> None:
    prefix = other_agent.version("0.0.9", "mrelease.v1.Target.custom")
    said = "target.custom is not known to this agent, version 0.0.9: upgrade the agent, or use a client of its version"
    with running_agent(run_dir, prefix=prefix) as agent, agent.client() as node, lab.live(lab.MIB) as victim:
        with pytest.raises(errors.InvalidField) as caught:
            node.kill_and_release(JOB)
        assert str(caught.value) == said
        assert caught.value.nothing_signalled
        assert (caught.value.metadata["field"], caught.value.metadata["agent_version"]) == ("target.5", "0.0.9")
        with pytest.raises(errors.InvalidField, match=r"^candidates\[1\]\.custom is not known to this agent, version 0\.0\.9"):
            list(node.reclaim([Process(victim.pid), JOB], released_bytes=1))
        with pytest.raises(errors.InvalidField, match=r"^within\.custom is not known"):
            node.list_processes(within=JOB)

        async def aio() -> None:
            async with mrelease.AsyncClient(agent.address) as other:
                await other.kill_and_release(JOB)

        with pytest.raises(errors.InvalidField, match=said):
            asyncio.run(aio())
        assert node.get_node().target_kinds == ()
        assert not victim.exited(0)
        # All else is as ever.
        assert node.kill_and_release(Process(victim.pid)).is_released


def test_a_method_that_an_agent_does_not_have_yet_names_its_version(agent: Agent) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(agent, "NodeService/WatchTheMoon", node_service_pb2.GetNodeRequest(), node_service_pb2.GetNodeResponse)
    failure: Any = caught.value
    assert failure.code() is grpc.StatusCode.UNIMPLEMENTED
    assert f"version {mrelease.__version__}" in failure.details()
