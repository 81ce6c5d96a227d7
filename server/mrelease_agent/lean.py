"""asyncio without Python's own TLS: the agent's is gRPC's, and the ssl module alone would be a tenth of the idle agent's memory."""

from __future__ import annotations

import importlib
import sys


def import_asyncio() -> None:
    """Import asyncio as where Python was built without ssl, which it provides for. Who needs ssl later imports it as always."""
    if "ssl" in sys.modules or "asyncio" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("asyncio.sslproto")
    finally:
        del sys.modules["ssl"]
