"""Imports run downward only, so that a room can be read, and tested, without those above it."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Rooms of the agent from the top down; those in one line know nothing of each other. CONTRIBUTING.md has them with what they hold.
ROOMS = (
    {"__main__", "local"},
    {"agent"},
    {"state", "audited"},
    {"rpc"},
    {"guard"},
    {"reaping", "config"},
    {"boosting", "targets"},
    {"telemetry"},
    {"linux", "address", "premade", "lean", "grpc_environment"},
)
#: What the agent takes from the SDK: the contract and what both have to agree on, and none of its clients.
SHARED = {"mrelease", "mrelease.v1", "mrelease._version", "mrelease._status", "mrelease._audit_chain"}
PACKAGES = {
    "mrelease": ROOT / "client/mrelease",
    "mrelease_agent": ROOT / "server/mrelease_agent",
    "mrelease_controller": ROOT / "controller/mrelease_controller",
}


def imported(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            package = PACKAGES.get(node.module.partition(".")[0])
            folder = package and package.joinpath(*node.module.split(".")[1:])
            for alias in node.names:
                is_module = folder and (folder.joinpath(alias.name).is_dir() or folder.joinpath(f"{alias.name}.py").exists())
                yield f"{node.module}.{alias.name}" if is_module else node.module


def files(package: str) -> list[Path]:
    return sorted(path for path in PACKAGES[package].rglob("*.py") if "v1" not in path.parts)


def room_of(module: str) -> str:
    """The room of a module of the agent: its folder, or itself."""
    return [*module.split("."), "__init__"][1]


RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}


def test_every_room_of_the_agent_has_its_place() -> None:
    folder = PACKAGES["mrelease_agent"]
    found = {path.stem for path in folder.iterdir() if (path.is_dir() and any(path.glob("*.py"))) or path.suffix == ".py"}
    assert found - {"__init__"} == set(RANK)


@pytest.mark.parametrize("path", files("mrelease_agent"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_agent_imports_downward_only(path: Path) -> None:
    room = path.relative_to(PACKAGES["mrelease_agent"]).parts[0].removesuffix(".py")
    for module in imported(path):
        top = module.partition(".")[0]
        if top == "mrelease_agent" and room != "__init__":
            other = room_of(module)
            assert other in (room, "__init__") or RANK[other] > RANK[room], f"{room} imports {module}, which is above or beside it"
        assert top != "mrelease_controller"
        if top == "mrelease":
            assert any(module == name or module.startswith(f"{name}.") for name in SHARED - {"mrelease"}) or module == "mrelease", module


def test_the_sdk_does_not_import_the_agent() -> None:
    """The commands that work without one (``--local``, ``policy check``) do; a program that imports the SDK never gets there."""
    for path in files("mrelease"):
        if path.relative_to(PACKAGES["mrelease"]).parts[0] in ("cli", "demo"):
            continue
        assert not {module for module in imported(path) if module.startswith(("mrelease_agent", "mrelease_controller"))}, path


def test_the_controller_takes_from_the_agent_what_any_daemon_needs() -> None:
    """Configuration, logs, metrics and limits: never what reaps, or speaks to the kernel."""
    for path in files("mrelease_controller"):
        rooms = {room_of(module) for module in imported(path) if module.startswith("mrelease_agent")}
        assert rooms <= {"config", "telemetry", "guard"}, path


def test_the_map_in_contributing_has_every_room_and_no_arrow_that_is_not_there() -> None:
    """Drawn by hand for the eye; what it draws among the agent's rooms is what the source imports."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = re.search(r"subgraph server.*?\n(.*?)\n    end", text, re.DOTALL)
    assert drawn
    arrows: set[tuple[str, str]] = set()
    for line in drawn[1].splitlines():
        chain = [name.strip() for name in line.split("-->")]
        arrows |= set(itertools.pairwise(chain))
    folder = PACKAGES["mrelease_agent"]
    used = {
        (path.relative_to(folder).parts[0].removesuffix(".py"), room_of(module))
        for path in files("mrelease_agent")
        for module in imported(path)
        if module.startswith("mrelease_agent.")
    }
    assert arrows <= used, "the map draws what is not imported"
    rooms = {path.name for path in folder.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms <= {name for arrow in arrows for name in arrow}
    assert all(f"`{room}/`" in text for room in rooms)
    assert all(
        f"| `{name}/" in text for name in ("client", "controller", "deploy", "docs", "examples", "proto", "scripts", "server", "tests")
    )
