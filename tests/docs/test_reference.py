"""The reference pages are what their source says, and say so when they are not."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mrelease
from mrelease import Feature, HeldCause, Outcome, Proof, UnreleasedCause, Verdict
from mrelease.v1 import error_reason_pb2, memory_pb2, node_service_pb2, outcome_pb2, release_service_pb2, result_pb2, target_pb2
from mrelease_agent.reaping.outcome import ANSWERS
from support.markdown import ROOT

REFERENCE = ROOT / "docs" / "reference"
MODULES = (error_reason_pb2, memory_pb2, node_service_pb2, outcome_pb2, release_service_pb2, result_pb2, target_pb2)
FILES = [module.DESCRIPTOR for module in MODULES]
MESSAGES = [message for file in FILES for message in file.message_types_by_name.values()]


def check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "scripts" / "reference.py"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_reference_pages_are_up_to_date() -> None:
    assert check(ROOT).returncode == 0, check(ROOT).stderr


def test_an_edited_page_is_noticed(tmp_path: Path) -> None:
    for name in ("scripts", "proto", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    page = tmp_path / "docs" / "reference" / "outcomes.md"
    page.write_text(page.read_text().replace("RELEASED", "FREED", 1))
    found = check(tmp_path)
    assert found.returncode == 1
    assert "outcomes.md" in found.stderr


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("outcomes.md", [kind.name for enum in (Outcome, Verdict, Proof, HeldCause, UnreleasedCause) for kind in enum if kind]),
        ("outcomes.md", [errno.errorcode[number] for number in ANSWERS if number]),
        ("api.md", [field.name for message in MESSAGES for field in message.fields]),
        ("errors.md", [name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()[1:]]),
    ],
    ids=["outcomes", "errnos", "fields", "reasons"],
)
def test_every_name_of_the_contract_has_its_row(page: str, names: list[str]) -> None:
    text = (REFERENCE / page).read_text()
    assert [name for name in names if f"\n| `{name}` " not in text] == []


def test_every_call_and_message_has_its_heading() -> None:
    text = (REFERENCE / "api.md").read_text()
    calls = [method.name for file in FILES for service in file.services_by_name.values() for method in service.methods]
    names = [*calls, *(message.name for message in MESSAGES), *(name for file in FILES for name in file.enum_types_by_name)]
    assert len(names) > 50
    assert [name for name in names if text.count(f"\n### {name}\n") != 1] == []


def test_every_public_name_of_the_sdk_has_its_heading() -> None:
    text = (REFERENCE / "python.md").read_text()
    assert [name for name in mrelease.__all__ if text.count(f"\n### {name}\n") != 1] == []


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        ("mrelease.Pod.__doc__ = None", "Pod"),
        ("mrelease.Client.release.__doc__ = None", "Client.release"),
        ("mrelease.FleetAnswer.__doc__ = 'What one member answered.'", "FleetAnswer.member"),
        ("mrelease.errors.Protected.__doc__ = None", "errors.Protected"),
        ("pass", ""),
    ],
    ids=["class", "method", "field", "exception", "nothing"],
)
def test_a_public_name_without_a_docstring_is_noticed(spoil: str, name: str) -> None:
    script = f"import mrelease, reference_python\n{spoil}\nprint(*reference_python.undocumented())"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT / "scripts", capture_output=True, text=True, check=True)
    assert (name in ran.stdout.split()) if name else ran.stdout == "\n"


def test_what_an_agent_can_do_is_explained_to_who_runs_one() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [feature.name for feature in Feature if feature and feature.name not in readme] == []
