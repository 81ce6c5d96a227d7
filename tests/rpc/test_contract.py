"""The contract is one: the enums in Python, the status codes, the generated files all say what the .proto files say."""

from __future__ import annotations

import filecmp
import importlib.util
import re
import shutil
import subprocess
import sys
from enum import IntEnum
from pathlib import Path
from types import ModuleType

import pytest

import mrelease
from mrelease.v1 import error_reason_pb2, node_service_pb2, outcome_pb2, release_service_pb2
from mrelease_agent.linux import capabilities
from mrelease_agent.reaping import outcome
from mrelease_agent.rpc import errors

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto" / "mrelease" / "v1"
STUBS = ROOT / "client" / "mrelease" / "v1"


def numbers(name: str) -> dict[str, int]:
    """An enum as the text of the .proto files has it, without the prefix of its names."""
    text = "\n".join(path.read_text() for path in sorted(PROTO.glob("*.proto")))
    found = re.search(rf"^enum {name} {{$(.*?)^}}$", text, re.MULTILINE | re.DOTALL)
    assert found, name
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper() + "_"
    return {key.removeprefix(prefix): int(value) for key, value in re.findall(r"^  (\w+) = (\d+);", found[1], re.MULTILINE)}


def members(enum: type[IntEnum]) -> dict[str, int]:
    return {member.name: member.value for member in enum}


SDK = ["Outcome", "Verdict", "Step", "Proof", "Wait", "Boost", "HeldCause", "UnreleasedCause", "Feature", "QosClass", "PressureKind"]


@pytest.mark.parametrize("name", SDK)
def test_the_sdk_has_the_enums_of_the_contract(name: str) -> None:
    assert members(getattr(mrelease, name)) == numbers(name)


@pytest.mark.parametrize(
    ("name", "enum"),
    [
        ("Outcome", outcome.Outcome),
        ("Verdict", outcome.Verdict),
        ("Step", outcome.Step),
        ("Proof", outcome.Proof),
        ("Boost", outcome.Boost),
        ("HeldCause", outcome.HeldCause),
        ("UnreleasedCause", outcome.Unreleased),
        ("Feature", capabilities.Feature),
    ],
)
def test_the_agent_has_the_enums_of_the_contract(name: str, enum: type[IntEnum]) -> None:
    # What is not set has a name of its own here, as in Proof.NONE, or none.
    ours = {key: number for key, number in members(enum).items() if number}
    contract = numbers(name)
    assert contract.pop("UNSPECIFIED") == 0
    assert ours == contract


def test_every_enum_of_the_contract_is_looked_at() -> None:
    found = re.findall(r"^enum (\w+) {$", "\n".join(path.read_text() for path in PROTO.glob("*.proto")), re.MULTILINE)
    assert set(found) == {*SDK, "ErrorReason"}


def documented_codes() -> dict[str, str]:
    """The status that the comment above each ErrorReason begins with."""
    text = (PROTO / "error_reason.proto").read_text()
    entries = re.findall(r"((?:^  //.*\n)+)^  (ERROR_REASON_\w+) = \d+;", text, re.MULTILINE)
    return {name: comment.split("//", 1)[1].split()[0].rstrip(".") for comment, name in entries if not name.endswith("UNSPECIFIED")}


def test_every_error_reason_has_the_code_that_the_contract_names() -> None:
    codes = {error_reason_pb2.ErrorReason.Name(reason): code.name for reason, code in errors.CODES.items()}
    assert codes == documented_codes()
    assert codes.keys() == set(error_reason_pb2.ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}


def test_retries_are_invited_where_the_contract_says_so() -> None:
    text = (PROTO / "error_reason.proto").read_text()
    invited = {name for comment, name in re.findall(r"((?:^  //.*\n)+)^  (ERROR_REASON_\w+)", text, re.MULTILINE) if "RetryInfo" in comment}
    for reason in errors.CODES:
        error = errors.RpcError(reason, "message", "remedy")
        assert (error.details.retry_after is not None) == (error_reason_pb2.ErrorReason.Name(reason) in invited)


@pytest.mark.parametrize("module", [release_service_pb2, node_service_pb2], ids=["release_service", "node_service"])
def test_the_errors_that_a_method_documents_exist(module: ModuleType) -> None:
    """Each is written CODE (REASON, REASON), and the reason has that code."""
    text = (PROTO / Path(module.DESCRIPTOR.name).name).read_text()
    for comment in re.findall(r"Errors: ((?:.*\n)*?)(?=  rpc )", text):
        pairs = re.findall(r"([A-Z_]{5,})\s*\(([A-Z_,\s/]+)\)", comment.replace("//", " "))
        assert pairs, comment
        for code, reasons in pairs:
            for reason in re.findall(r"[A-Z_]+", reasons):
                assert errors.CODES[error_reason_pb2.ErrorReason.Value("ERROR_REASON_" + reason)].name == code, (code, reason)


def test_the_worst_outcome_decides_the_verdict() -> None:
    assert {found.name for found in map(outcome.verdict, ([o] for o in outcome.Outcome))} <= set(numbers("Verdict"))
    assert outcome_pb2.Verdict.Name(outcome_pb2.Verdict.ValueType(outcome.verdict([]))) == "VERDICT_UNKNOWN"


def test_the_committed_stubs_are_what_the_generator_makes(tmp_path: Path) -> None:
    for needed in ("grpc_tools", "mypy_protobuf"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed: make test installs it")
    subprocess.run([str(ROOT / "scripts" / "generate"), str(tmp_path)], check=True, env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"})
    made = tmp_path / "mrelease" / "v1"
    names = sorted(path.name for path in made.iterdir())
    committed = sorted(path.name for path in STUBS.iterdir() if "_pb2" in path.name)
    assert names == committed
    _, different, missing = filecmp.cmpfiles(made, STUBS, names, shallow=False)
    assert not different + missing, "run `make generate` and commit what it makes"


@pytest.mark.parametrize("command", [("lint",), ("format", "--diff", "--exit-code")], ids=["lint", "format"])
def test_buf_is_content(command: tuple[str, ...]) -> None:
    buf = shutil.which("buf", path=str(Path(sys.executable).parent)) or shutil.which("buf")
    if buf is None:
        pytest.skip("buf is not installed: make test installs it")
    done = subprocess.run([buf, *command], cwd=ROOT / "proto", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
