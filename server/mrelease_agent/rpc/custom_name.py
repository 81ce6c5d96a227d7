"""How a custom target is called: its kind as rules of the access policy have it, and in one short text for people."""

from __future__ import annotations

import json
import re
from typing import Final

from mrelease.v1 import target_pb2

_BARE: Final = re.compile(r"[A-Za-z0-9_.:/@+-]+", re.ASCII)


def kind_of(target: target_pb2.Target) -> str:
    """The field of Target that is set, for the guard: ``custom:slurm`` for a custom one; empty where none is set."""
    kind = target.WhichOneof("kind") or ""
    return f"custom:{target.custom.kind}" if kind == "custom" else kind


def custom_text(custom: target_pb2.CustomTarget) -> str:
    """A custom target in one text, the same for the same target: ``slurm job=1234 step=0``."""
    return " ".join([custom.kind, *(f"{key}={_word(value)}" for key, value in sorted(custom.attributes.items()))])


def _word(value: str) -> str:
    return value if _BARE.fullmatch(value) else json.dumps(value, ensure_ascii=False)
