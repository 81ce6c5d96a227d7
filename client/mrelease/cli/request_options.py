"""Options that say how something is killed or released, for every command that does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from mrelease import Boost, NodeRef
from mrelease.cli import params

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_BOOSTS = {boost.name.lower(): boost for boost in (Boost.NONE, Boost.PRIORITY, Boost.EVACUATION, Boost.LIFT)}


def request_options(command: CommandT) -> CommandT:
    """Add what all of them take."""
    return _add(
        command,
        click.option(
            "--timeout",
            type=params.duration,
            default="10s",
            show_default=True,
            help="How long to wait for the memory of each target: 500ms, 10s, 1m.",
        ),
        click.option("--reason", default="", metavar="TEXT", help="Why, for the agent's log."),
        click.option("--node", metavar="NAME", help="Do nothing unless this node answers."),
        click.option("--boot-id", metavar="ID", help="Do nothing unless the node runs in this boot."),
        click.option(
            "--boost",
            type=click.Choice(list(_BOOSTS)),
            help="How a victim may be given CPU time; none: not at all. Default: the agent chooses what works and is needed.",
        ),
        click.option("--dry-run", is_flag=True, help="Make every check and signal nothing: say who would die and what would come back."),
    )


def kill_options(command: CommandT) -> CommandT:
    """Add what those take that kill."""
    return _add(
        command,
        click.option(
            "--grace",
            type=params.duration,
            help="Send a signal first, and SIGKILL only to what has not ended after so long. --timeout begins after it.",
        ),
        click.option("--signal", type=params.signal, metavar="SIGNAL", help="The signal that begins the grace. Default: TERM."),
        click.option(
            "--reap-delay",
            type=params.duration,
            help="How long the victim may exit by itself before its memory is taken, 0s to 1s. Default: the agent's.",
        ),
    )


def request_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """What ``request_options`` say, as keyword arguments of a client's method."""
    named = options["node"] or options["boot_id"]
    return {
        "timeout": options["timeout"],
        "reason": options["reason"],
        "node": NodeRef(options["node"] or "", options["boot_id"] or "") if named else None,
        "boost": _BOOSTS[options["boost"]] if options["boost"] else Boost.UNSPECIFIED,
        "validate_only": options["dry_run"],
    }


def kill_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """What ``request_options`` and ``kill_options`` say."""
    if options["signal"] and not options["grace"]:
        raise click.UsageError("--signal begins a grace period: give --grace too, for example --grace 10s")
    grace = {"grace_period": options["grace"] or 0, "signal": options["signal"] or ""}
    return {**request_arguments(options), **grace, "reap_delay": options["reap_delay"]}


def _add(command: CommandT, *options: Callable[[CommandT], CommandT]) -> CommandT:
    for option in reversed(options):
        command = option(command)
    return command
