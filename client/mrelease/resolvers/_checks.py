"""Whether what a plugin gave is what it has to give."""

from __future__ import annotations

from typing import Any, get_args

from mrelease._models import NodeRef, Target
from mrelease.errors import PluginFailed, ReferenceNotFound, ResolutionError
from mrelease.resolvers._placement import Agent, Placement

_ASK = "tell its author: mrelease.resolvers.conformance finds it"


def checked(title: str, found: Any) -> list[Placement]:
    """The placements. Raises PluginFailed, and ReferenceNotFound where there are none."""
    if not isinstance(found, list | tuple):
        raise PluginFailed(f"{title} gave {type(found).__name__}, not a list of placements", _ASK)
    placements: list[Any] = list(found)  # pyright: ignore[reportUnknownArgumentType]
    for placement in placements:
        if wrong := why_not(placement):
            raise PluginFailed(f"{title} gave {wrong}", _ASK)
    if not placements:
        raise ReferenceNotFound(f"{title} found nothing", "it is not there any more, or the name is wrong")
    return placements


def why_not(placement: Any) -> str:
    """What is wrong with a placement; empty: nothing."""
    if not isinstance(placement, Placement):
        return f"{type(placement).__name__} where a Placement goes"
    return _what(placement) or _where(placement)


def _what(placement: Placement) -> str:
    if not (isinstance(placement.node, str) and placement.node.strip()):  # pyright: ignore[reportUnnecessaryIsInstance]
        return "a placement without a node"
    if not isinstance(placement.target, get_args(Target)):
        return f"a placement whose target is {type(placement.target).__name__}, and no target"
    if not isinstance(placement.expected, NodeRef) or not isinstance(placement.title, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        return "a placement whose expected is no NodeRef, or whose title is no text"
    return ""


def _where(placement: Placement) -> str:
    # Exactly one of them.
    if (placement.agent is None) == (placement.problem is None):
        return "a placement with neither an agent nor a problem, or with both"
    if not isinstance(placement.agent, Agent | None) or not isinstance(placement.problem, ResolutionError | None):  # pyright: ignore[reportUnnecessaryIsInstance]
        return "a placement whose agent is no Agent, or whose problem is no ResolutionError"
    return ""
