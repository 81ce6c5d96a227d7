"""Libraries of orchestrators: whoever runs the orchestrator has them, and nobody else needs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mrelease.errors import MissingExtra


def need(module: str, who: str) -> Any:
    """Import a module of a library. Raises MissingExtra, which names ``who`` wants it, where it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        raise MissingExtra(f"{who} needs {missing}", f"install it where this runs: pip install {module.partition('.')[0]}") from None
