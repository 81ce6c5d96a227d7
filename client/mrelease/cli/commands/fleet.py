"""``mrelease fleet doctor`` and ``mrelease fleet top``: many nodes at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import click

from mrelease import AsyncClient, Member, MreleaseError, Node, ProcessInfo, _text
from mrelease._fleet_models import check_node
from mrelease.cli import exit_codes, formats, output
from mrelease.cli.commands.node import NEEDED
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.fanout import failures
from mrelease.cli.members import Chosen, member_options
from mrelease.cli.settings import Settings, common_options, pass_settings


@dataclass(frozen=True, slots=True)
class Look:
    """What an agent says of its node, and of the processes there that it would kill."""

    node: Node
    processes: tuple[ProcessInfo, ...]

    @property
    def reclaimable(self) -> int:
        """Bytes that the deaths of all of them would give back, at most: processes share pages after fork."""
        return sum(each.reclaimable_bytes for each in self.processes)

    @property
    def biggest(self) -> ProcessInfo | None:
        """The process whose death gives most back."""
        return max(self.processes, key=lambda each: each.reclaimable_bytes, default=None)


@click.group()
def fleet() -> None:
    """Ask many agents at once: those of the inventory, of a list, or of a cluster's nodes."""


@fleet.command()
@member_options
@common_options
@pass_settings
def doctor(settings: Settings, /, **chosen: Any) -> ExitCode:
    """Say of each node whether its agent is there, which version it is, and why something does not work.

    STATE: ok; off: something that makes mrelease safer or faster does not work there; missing: mrelease does not work there. Exit code 0
    where it works on every node, 7 where a kernel is not able, 6 where an agent is missing.

    \b
    mrelease fleet doctor
    mrelease fleet doctor --agents nodes.txt
    mrelease fleet doctor --kubernetes -l pool=batch
    """
    answers = Chosen(settings, **chosen).ask(_node)
    if settings.output == "table":
        rows = [("NODE", "STATE", "AGENT", "KERNEL", "WHY"), *(_finding(name, answer) for name, answer in answers.items())]
        output.out(*output.columns(rows, coloured=1), *_summary(answers.values()))
    else:
        data = [
            {"name": name, "state": _state(answer), "missing": formats.to_data(_missing(answer)), **_node_data(answer)}
            for name, answer in answers.items()
        ]
        output.out(formats.dump({"nodes": data}, settings.output))
    errors = [exit_codes.of_error(answer) for answer in answers.values() if isinstance(answer, MreleaseError)]
    return exit_codes.worst(errors) if errors else ExitCode.INCAPABLE if any(map(_missing, answers.values())) else ExitCode.OK


@fleet.command()
@click.option("--limit", type=click.IntRange(min=1), metavar="COUNT", help="How many nodes at most. Default: all.")
@member_options
@common_options
@pass_settings
def top(settings: Settings, /, limit: int | None, **chosen: Any) -> ExitCode:
    """Show by node what would come back, the most first.

    RECLAIMABLE is anonymous memory and swap of the processes that the agent would kill, at most: processes share pages after fork.
    BIGGEST is the one whose death gives most back, by what `mrelease kill` takes.
    """
    answers = Chosen(settings, **chosen).ask(_look)
    looks = {name: answer for name, answer in answers.items() if isinstance(answer, Look)}
    failed = [(name, answer) for name, answer in answers.items() if isinstance(answer, MreleaseError)]
    order = sorted(looks, key=lambda name: (-looks[name].reclaimable, name))[:limit]
    if settings.output == "table":
        rows = [("NODE", "AVAILABLE", "RECLAIMABLE", "PROCESSES", "BIGGEST"), *(_row(name, looks[name]) for name in order)]
        rows += [(name, "-", "-", "-", "-") for name, _ in failed]
        left = len(looks) - len(order)
        lines = [f"... and {left} more"] if left else []
        total = sum(look.reclaimable for look in looks.values())
        lines.append(f"total: {_text.size(total)} reclaimable on {len(looks)} of {len(answers)} nodes")
        output.out(*output.columns(rows, right=(1, 2, 3)), *lines, *failures([(name, error) for name, error in failed]))
    else:
        data = [_look_data(name, looks[name]) for name in order]
        errors = [{"name": name, **formats.error_data(error)} for name, error in failed]
        output.out(formats.dump({"nodes": data, "errors": errors}, settings.output))
    return exit_codes.worst(exit_codes.of_error(error) for _, error in failed)


async def _node(client: AsyncClient, member: Member) -> Node:
    node = await client.get_node()
    check_node(member, node.identity)
    return node


async def _look(client: AsyncClient, member: Member) -> Look:
    node = await _node(client, member)
    listed = await client.list_processes(limit=None)
    return Look(node, tuple(each for each in listed.processes if not each.protection))


def _missing(answer: Node | MreleaseError) -> list[Any]:
    return [] if isinstance(answer, MreleaseError) else [feature for feature in NEEDED if not answer.can(feature)]


def _state(answer: Node | MreleaseError) -> str:
    if isinstance(answer, MreleaseError) or _missing(answer):
        return "missing"
    return "ok" if all(each.available for each in answer.capabilities) else "off"


def _finding(name: str, answer: Node | MreleaseError) -> tuple[str, ...]:
    shown = _text.printable(name)
    if isinstance(answer, MreleaseError):
        return (shown, _state(answer), "-", "-", _text.printable(str(answer)))
    why = [f"{each.feature.name}: {_text.printable(each.reason)}" for each in answer.capabilities if not each.available]
    return (shown, _state(answer), _text.printable(answer.agent_version), _text.printable(answer.kernel_release), "; ".join(why))


def _summary(answers: Iterable[Node | MreleaseError]) -> list[str]:
    """How many are in which state, and how many versions there are of the agent."""
    every = list(answers)
    states = Counter(map(_state, every))
    versions = Counter(_text.printable(each.agent_version) for each in every if isinstance(each, Node))
    said = ", ".join(f"{states[state]} {state}" for state in ("ok", "off", "missing") if states[state])
    told = ", ".join(f"{count} of {version}" for version, count in versions.most_common())
    return [f"{len(every)} nodes: {said}", *([f"different versions: {told}"] if len(versions) > 1 else [])]


def _node_data(answer: Node | MreleaseError) -> dict[str, Any]:
    if isinstance(answer, MreleaseError):
        return {"agent": None, "error": formats.error_data(answer)}
    return {"agent": formats.to_data(answer), "error": None}


def _row(name: str, look: Look) -> tuple[str, ...]:
    memory, biggest = look.node.memory, look.biggest
    available = "-" if memory is None else _text.share(memory.available_bytes, memory.total_bytes)
    said = "-" if biggest is None else f"{biggest.process} {_text.printable(biggest.command)} {_text.size(biggest.reclaimable_bytes)}"
    return (_text.printable(name), available, _text.size(look.reclaimable), str(len(look.processes)), said)


def _look_data(name: str, look: Look) -> dict[str, Any]:
    data = {"name": name, "identity": formats.to_data(look.node.identity), "memory": formats.to_data(look.node.memory)}
    held = {"reclaimable_bytes": look.reclaimable, "processes": len(look.processes)}
    return {**data, **held, "biggest": None if look.biggest is None else formats.to_data(look.biggest)}
