"""``mrelease node`` and ``mrelease doctor``."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Final

import click
from rich.text import Text

from mrelease import Capability, Feature, Node, _text, errors
from mrelease.cli import exit_codes, formats, output
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.settings import Settings, common_options, pass_settings

#: What mrelease is pointless without; the rest makes it safer, wider or faster.
NEEDED: Final = frozenset({Feature.PROCESS_MRELEASE})


@click.command()
@common_options
@pass_settings
def node(settings: Settings) -> ExitCode:
    """Describe the node and its agent."""
    with settings.where() as where, where.client() as client:
        found = client.get_node()
    if settings.output == "table":
        output.out(*_describe(found))
    else:
        output.out(formats.dump(formats.to_data(found), settings.output))
    return ExitCode.OK


@click.command()
@common_options
@pass_settings
def doctor(settings: Settings) -> ExitCode:
    """Say what works on this node, why something does not, and what to do about it.

    Exit code 0 where everything that mrelease needs works, 7 where something needed does not, 6 where no agent answers.
    """
    try:
        with settings.where() as agent, agent.client() as client:
            found, where = client.get_node(), client.address
    except errors.AgentError as error:
        _report_failure(settings, error)
        return exit_codes.of_error(error)
    missing = [feature for feature in NEEDED if not found.can(feature)]
    if settings.output == "table":
        version = _text.printable(found.agent_version)
        output.out(_line("ok", f"agent {version} at {where} on {_text.printable(found.identity.name)}"))
        for capability in found.capabilities:
            output.out(*_diagnosis(capability))
        for feature in missing:
            if not any(c.feature == feature for c in found.capabilities):
                output.out(_line("missing", f"{feature}: the agent does not say whether it works"))
    else:
        data: dict[str, Any] = {"agent": where, "error": None, "node": formats.to_data(found), "missing": formats.to_data(missing)}
        output.out(formats.dump(data, settings.output))
    return ExitCode.INCAPABLE if missing else ExitCode.OK


def _describe(found: Node) -> list[str]:
    rows = [
        ("node", _text.printable(found.identity.name)),
        ("boot", _text.printable(found.identity.boot_id)),
        ("kernel", _text.printable(f"Linux {found.kernel_release} {found.machine}")),
        ("agent", f"{_text.printable(found.agent_version)}, uid {found.agent_uid}{_since(found.agent_start_time)}"),
    ]
    if found.memory is not None:
        memory = found.memory
        rows.append(("memory", f"{_text.share(memory.available_bytes, memory.total_bytes)} available"))
        rows.append(("swap", f"{_text.share(memory.swap_free_bytes, memory.swap_total_bytes)} free"))
    can = [c.feature.name for c in found.capabilities if c.available]
    cannot = [c.feature.name for c in found.capabilities if not c.available]
    rows.append(("can", ", ".join(can) or "-"))
    rows.append(("cannot", f"{', '.join(cannot)} (why: mrelease doctor)" if cannot else "-"))
    return ["  ".join(row) for row in _text.table(rows)]


def _since(start: datetime | None) -> str:
    return "" if start is None else f", since {start.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def _diagnosis(capability: Capability) -> list[Text]:
    state = "ok" if capability.available else "missing" if capability.feature in NEEDED else "off"
    reason, remedy = _text.printable(capability.reason), _text.printable(capability.remedy)
    lines = [_line(state, f"{capability.feature}{f': {reason}' if reason else ''}")]
    if remedy and not capability.available:
        lines.append(Text(f"{'':9}{remedy}"))
    return lines


def _line(state: str, text: str) -> Text:
    return Text.assemble((f"{state:<7}", output.style(state)), "  ", text)


def _report_failure(settings: Settings, error: errors.AgentError) -> None:
    if settings.output == "table":
        output.out(_line("missing", f"agent: {_text.printable(error.message)}"), f"{'':9}{_text.printable(error.remedy)}")
    else:
        agent = settings.agent or settings.context
        data: dict[str, Any] = {"agent": agent, "error": formats.error_data(error), "node": None, "missing": []}
        output.out(formats.dump(data, settings.output))
