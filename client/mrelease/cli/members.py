"""The agents that a command for a fleet asks: those of a list, of the inventory, or of a cluster's nodes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from mrelease import AsyncClient, AsyncFleet, Member, MreleaseError, NodeRef, _text
from mrelease.cli import fanout
from mrelease.cli.bars import can_draw
from mrelease.cli.settings import Settings
from mrelease.cli.where import Flags, find, shown_to
from mrelease.errors import NoAgent

ValueT = TypeVar("ValueT")
CommandT = TypeVar("CommandT", bound=Callable[..., Any])
#: What is done at each of them.
Work = Callable[[AsyncClient, Member], Awaitable[ValueT]]

#: Agents that are asked at the same time.
CONCURRENCY = 64
#: Agents of a list at most, and bytes of one of its lines.
_MOST, _LONGEST = 50_000, 512


def member_options(command: CommandT) -> CommandT:
    """Add the arguments that ``Chosen`` reads."""
    options = (
        click.argument("names", metavar="[NODE]...", nargs=-1),
        click.option(
            "--agents",
            metavar="FILE",
            help="A list of agents, one a line: ADDRESS, or NAME ADDRESS; - is standard input. Default: the inventory.",
        ),
        click.option("--kubernetes", is_flag=True, help="The nodes of the cluster of the kubeconfig, through its API server."),
        click.option("-l", "--selector", metavar="SELECTOR", help="With --kubernetes: only nodes with these labels."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Chosen:
    """The members of one command, as ``member_options`` say."""

    settings: Settings
    names: tuple[str, ...]
    agents: str | None
    kubernetes: bool
    selector: str | None

    def ask(self, work: Work[ValueT]) -> dict[str, ValueT | MreleaseError]:
        """What ``work`` gave for each, by the names of the nodes. Raises click.UsageError, and MreleaseError for what is wrong with all."""
        if self.settings.agent is not None or self.settings.local:
            raise click.UsageError("--agent and --local are one agent: a fleet is --agents FILE, --kubernetes, or the inventory")
        if self.agents is not None and self.kubernetes:
            raise click.UsageError("give one of --agents and --kubernetes")
        if self.selector is not None and not (self.kubernetes and self.selector):
            raise click.UsageError("--selector chooses among the nodes of --kubernetes, by labels: app=x,tier!=y")
        if self.kubernetes:
            return self._ask_cluster(work)
        members = self._listed() if self.agents is not None else _inventory(self.settings)
        if not members:
            raise NoAgent("there is no agent to ask", "the list is empty")
        return asyncio.run(_ask(_only(members, self.names), work))

    def _listed(self) -> dict[str, Member]:
        assert self.agents is not None
        try:
            with nullcontext(sys.stdin) if self.agents == "-" else open(self.agents, encoding="utf-8") as stream:
                return _read(stream, self.agents, self.settings)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise click.UsageError(f"--agents {self.agents}: cannot be read: {why}") from None

    def _ask_cluster(self, work: Work[ValueT]) -> dict[str, ValueT | MreleaseError]:
        from mrelease.cli.kube.fanout import over
        from mrelease.cli.kube.settings import KubeSettings
        from mrelease.resolvers.kubernetes import NodeObject
        from mrelease.resolvers.kubernetes._api import path_of

        settings = KubeSettings()
        with settings.cluster() as cluster:
            if self.selector is None:
                nodes = cluster.nodes(self.names or None, settings.end())
            else:
                path = path_of("api", "v1", "nodes")
                chosen = cluster.api.each(path, settings.end(), NodeObject.of, labelSelector=self.selector)
                nodes = {node.name: node for node in chosen if not self.names or node.name in self.names}
            _all_there(self.names, nodes)
            if not nodes:
                raise NoAgent("no node has these labels", "list them: kubectl get nodes --show-labels")
            cluster.release(settings.end())
            cluster.credentials(settings.end())

            async def one(name: str, client: AsyncClient) -> ValueT:
                return await work(client, Member(name, client.address, node=NodeRef(boot_id=nodes[name].boot_id)))

            return asyncio.run(over(cluster, settings, nodes, one))


async def _ask(members: list[Member], work: Work[ValueT]) -> dict[str, ValueT | MreleaseError]:
    found: dict[str, ValueT | MreleaseError] = {}
    bar = fanout.Bar(len(members)) if len(members) > 1 and can_draw() else None
    try:
        async with AsyncFleet(members, concurrency=CONCURRENCY) as fleet:
            async for answer in fleet.each(work):
                found[answer.member.name] = answer.result
                if bar is not None:
                    bar.step()
    finally:
        if bar is not None:
            bar.close()
    return {member.name: found[member.name] for member in members}


def _read(lines: Iterable[str], name: str, settings: Flags) -> dict[str, Member]:
    """The members of a list. What is wrong with a line is a mistake in all of it: nobody knows whom it meant."""
    tls = find(Flags("127.0.0.1:1", settings.context, settings.tls_ca, settings.tls_cert, settings.tls_key, settings.tls_server_name)).tls
    found: dict[str, Member] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) > 2 or len(line) > _LONGEST:
            raise click.UsageError(f"--agents {name}, line {number}: expected ADDRESS, or NAME ADDRESS")
        if words[0] in found:
            raise click.UsageError(f"--agents {name}, line {number}: {_text.printable(words[0])} is there twice")
        if len(found) == _MOST:
            raise click.UsageError(f"--agents {name} has more than {_MOST} agents")
        address = words[-1]
        found[words[0]] = Member(words[0], address, None if address.startswith("unix:") else tls)
    return found


def _inventory(settings: Flags) -> dict[str, Member]:
    """The members that the user's inventory names. Raises InvalidInventory, NoAgent."""
    from mrelease.addresses._file import InventoryFile, load, path

    file = path()
    entries = load(file)
    if entries is None:
        raise NoAgent(f"there is no {file}", "write one (docs/plugins/index.md), or name the agents: --agents FILE, --kubernetes")
    finder = InventoryFile()

    def member(name: str) -> Member:
        try:
            agent = finder.find(name, 0.0)
            tls = shown_to(settings, agent.address, agent.tls)
        except MreleaseError as error:
            return Member(name, "", problem=error)
        return Member(name, agent.address, tls, NodeRef(agent.node) if agent.node else None)

    return {name: member(name) for name in entries}


def _only(members: dict[str, Member], names: tuple[str, ...]) -> list[Member]:
    _all_there(names, members)
    return [member for name, member in members.items() if not names or name in names]


def _all_there(names: Iterable[str], known: Iterable[str]) -> None:
    missing = sorted(set(names) - set(known))
    if missing:
        raise NoAgent(f"there is no node {_text.printable(', '.join(missing))}", "it is not among those that are chosen")
