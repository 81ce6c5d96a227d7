"""Attributes of a Slurm target, as hostile as every text of a caller."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mrelease_agent.targets.plugins import InvalidAttributeError, only, required

_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_STEP: Final = re.compile(r"(?:0|[1-9][0-9]{0,9})(?:\+(?:0|[1-9][0-9]{0,9}))?|batch|extern|interactive", re.ASCII)
_NODE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
#: NO_VAL of slurm/slurm.h, and what is above it, is no id.
_MOST_ID: Final = 0xFFFFFFFD


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is meant. ``step``: empty for the whole job; ``node``: as slurmd calls this node, empty for any; ``uid``: None for any."""

    job: int
    step: str = ""
    node: str = ""
    uid: int | None = None


def wanted(attributes: Mapping[str, str]) -> Wanted:
    """Read the attributes. Raises InvalidAttributeError."""
    only(attributes, "job", "step", "node", "uid")
    job = required(attributes, "job", "1234")
    number = int(job) if _NUMBER.fullmatch(job) else 0
    if not 1 <= number <= _MOST_ID:
        remedy = "give the raw job id, as `squeue -o %A` shows it; tasks of an array and components have one each, a step goes into `step`"
        raise InvalidAttributeError("job", "is no job id", remedy)
    step = attributes.get("step", "")
    if step and not _STEP.fullmatch(step):
        raise InvalidAttributeError(
            "step", "is no step", "give its number, batch, extern or interactive, or leave it out for the whole job"
        )
    node = attributes.get("node", "")
    if node and not _NODE.fullmatch(node):
        raise InvalidAttributeError("node", "is no name of a node", "give NodeName of slurm.conf, or leave it out")
    return Wanted(number, step, node, _uid(attributes.get("uid", "")))


def _uid(text: str) -> int | None:
    if not text:
        return None
    if not _NUMBER.fullmatch(text) or int(text) > _MOST_ID:
        raise InvalidAttributeError(
            "uid", "is no user id", "give the number of the job's user, as `squeue -o %U` shows it, or leave it out"
        )
    return int(text)
