"""What was released is kept: the contract may grow and never break, and a release is prepared as a whole or not at all."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from mrelease._version import VERSION
from support.markdown import ROOT

BUF = Path(sys.executable).parent / "buf"
PLACES = ("client/mrelease/_version.py", "deploy/helm/mrelease/Chart.yaml", "Dockerfile", "CHANGELOG.md")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a release touches, in a copy."""
    if not BUF.exists():
        pytest.skip("buf is not installed: pip install -e '.[dev]'")
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    for name in PLACES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def breaking(tree: Path) -> str:
    """What `make lint` would say of the contract; empty where it keeps its promises."""
    (last,) = (tree / "proto/released").glob("*.binpb")
    done = subprocess.run([BUF, "breaking", "--against", last], cwd=tree / "proto", capture_output=True, text=True, check=False)
    assert bool(done.returncode) == bool(done.stdout), done.stderr
    return done.stdout


def edit(tree: Path, name: str, old: str, new: str) -> None:
    path = tree / name
    assert len(re.findall(old, path.read_text())) >= 1
    path.write_text(re.sub(old, new, path.read_text(), count=1))


def release(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/release.py"), "--root", str(tree), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_contract_keeps_what_the_last_release_promised(tree: Path) -> None:
    assert breaking(tree) == ""


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("target", "int64 pid = 1;", "int64 process_id = 1;", 'changed name from "pid" to "process_id"'),
        ("target", "int64 pid = 1;", "int64 pid = 19;", "deleted"),
        ("target", "int64 pid = 1;", "string pid = 1;", "changed type"),
        ("outcome", "  // [^\n]*\n  OUTCOME_HELD = 4;\n", "", "deleted"),
        ("release_service", "returns \\(stream WatchReleaseResponse\\)", "returns (WatchReleaseResponse)", "stream"),
    ],
    ids=["renamed", "renumbered", "retyped", "enum value removed", "no stream any more"],
)
def test_a_break_is_found(tree: Path, file: str, old: str, new: str, said: str) -> None:
    edit(tree, f"proto/mrelease/v1/{file}.proto", old, new)
    assert said in breaking(tree)
    refused = release(tree, "9.0.0")
    assert refused.returncode == 1
    assert "mrelease.v2" in refused.stderr
    assert VERSION in (tree / PLACES[0]).read_text(), "nothing is written"


def test_an_addition_and_a_deprecation_are_none(tree: Path) -> None:
    edit(tree, "proto/mrelease/v1/target.proto", "int64 pid = 1;", "int64 pid = 1 [deprecated = true];\n  // New.\n  bool new = 99;")
    edit(tree, "proto/mrelease/v1/outcome.proto", "  OUTCOME_HELD = 4;", "  OUTCOME_HELD = 4;\n  // New.\n  OUTCOME_NEW = 99;")
    assert breaking(tree) == ""


def test_a_release_writes_version_changelog_and_contract(tree: Path) -> None:
    edit(tree, "proto/mrelease/v1/target.proto", "int64 pid = 1;", "int64 pid = 1;\n  // New.\n  bool new = 99;")
    done = release(tree, "9.8.7")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "9.8.7, contract of 9.8.7\n"
    assert 'VERSION = "9.8.7"' in (tree / PLACES[0]).read_text()
    assert {line for line in (tree / PLACES[1]).read_text().splitlines() if "ersion: 9" in line} == {"version: 9.8.7", "appVersion: 9.8.7"}
    assert "ARG VERSION=9.8.7\n" in (tree / PLACES[2]).read_text()
    changelog = (tree / PLACES[3]).read_text()
    assert re.search(r"## \[Unreleased\]\n\n## \[9\.8\.7\] - \d{4}-\d\d-\d\d\n", changelog)
    assert changelog.split("## [9.8.7]")[1].splitlines()[1:] == (ROOT / PLACES[3]).read_text().split("## [Unreleased]")[1].splitlines()[1:]
    # What this release has added is from now on promised.
    assert [path.name for path in (tree / "proto/released").iterdir()] == ["9.8.7.binpb"]
    image = descriptor_pb2.FileDescriptorSet.FromString((tree / "proto/released/9.8.7.binpb").read_bytes())
    assert "mrelease/v1/target.proto" in {file.name for file in image.file}
    edit(tree, "proto/mrelease/v1/target.proto", "bool new = 99;", "bool newer = 99;")
    assert "newer" in breaking(tree)


@pytest.mark.parametrize(
    ("version", "old", "new", "said"),
    [
        ("0.0.9", "", "", "releases go forward"),
        ("1.0", "", "", "three numbers"),
        ("1.0.0-rc1", "", "", "three numbers"),
        ("9.0.0", r"## \[Unreleased\][^\n]*", "## [0.0.1] - 2020-01-01", "no heading"),
        ("9.0.0", r"## \[Unreleased\][^\n]*", "## [Unreleased]\n\n## [0.0.1] - 2020-01-01", "says nothing"),
    ],
)
def test_what_is_no_release_is_refused_and_nothing_is_written(tree: Path, version: str, old: str, new: str, said: str) -> None:
    if old:
        edit(tree, "CHANGELOG.md", old, new)
    before = {name: (tree / name).read_bytes() for name in PLACES}
    refused = release(tree, version)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert before == {name: (tree / name).read_bytes() for name in PLACES}


def test_every_place_of_this_tree_has_the_same_version() -> None:
    done = release(ROOT, "--check")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{VERSION}, ")


def test_a_place_that_was_forgotten_is_found(tree: Path) -> None:
    edit(tree, "Dockerfile", "ARG VERSION=[0-9.]+", "ARG VERSION=0.0.9")
    refused = release(tree, "--check")
    assert refused.returncode == 1
    assert "0.0.9 in Dockerfile" in refused.stderr
