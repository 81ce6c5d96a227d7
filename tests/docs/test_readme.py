"""Everything that the documentation shows is run: commands, Python, configuration. What they print has the shape that the page shows."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mrelease_agent.config import load
from support import lab
from support.agent import Agent, clean_environment
from support.lab import Victim
from support.markdown import ROOT, Block, blocks, commands, links, pages, repository

#: The victim of the pages, and how `mrelease ps` would print it.
PID, PROCESS = "4711", "4711:20417"
#: A command of a page may take this many seconds.
PATIENCE = 100
#: Blocks that show and do not tell anybody to do something.
SHOWN = {"mermaid", "text"}
BLOCKS = [block for page in pages() for block in blocks(page)]
END = re.compile(r"\n?\x1e(\d+)\x1e\n")


def runnable(language: str) -> list[Block]:
    def is_run(block: Block) -> bool:
        return (
            block.language == language
            and "not run" not in block.directives
            and shutil.which(block.directives.get("needs", "sh")) is not None
        )

    return [block for block in BLOCKS if is_run(block)]


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working copy of the repository, with the virtual environment that runs the tests."""
    copy = tmp_path_factory.mktemp("workspace")
    for name in repository():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    (copy / ".venv").symlink_to(sys.prefix)
    return copy


@pytest.fixture
def environment(workspace: Path, agent: Agent, tmp_path: Path) -> dict[str, str]:
    """The environment of somebody whose agent is the one of the tests."""
    return {
        **clean_environment(),
        "MRELEASE_AGENT": agent.address,
        "PATH": f"{workspace / '.venv' / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(workspace / "tests"),
        "XDG_RUNTIME_DIR": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }


@contextlib.contextmanager
def told(block: Block) -> Generator[str]:
    """What the block says, with a real victim in the place of the page's, and a free port in the place of 7443."""
    text = block.text.replace(":7443", f":{free_port()}") if ":7443" in block.text else block.text
    if PID not in text:
        yield text
        return
    make: Callable[[int], AbstractContextManager[Victim]] = getattr(lab, block.directives.get("victim", "live"))
    with make(64 * lab.MIB) as victim:
        inode = os.fstat(victim.pidfd).st_ino
        yield text.replace(PROCESS, f"{victim.pid}:{inode}" if has_unique_inodes(victim) else str(victim.pid)).replace(PID, str(victim.pid))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def has_unique_inodes(victim: Victim) -> bool:
    mine = os.pidfd_open(os.getpid())
    try:
        return os.fstat(mine).st_ino != os.fstat(victim.pidfd).st_ino
    finally:
        os.close(mine)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_run_or_says_why_not(block: Block) -> None:
    assert set(block.directives) <= {"not run", "needs", "victim", "file"}
    assert block.language in SHOWN | {"console", "python", "yaml"} or "not run" in block.directives


@pytest.mark.parametrize("block", runnable("console"), ids=str)
def test_commands_do_what_the_page_shows(block: Block, workspace: Path, environment: dict[str, str]) -> None:
    lab.need_mrelease()
    if "file" in block.directives:
        before = [other for other in BLOCKS if other.page == block.page and other.language == "yaml" and other.line < block.line]
        (workspace / block.directives["file"]).write_text(before[-1].text)
    with told(block) as text:
        shown = commands(block)
        real = commands(Block(block.page, block.line, block.language, text, block.directives))
        # One shell for the block; a command's own status is what the next one sees in $?.
        script = "exec 2>&1\n" + "".join(f"{c.text}\n__s=$?; printf '\\n\\036%d\\036\\n' $__s; (exit $__s)\n" for c in real)
        ran = subprocess.run(
            ["bash", "-c", script], cwd=workspace, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
    parts = END.split(ran.stdout)
    for index, command in enumerate(shown):
        output, status = parts[2 * index], int(parts[2 * index + 1])
        is_asked_for = index + 1 < len(shown) and shown[index + 1].text == "echo $?"
        assert status == 0 or is_asked_for, f"$ {command.text}\n{output}"
        if command.output:
            assert shape(command.text, output) == shape(command.text, command.output), f"$ {command.text}\n{output}"


@pytest.mark.parametrize("block", runnable("python"), ids=str)
def test_python_runs(block: Block, workspace: Path, environment: dict[str, str]) -> None:
    with told(block) as text:
        command = [sys.executable, "-W", "error", "-c", text]
        ran = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("block", runnable("yaml"), ids=str)
def test_configuration_is_valid(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(block.text)
    load(["--config", str(file)], {"XDG_RUNTIME_DIR": str(tmp_path)})


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


def shape(command: str, output: str) -> object:
    """What of an output is the same on every machine and in every run."""
    # A shell says of its own child that it was killed; the page need not.
    lines = [line for line in output.strip("\n").splitlines() if not re.match(r"bash: line \d+: +\d+ Killed ", line)]
    program = re.search(r"mrelease (?:-\S+ )*(\w+)", command)
    match program[1] if program else "":
        case "kill" | "release" | "watch" | "reclaim":
            rows = [re.split(r"\s{2,}", line.strip()) for line in lines]
            # Whether the victim or the agent was faster differs from run to run.
            return [
                header(rows[0]),
                *(row[2].replace("EXITED", "RELEASED") if len(row) == len(rows[0]) else words(row) for row in rows[1:]),
            ]
        case "ps":
            assert all(re.match(r"\d+:\d+ ", line) for line in lines[1:]), output
            return header(lines[0].split("  "))
        case "doctor":
            return [found[1] for line in lines if (found := re.match(r"(?:ok|off|missing) +(\w+)", line))]
        case "node":
            return [line.split()[0] for line in lines]
        case _:
            return output.strip()


def header(cells: list[str]) -> list[str]:
    return [cell.strip() for cell in cells if cell]


def words(cells: list[str]) -> str:
    return re.sub(r"\d+", "#", " ".join(cells))
