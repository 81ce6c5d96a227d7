"""How many requests a minute: for each node, and for all of them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from mrelease_agent.guard.window import Window

_MINUTE: Final = 60 * 10**9
#: Nodes that are remembered: those that had no request for longest are forgotten first, and only where their minute is over.
_NODES: Final = 20_000


class Limits:
    """``per_node`` and ``total`` requests in any minute. Times are of time.monotonic_ns()."""

    def __init__(self, per_node: int, total: int) -> None:
        self._per_node, self._total = per_node, total
        self._all = Window(_MINUTE)
        self._nodes: OrderedDict[str, Window] = OrderedDict()

    def take(self, node: str, now: int) -> float:
        """Count one request, and say 0; or say in how many seconds one may be made, and count none."""
        window = self._nodes.setdefault(node, Window(_MINUTE))
        self._nodes.move_to_end(node)
        if len(self._nodes) > _NODES and not next(iter(self._nodes.values())).used(now):
            self._nodes.popitem(last=False)
        wait = max(window.wait(1, self._per_node, now) or 0, self._all.wait(1, self._total, now) or 0)
        if not wait:
            window.add(1, now)
            self._all.add(1, now)
        return wait / 1e9
