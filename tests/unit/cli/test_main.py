"""The command line as a program: what it needs, colours, pipes, completion."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mrelease.cli import exit_codes
from support.sdk_cli import Cli, cli_in

MRELEASE = str(Path(sys.executable).with_name("mrelease"))

WITHOUT = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {missing!r}:
            raise ModuleNotFoundError("blocked", name=name)
sys.meta_path.insert(0, Block())
sys.argv = ["mrelease", "ps"]
from mrelease.__main__ import main
main()
"""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return cli_in(capsys)


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_its_libraries_it_says_in_one_line_what_to_install(missing: str) -> None:
    done = subprocess.run([sys.executable, "-I", "-c", WITHOUT.format(missing=missing)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"mrelease: the command line needs {missing}: pip install 'mrelease[cli]'\n"
    assert done.stdout == ""


def test_a_module_of_its_own_that_is_missing_is_not_hidden() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", WITHOUT.format(missing="grpc")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "blocked" in done.stderr


def test_help_has_every_exit_code_and_command(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0
    for code, meaning in exit_codes.MEANINGS.items():
        assert f"{int(code):<3}  {meaning}" in done.out
    for command in ("kill", "release", "reclaim", "watch", "ps", "top", "node", "doctor", "demo", "version", "completion"):
        assert f"\n  {command} " in done.out
        assert cli(command, "--help").code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["kill"],
        ["kill", "0"],
        ["kill", "-9", "4711"],
        ["kill", "x"],
        ["kill", "1", "--wait", "dead"],
        ["kill", "1", "--timeout", "soon"],
        ["kill", "1", "-o", "xml"],
        ["release", "1", "--reap-delay", "1s"],
        ["ps", "--limit", "0"],
        ["top", "--limit", "1001"],
        ["top", "--interval", "soon"],
        ["top", "--container", "a", "--cgroup", "/b"],
        ["ps", "--user", "no-such-user-here"],
        ["node", "--agent", "192.0.2.1:1"],
        ["node", "--agent", "nonsense"],
        ["node", "--local", "--agent", "127.0.0.1:1"],
        ["completion", "tcsh"],
        ["frobnicate"],
        ["--frobnicate"],
    ],
    ids=" ".join,
)
def test_usage_errors_are_2_and_say_what_was_expected(cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err
    assert "Traceback" not in done.err


def test_local_without_the_agents_libraries_says_what_to_install(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mrelease_agent.local", None)
    done = cli("--local", "node")
    assert done.code == 2
    assert "pip install 'mrelease[agent,cli]'" in done.err


def test_version(cli: Cli) -> None:
    done = cli("version")
    assert done.code == 0
    assert done.out.startswith("mrelease 0.")
    assert cli("version", "-o", "json").data["mrelease"] == cli("--version").out.split()[1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_the_shells_language(cli: Cli, shell: str) -> None:
    done = cli("completion", shell)
    assert done.code == 0
    assert "_MRELEASE_COMPLETE" in done.out
    assert f"\n  {shell}:" in cli("completion", "--help").out
    if shutil.which(shell):
        check = subprocess.run([shell, "-n"], input=done.out, capture_output=True, text=True, check=False)
        assert check.returncode == 0, check.stderr


def test_completion_completes() -> None:
    environment = os.environ | {"_MRELEASE_COMPLETE": "bash_complete", "COMP_WORDS": "mrelease rel", "COMP_CWORD": "1"}
    done = subprocess.run([MRELEASE], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["plain,release"]


def test_a_reader_that_has_gone_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        done = subprocess.run([MRELEASE, "completion", "bash"], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)], ids=str)
def test_colours_are_for_terminals_that_want_them(tmp_path: Path, environment: dict[str, str], coloured: bool) -> None:
    assert ("\x1b[" in _on_a_terminal(["doctor", "--agent", f"unix://{tmp_path}/none"], environment)) is coloured


def test_no_colours_in_a_pipe(cli: Cli, tmp_path: Path) -> None:
    assert "\x1b" not in cli("doctor", "--agent", f"unix://{tmp_path}/none").out


def _on_a_terminal(arguments: list[str], environment: dict[str, str]) -> str:
    ours, theirs = pty.openpty()
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLORTERM")}
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        child = subprocess.Popen([MRELEASE, *arguments], stdout=theirs, stderr=theirs, env=clean | {"TERM": "xterm"} | environment)
        os.close(theirs)
        text = b""
        # A terminal that its last user has left reads as EIO, tty(4).
        try:
            while chunk := terminal.read(4096):
                text += chunk
        except OSError:
            pass
        child.wait()
    return text.decode()
