from __future__ import annotations

import copy
import pickle

import pytest
from google.protobuf.descriptor import EnumDescriptor

import mrelease
from mrelease.v1 import memory_pb2, node_service_pb2, outcome_pb2

ENUMS = [
    *(outcome_pb2.DESCRIPTOR.enum_types_by_name.values()),
    *(node_service_pb2.DESCRIPTOR.enum_types_by_name.values()),
    *(memory_pb2.DESCRIPTOR.enum_types_by_name.values()),
]


@pytest.mark.parametrize("descriptor", ENUMS, ids=lambda d: d.name)
def test_every_enum_has_the_numbers_and_names_of_the_contract(descriptor: EnumDescriptor) -> None:
    ours = getattr(mrelease, descriptor.name)
    prefix = "".join(f"_{c}" if c.isupper() and i else c for i, c in enumerate(descriptor.name)).upper() + "_"
    assert {value.name.removeprefix(prefix): value.number for value in descriptor.values} == {m.name: int(m) for m in ours}


def test_a_number_of_a_newer_agent_has_a_readable_name_and_keeps_its_number() -> None:
    future = mrelease.Outcome(97)
    assert isinstance(future, mrelease.Outcome)
    assert (str(future), f"{future:>12}", int(future), future.name) == ("UNKNOWN_97", "  UNKNOWN_97", 97, "UNKNOWN_97")
    assert future == mrelease.Outcome(97)
    assert {future: 1}[mrelease.Outcome(97)] == 1
    assert pickle.loads(pickle.dumps(future)) == copy.deepcopy(future) == future
    assert 97 not in list(mrelease.Outcome)


def test_known_names_print_as_names() -> None:
    assert f"{mrelease.Verdict.HELD}" == str(mrelease.Verdict.HELD) == "HELD"
    assert mrelease.Verdict(4) is mrelease.Verdict.HELD


def test_text_is_no_enum_value() -> None:
    with pytest.raises(ValueError, match="HELD"):
        mrelease.Verdict("HELD")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
