"""``kubectl mrelease doctor``: for each node, whether an agent is there, whether its kernel is able, and why not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import click
from rich.text import Text

from mrelease import AsyncClient, MreleaseError, Node, _text
from mrelease.cli import exit_codes, formats, output
from mrelease.cli.commands.node import NEEDED
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.kube import completing
from mrelease.cli.kube.fanout import over
from mrelease.cli.kube.settings import KubeSettings, common_options, pass_settings
from mrelease.errors import ReferenceNotFound
from mrelease.resolvers.kubernetes import NodeObject

_HEADER = ("NODE", "STATE", "AGENT", "KERNEL", "WHY")


@dataclass(frozen=True, slots=True)
class Finding:
    """What is so of one node."""

    node: NodeObject
    answer: Node | MreleaseError

    @property
    def missing(self) -> list[str]:
        """What mrelease needs and the agent cannot do."""
        return [] if isinstance(self.answer, MreleaseError) else [each.name for each in NEEDED if not self.answer.can(each)]

    @property
    def is_other_boot(self) -> bool:
        """Whether the API server speaks of another boot of the node: until it knows, nothing is killed there."""
        return isinstance(self.answer, Node) and self.answer.identity.boot_id != self.node.boot_id

    @property
    def state(self) -> str:
        """In one word."""
        if isinstance(self.answer, MreleaseError) or self.missing or self.is_other_boot:
            return "missing"
        return "ok" if all(each.available for each in self.answer.capabilities) else "off"

    @property
    def code(self) -> ExitCode:
        """Its exit code."""
        if isinstance(self.answer, MreleaseError):
            return exit_codes.of_error(self.answer)
        return ExitCode.INCAPABLE if self.missing or self.is_other_boot else ExitCode.OK

    def row(self) -> tuple[str, ...]:
        """Its cells."""
        if isinstance(self.answer, MreleaseError):
            ready = "" if self.node.is_ready else "the node is not ready; "
            return (self.node.name, self.state, "-", self.node.kernel, _text.printable(f"{ready}{self.answer}"))
        off = [each.feature.name for each in self.answer.capabilities if not each.available]
        other = "the API server does not know of its last reboot yet; " if self.is_other_boot else ""
        why = f"cannot: {', '.join(off)} (-o wide says why)" if off else ""
        return (self.node.name, self.state, _text.printable(self.answer.agent_version), self.node.kernel, f"{other}{why}")

    def details(self) -> list[str]:
        """Why each thing that it cannot do is so."""
        if isinstance(self.answer, MreleaseError):
            return []
        lines: list[str] = []
        for each in self.answer.capabilities:
            if not each.available:
                lines.append(f"{self.node.name}: {each.feature.name}: {_text.printable(each.reason)}")
                lines += [f"  {_text.printable(each.remedy)}"] if each.remedy else []
        return lines

    def to_data(self) -> dict[str, Any]:
        """The same for programs."""
        failed = isinstance(self.answer, MreleaseError)
        return {
            "name": self.node.name,
            "state": self.state,
            "ready": self.node.is_ready,
            "missing": self.missing,
            "agent": None if failed else formats.to_data(self.answer),
            "error": formats.error_data(self.answer) if isinstance(self.answer, MreleaseError) else None,
        }


@click.command()
@click.argument("names", metavar="[NODE]...", nargs=-1, shell_complete=completing.node_names)
@common_options
@pass_settings
def doctor(settings: KubeSettings, /, names: tuple[str, ...]) -> ExitCode:
    """Say of each node whether its agent is there, what works, why something does not, and what to do about it.

    STATE: ok; off: something that makes mrelease safer or faster does not work there; missing: mrelease does not work there. Exit code 0
    where it works on every node, 7 where a kernel is not able, 6 where an agent is missing.
    """
    with settings.cluster() as cluster:
        known = cluster.nodes(names or None, settings.end())
        if missing := sorted(set(names) - set(known)):
            raise ReferenceNotFound(f"there is no node {', '.join(missing)}", "list them: kubectl get nodes")
        release = cluster.release(settings.end())
        cluster.credentials(settings.end())
        answers = asyncio.run(over(cluster, settings, known, _ask))
    findings = [Finding(known[name], answers[name]) for name in sorted(known)]
    if settings.is_table:
        lines: list[Text | str] = [f"agents of {release.namespace}/{release.service}, known as {release.server_name}", ""]
        lines += output.columns([_HEADER, *(finding.row() for finding in findings)], coloured=1)
        if settings.output == "wide":
            lines += [line for finding in findings for line in finding.details()]
        output.out(*lines)
    else:
        about = {"namespace": release.namespace, "service": release.service, "server_name": release.server_name}
        output.out(formats.dump({"release": about, "nodes": [finding.to_data() for finding in findings]}, settings.output))
    codes = {finding.code for finding in findings}
    return ExitCode.INCAPABLE if codes <= {ExitCode.OK, ExitCode.INCAPABLE} and ExitCode.INCAPABLE in codes else _worst(codes)


def _worst(codes: set[ExitCode]) -> ExitCode:
    return exit_codes.worst(codes - {ExitCode.INCAPABLE})


async def _ask(_name: str, client: AsyncClient) -> Node:
    return await client.get_node()
