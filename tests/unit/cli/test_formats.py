from __future__ import annotations

import json

import pytest
import yaml
from google.protobuf import json_format

import mrelease
from mrelease import _calls
from mrelease.cli import formats
from mrelease.v1 import node_service_pb2, release_service_pb2, result_pb2, target_pb2
from support.sdk_samples import full_message, kill_call

KILL = kill_call()


def test_json_of_a_result_is_the_contracts_json() -> None:
    message = full_message(release_service_pb2.KillAndReleaseResponse)
    data = formats.to_data(KILL.decode(message))
    assert json_format.Parse(formats.dump(data, "json"), result_pb2.ReleaseResult()) == message.result


def test_json_of_a_node_is_the_contracts_json() -> None:
    message = full_message(node_service_pb2.GetNodeResponse)
    data = formats.to_data(_calls.get_node(1).decode(message))
    assert json_format.Parse(formats.dump(data, "json"), node_service_pb2.Node()) == message.node


def test_json_of_a_list_is_the_contracts_json() -> None:
    message = full_message(node_service_pb2.ListProcessesResponse)
    message.next_page_token = ""
    pages = _calls.list_processes(1, None, None, 1)
    next(pages)
    with pytest.raises(StopIteration) as end:
        pages.send(message)
    data = formats.to_data(end.value.value)
    assert json_format.Parse(formats.dump(data, "json"), node_service_pb2.ListProcessesResponse()) == message


def test_an_empty_result_has_every_key_and_the_contracts_defaults() -> None:
    message = release_service_pb2.KillAndReleaseResponse()
    message.result.processes.add()
    data = formats.to_data(KILL.decode(message))
    assert set(data) == {f.name for f in message.result.DESCRIPTOR.fields}
    assert set(data["processes"][0]) == {f.name for f in message.result.processes[0].DESCRIPTOR.fields}
    parsed = json_format.Parse(json.dumps(data), result_pb2.ReleaseResult())
    assert parsed.processes[0] == result_pb2.ProcessResult(process=target_pb2.ProcessTarget())
    assert data["processes"][0]["kill_time"] is None


def test_numbers_are_numbers_and_enums_are_full_names() -> None:
    message = full_message(release_service_pb2.KillAndReleaseResponse)
    data = formats.to_data(KILL.decode(message))
    assert isinstance(data["released_bytes"], int)
    assert data["verdict"] == "VERDICT_RELEASED"
    assert data["processes"][0]["unreleased"][0]["cause"] == "UNRELEASED_CAUSE_HELD"
    assert data["processes"][0]["release_duration"] == "1.250s"
    process = message.result.processes[0]
    assert data["processes"][0]["held_cause"] == "HELD_CAUSE_UNINTERRUPTIBLE"
    assert data["processes"][0]["tracer_pid"] == process.tracer_pid
    assert data["processes"][0]["reader_pids"] == list(process.reader_pids)
    assert data["processes"][0]["kill_time"] == "2026-01-02T03:04:05.678900Z"


def test_an_enum_value_of_a_newer_agent_is_its_number() -> None:
    assert formats.to_data(mrelease.Outcome(97)) == 97


def test_yaml_says_the_same_as_json() -> None:
    data = formats.to_data(KILL.decode(full_message(release_service_pb2.KillAndReleaseResponse)))
    data["processes"][0]["command"] = "\x1b[2J: - {内存"
    text = formats.dump(data, "yaml")
    assert text.isascii()
    assert "\x1b" not in text
    assert yaml.safe_load(text) == json.loads(formats.dump(data, "json")) == data
