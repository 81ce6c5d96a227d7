"""docs/plugins/writing-a-target.md, done as it says: a package of its own, built, installed, checked, and an agent that kills by it."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from mrelease import Custom, errors
from support import lab
from support.agent import running_agent
from support.markdown import ROOT, blocks

PAGE = ROOT / "docs" / "plugins" / "writing-a-target.md"
FILES = ("pyproject.toml", "mrelease_tutorial_target.py", "test_tutorial_target.py")
PATIENCE = 100


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page tells one to write; of its Python blocks the second only shows."""
    folder = tmp_path_factory.mktemp("tutorial")
    toml, plugin, _, test = [block for block in blocks(PAGE) if block.language in ("toml", "python")]
    for name, block in zip(FILES, (toml, plugin, test), strict=True):
        (folder / name).write_text(f"{block.text}\n")
    return folder


@pytest.fixture(scope="module")
def home(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package is installed: site-packages of a virtual environment of its own."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    run(sys.executable, "-m", "flit_core.wheel", str(package))
    [wheel] = (package / "dist").glob("*.whl")
    run(sys.executable, "-m", "pip", "--python", str(folder), "install", "--no-index", "--no-deps", "--quiet", str(wheel))
    [packages] = folder.glob("lib/python*/site-packages")
    return packages


def run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    ran = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_it_is_as_long_as_it_says(package: Path) -> None:
    assert len([line for line in (package / FILES[1]).read_text().splitlines() if line.strip()]) <= 50


def test_the_conformance_kit_passes(home: Path, package: Path) -> None:
    said = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", FILES[2], cwd=package, env={"PYTHONPATH": str(home)})
    assert "1 passed" in said


def test_an_agent_kills_by_it(home: Path, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(home))
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    with (
        running_agent(run_dir, "--target-plugins", "tutorial", "--target-plugin-options", f"tutorial.jobs={jobs}") as agent,
        agent.client() as node,
        lab.live() as first,
        lab.live() as second,
        lab.live() as bystander,
    ):
        lines = [f"{each.pid} {lab.start_time(each.pid) + late}\n" for each, late in ((first, 0), (second, 0), (bystander, 1))]
        (jobs / "train").write_text("".join(lines))
        (kind,) = node.get_node().target_kinds
        assert (kind.kind, kind.available, kind.reason) == ("tutorial", True, "mrelease-tutorial-target 1.0")
        assert [each.pid for each in node.kill_and_release(Custom("tutorial", {"job": "train", "task": "1"})).processes] == [second.pid]
        assert not first.exited(0)
        assert {each.pid for each in node.kill_and_release(Custom("tutorial", {"job": "train"})).processes} == {first.pid, second.pid}
        assert first.exited()
        for absent in ({"job": "gone"}, {"job": "train", "task": "3"}):
            with pytest.raises(errors.TargetNotFound):
                node.kill_and_release(Custom("tutorial", absent))
        with pytest.raises(errors.InvalidField):
            node.kill_and_release(Custom("tutorial", {"job": "../../etc/passwd"}))
        assert not bystander.exited(0)
