"""docs/tutorial.md, walked as a newcomer does: its commands from top to bottom in one shell, with nothing but what the page set up."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from typing import NamedTuple

import pytest

from support import lab, patience
from support.agent import clean_environment
from support.markdown import ROOT, Block, Command, blocks, commands

PAGE = ROOT / "docs" / "tutorial.md"
PATIENCE = 100 * patience.FACTOR
WALKED = [block for block in blocks(PAGE) if block.language == "console" and block.directives.get("not run", "").startswith("alone;")]
END = re.compile(r"\n?\x1e(\d+)\x1e\n")


class Did(NamedTuple):
    """A command of the page, what it shows that it prints, and what it did."""

    command: Command
    output: str
    status: int


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> list[Did]:
    """Every command of the page, done in turn."""
    lab.need_mrelease()
    clone = tmp_path_factory.mktemp("clone")
    (clone / ".venv").symlink_to(sys.prefix)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = f":{probe.getsockname()[1]}"
    shown = [command for block in WALKED for command in commands(block)]
    real = [command for block in WALKED for command in commands(with_port(block, port))]
    script = "exec 2>&1\n" + "".join(f"{command.text}\n__s=$?; printf '\\n\\036%d\\036\\n' $__s; (exit $__s)\n" for command in real)
    environment = {**clean_environment(), "HOME": str(clone), "PATH": os.environ["PATH"]}
    shell = subprocess.Popen(
        ["bash", "-c", script], cwd=clone, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        printed, _ = shell.communicate(timeout=PATIENCE)
    finally:
        # A walk that went wrong leaves its agent and its victims: what is still in the shell's own group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
    parts = END.split(printed)
    assert len(parts) == 2 * len(shown) + 1, printed
    assert not (clone / "tutorial").exists()
    return [Did(command, parts[2 * at], int(parts[2 * at + 1])) for at, command in enumerate(shown)]


def with_port(block: Block, port: str) -> Block:
    return Block(block.page, block.line, block.language, block.text.replace(":7443", port), block.directives)


def of(walk: list[Did], program: str) -> list[Did]:
    found = [did for did in walk if did.command.text.startswith(program)]
    assert found, f"the page does no `{program}`"
    return found


def table(output: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in output.strip().splitlines()]


def test_every_command_does_what_the_page_says(walk: list[Did]) -> None:
    asked = [bool(at + 1 < len(walk) and walk[at + 1].command.text == "echo $?") for at in range(len(walk))]
    assert [did for did, is_asked in zip(walk, asked, strict=True) if did.status and not is_asked] == []


def test_the_dry_run_signals_nothing(walk: list[Did]) -> None:
    [did] = of(walk, "mrelease kill --dry-run")
    assert [row[2] for row in table(did.output)] == ["VERDICT", "VALIDATED"]


@pytest.mark.parametrize("program", ["mrelease kill --reason", "mrelease kill --context node7"], ids=["here", "by mutual TLS"])
def test_the_memory_of_both_victims_is_proven_back(walk: list[Did], program: str) -> None:
    [did] = of(walk, program)
    head, row = table(did.output)[:2]
    assert head == table(did.command.output)[0]
    assert row[2] in {"RELEASED", "EXITED"}, did.output


def test_who_may_only_look_is_refused(walk: list[Did]) -> None:
    [did] = of(walk, "mrelease kill --context eyes")
    assert did.status == 4
    assert "policy" in did.output


def test_the_audit_log_names_who_killed_and_why(walk: list[Did]) -> None:
    [shown], [verified] = of(walk, "mrelease audit show"), of(walk, "mrelease audit verify")
    assert "scheduler" in shown.output
    assert "preempted by job 99" in shown.output
    assert verified.output.strip().startswith("ok")


def test_nothing_of_the_page_is_left_out() -> None:
    others = [block for block in blocks(PAGE) if block not in WALKED and block.language == "console"]
    assert [commands(block)[0].text for block in others] == ["make demo"]
