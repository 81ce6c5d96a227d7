"""The node agent of mrelease: resolves, kills, releases, proves."""

from __future__ import annotations


def version() -> str:
    """Version of the installed distribution, for example "0.1.0"."""
    from importlib.metadata import version as installed

    return installed("mrelease")
