"""The examples in Go and JavaScript as programs, and an agent with mutual TLS for them to call."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from support.certified import certified_agent
from support.examples import Called, Example
from support.lab import Unavailable
from support.markdown import ROOT

#: Callers are told apart by the common names of their certificates.
POLICY = """
version: 1
rules:
- {name: killers, callers: [{cn: killer}, {transport: unix}], methods: [KillAndRelease, WatchRelease]}
"""

_BUILD = 'go mod download && ./generate && go vet ./... && go build -o example . && gofmt -d *.go && test -z "$(gofmt -l *.go)"'


def _go(folder: Path) -> Example:
    """Generated and built with the modules and the build cache that are there: nothing is downloaded."""
    if shutil.which("go") is None:
        raise Unavailable("no Go")
    shutil.copytree(ROOT / "examples" / "go", folder / "examples" / "go", ignore=shutil.ignore_patterns("gen"))
    shutil.copytree(ROOT / "proto", folder / "proto")
    tools = Path(sys.executable).parent  # buf
    environment = {**os.environ, "GOPROXY": "off", "GOFLAGS": "-mod=readonly -trimpath", "PATH": f"{tools}:{os.environ['PATH']}"}
    built = subprocess.run(
        ["sh", "-c", _BUILD], cwd=folder / "examples" / "go", env=environment, capture_output=True, text=True, check=False
    )
    if "module lookup disabled" in built.stderr:
        raise Unavailable("the modules are not there: make test-languages")
    assert built.returncode == 0, built.stdout + built.stderr
    return Example((str(folder / "examples" / "go" / "example"),), "-", "s")


def _javascript() -> Example:
    """Run where it is."""
    folder = ROOT / "examples" / "javascript"
    if shutil.which("node") is None:
        raise Unavailable("no Node.js")
    if not (folder / "node_modules" / "@grpc").exists():
        raise Unavailable("its packages are not there: make test-languages")
    return Example(("node", str(folder / "main.js")), "--", "")


@pytest.fixture(scope="session", params=["go", "javascript"])
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    """The example in each language."""
    try:
        return _go(tmp_path_factory.mktemp("go")) if request.param == "go" else _javascript()
    except Unavailable as why:
        pytest.skip(str(why))


@pytest.fixture(scope="session")
def called(tmp_path_factory: pytest.TempPathFactory) -> Generator[Called, None, None]:
    """One agent for all of these tests."""
    folder = tmp_path_factory.mktemp("called") / "agent"
    folder.mkdir(mode=0o700)
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    policy.chmod(0o644)
    with certified_agent(folder, f"--policy={policy}", f"--audit-dir={folder / 'audit'}") as certified:
        yield Called(certified, folder)
