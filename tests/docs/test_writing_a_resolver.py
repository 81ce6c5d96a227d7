"""docs/plugins/writing-a-resolver.md, done as it says: a package of its own, built, installed, checked, and used on real victims."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from support import lab
from support.agent import Agent, clean_environment
from support.markdown import ROOT, blocks

PAGE = ROOT / "docs" / "plugins" / "writing-a-resolver.md"
FILES = ("pyproject.toml", "mrelease_tutorial.py", "test_tutorial.py")
PATIENCE = 100


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page tells one to write."""
    folder = tmp_path_factory.mktemp("tutorial")
    code = [block for block in blocks(PAGE) if block.language in ("toml", "python")]
    for name, block in zip(FILES, code, strict=True):
        (folder / name).write_text(f"{block.text}\n")
    return folder


@pytest.fixture(scope="module")
def home(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the package, beside what this one has."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    [wheel] = _made(run(sys.executable, "-m", "flit_core.wheel", str(package)), package)
    run(sys.executable, "-m", "pip", "--python", str(folder), "install", "--no-index", "--no-deps", "--quiet", str(wheel))
    # mrelease and pytest themselves are taken from here: a test has no network.
    here = [path for path in sys.path if path.endswith("-packages")]
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "here.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in here))
    return folder


def _made(_ran: subprocess.CompletedProcess[str], package: Path) -> list[Path]:
    return list((package / "dist").glob("*.whl"))


def run(*command: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran


def start_time(pid: int) -> int:
    """Field 22 of proc_pid_stat(5)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_it_is_as_long_as_it_says(package: Path) -> None:
    lines = [line for line in (package / FILES[1]).read_text().splitlines() if line.strip()]
    assert len(lines) <= 70


def test_the_conformance_kit_passes(home: Path, package: Path) -> None:
    ran = run(str(home / "bin" / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(package / FILES[2]), cwd=package)
    assert " passed" in ran.stdout
    assert "failed" not in ran.stdout


def test_mrelease_kills_by_it(home: Path, agent: Agent, tmp_path: Path) -> None:
    lab.need_mrelease()
    mrelease = [str(home / "bin" / "python"), "-m", "mrelease"]
    environment = clean_environment() | {
        "MRELEASE_AGENTS": f"n1={agent.address},n2={agent.address}",
        "TUTORIAL_JOBS": str(tmp_path),
        "HOME": str(tmp_path),
    }
    assert " ok " in run(*mrelease, "plugins", "tutorial", env=environment).stdout
    with lab.live(16 * lab.MIB) as first, lab.live(16 * lab.MIB) as second, lab.live(1 * lab.MIB) as bystander:
        tasks = [{"node": f"n{at}", "pid": each.pid, "start": start_time(each.pid)} for at, each in enumerate((first, second), 1)]
        # What has another start time is another process, whatever its number is.
        tasks.append({"node": "n1", "pid": bystander.pid, "start": start_time(bystander.pid) + 1})
        (tmp_path / "train.json").write_text(json.dumps({"tasks": tasks}))
        one = run(*mrelease, "kill", "tutorial://train?task=1", "-o", "json", env=environment)
        assert second.exited(PATIENCE)
        assert not first.exited(0)
        [said] = json.loads(one.stdout)["results"]
        assert (said["reference"], said["node"], said["name"]) == ("tutorial://train?task=1", "n2", "train task 1")
        assert said["result"]["released_bytes"] >= 16 * lab.MIB
        rest = subprocess.run(
            [*mrelease, "kill", "tutorial://train", "--cancel", "--yes"],
            env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert first.exited(PATIENCE)
        assert not bystander.exited(0)
    assert rest.returncode == 5, rest.stdout + rest.stderr
    assert [line.split()[0] for line in rest.stdout.splitlines()[:4]] == ["NODE", "n1", "n2", "n1"]
    assert "RELEASED" in rest.stdout
    assert "IDENTITY_MISMATCH" in rest.stdout
    assert sorted(os.listdir(tmp_path)) == ["train.cancelled"]
