"""The documentation as data: its pages, the fenced blocks in them, and the links between them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from support.lab import Unavailable

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(\w*)$")
_DIRECTIVE = re.compile(r"^<!-- ([a-z ]+): (.+) -->$")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. ``directives`` are the comments on the lines right before it, such as ``<!-- not run: why -->``."""

    page: Path
    line: int
    language: str
    text: str
    directives: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a console block and what the page shows that it prints."""

    text: str
    output: str


def repository() -> list[Path]:
    """Every file that is, or is about to be, in git, relative to ROOT. Skips the test where this is no working copy."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        raise Unavailable("not a git working copy, or no git")
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    # A file that is being deleted is listed and not there.
    return [Path(name) for name in names if name and (ROOT / name).is_file()]


def pages() -> list[Path]:
    """Every page of the documentation."""
    return [*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG")), *sorted(ROOT.glob("docs/**/*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    lines = iter(enumerate(page.read_text().splitlines(), 1))
    directives: dict[str, str] = {}
    for number, line in lines:
        if found := _DIRECTIVE.match(line):
            directives[found[1]] = found[2]
        elif fence := _FENCE.match(line):
            text: list[str] = []
            for _, inner in lines:
                if inner == "```":
                    break
                text.append(inner)
            yield Block(page, number, fence[1], "\n".join(text), directives)
            directives = {}
        else:
            directives = {}


def commands(block: Block) -> list[Command]:
    """The commands of a console block."""
    found = [part.partition("\n") for part in re.split(r"^\$ ", block.text, flags=re.M)]
    assert not found[0][0], f"{block}: begins with output"
    return [Command(text, output) for text, _, output in found[1:]]


def links(page: Path) -> Iterator[str]:
    """The links of a page that are not addresses, without anchors."""
    for target in _LINK.findall(page.read_text()):
        if not re.match(r"[a-z]+:|#", target):
            yield target.partition("#")[0]
