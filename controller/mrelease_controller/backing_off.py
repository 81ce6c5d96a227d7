"""How long to leave something alone: longer each time that nothing came of it."""

from __future__ import annotations

import zlib

from mrelease_controller.config import Settings


def pause(failures: int, key: str, settings: Settings) -> float:
    """Seconds until the next look. Spread by up to a quarter, by ``key``: what began together does not come together for ever."""
    first, longest = settings.pauses
    spread = 1 + (zlib.crc32(key.encode()) % 1000) / 4000
    return min(first * 2.0 ** min(failures, 30), longest) * spread
