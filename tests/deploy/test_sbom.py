"""The bill of materials: all that is installed, who needs whom, the same bytes each time, in the form that its standard asks for."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from support.markdown import ROOT

SCRIPT = ROOT / "scripts" / "sbom.py"
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **more})


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    done = run(**EPOCH)
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def test_the_same_files_and_date_give_the_same_bytes(tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("one.json", "two.json")]
    for hash_seed, output in zip("12", outputs, strict=True):
        assert run("--out", str(output), PYTHONHASHSEED=hash_seed, **EPOCH).returncode == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert json.loads(outputs[0].read_text())["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"


def test_every_distribution_that_can_be_imported_is_in_it(bill: dict[str, Any]) -> None:
    here = [sysconfig.get_path("purelib")]
    installed = {
        (one.metadata["Name"].lower().replace("_", "-").replace(".", "-"), one.version)
        for one in importlib.metadata.distributions(path=here)
    }
    listed = {(part["name"], part["version"]) for part in [*bill["components"], bill["metadata"]["component"]]}
    assert installed <= listed
    assert (sys.implementation.name, sys.version.split()[0]) in listed


def test_who_needs_whom(bill: dict[str, Any]) -> None:
    needs = {entry["ref"].partition("@")[0].rpartition("/")[2]: [ref.partition("@")[0].rpartition("/")[2] for ref in entry["dependsOn"]]
             for entry in bill["dependencies"]}  # fmt: skip
    assert {"grpcio", "protobuf", "msgspec", "prometheus-client", "pyyaml", "cpython"} <= set(needs["mrelease"])
    assert "protobuf" in needs["grpcio-health-checking"]
    assert "msgspec" not in needs["grpcio"]
    every = {part["bom-ref"] for part in [*bill["components"], bill["metadata"]["component"]]}
    assert {entry["ref"] for entry in bill["dependencies"]} == every
    assert {ref for entry in bill["dependencies"] for ref in entry["dependsOn"]} <= every


def test_each_library_has_version_licence_and_hash(bill: dict[str, Any]) -> None:
    libraries = [part for part in bill["components"] if part["type"] == "library"]
    # The fuzzer's wheel, an extra that nothing of ours is delivered with, brings the text of its licence and no name of it.
    assert [part["name"] for part in libraries if not part.get("licenses") and part["name"] != "atheris"] == []
    for part in libraries:
        assert part["purl"] == f"pkg:pypi/{part['name']}@{part['version']}"
        digest = next(entry["value"] for entry in part["properties"] if entry["name"] == "mrelease:files:sha256")
        assert len(digest) == 64


def test_it_is_what_the_standard_asks_for(bill: dict[str, Any]) -> None:
    """Against the schema that the standard's own library brings with it."""
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(bill)) is None
    assert validator.validate_str(json.dumps({**bill, "specVersion": 16})) is not None


def test_a_file_that_was_changed_is_found(tmp_path: Path) -> None:
    """Of an installation of its own: two distributions, one of which has a file that its wheel did not bring."""
    target = sysconfig.get_path("purelib")
    for one in importlib.metadata.distributions(path=[target]):
        if one.metadata["Name"] in ("mrelease", "protobuf"):
            for file in one.files or ():
                if ".." not in file.parts and not Path(str(file)).is_absolute():
                    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(str(file.locate()), tmp_path / file)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import json, sbom\n"
        "path, markers = sbom.ask(sys.executable)\n"
        "try:\n    print(len(sbom.bill([sys.argv[2]], markers, 'now')['components']))\n"
        "except sbom.SbomError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", program, str(SCRIPT.parent), str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "2\n"  # protobuf and Python
    with (tmp_path / "google" / "protobuf" / "json_format.py").open("a") as changed:
        changed.write("# changed\n")
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "json_format.py of protobuf is not the file that was installed" in said


def test_what_cannot_be_described_is_said() -> None:
    done = run("--python", "/no/such/python")
    assert done.returncode == 1
    assert "/no/such/python cannot be run" in done.stderr
    assert run(SOURCE_DATE_EPOCH="yesterday").returncode == 2
