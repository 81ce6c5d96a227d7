"""Quantities of Kubernetes as bytes, and what a pod asks of a node's memory: what the scheduler counts with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

_QUANTITY: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d{1,2})|([KMGTPE]i|[numkMGTPE]))?", re.ASCII)
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_LONGEST: Final = 64


def bytes_of(quantity: object) -> int:
    """Bytes of ``128Mi``, ``1.5G``, ``1e9``, ``128974848000m``, rounded up; 0 for what is no quantity.

    Format: k8s.io/apimachinery/pkg/api/resource, Quantity.
    """
    text = str(quantity)
    found = _QUANTITY.fullmatch(text)
    if found is None or len(text) > _LONGEST:
        return 0
    number, exponent, suffix = found.groups()
    value = Decimal(f"{number}{exponent or ''}")
    value = value * (1 << _BINARY[suffix]) if suffix in _BINARY else value.scaleb(_DECIMAL.get(suffix or "", 0))
    return int(value.to_integral_value(ROUND_CEILING))


def memory_request(spec: Mapping[str, Any]) -> int:
    """Bytes that the scheduler reserves for a pod, as k8s.io/component-helpers/resource, PodRequests, adds them up.

    All containers and sidecars together; or, if that is more, what an init container needs beside the sidecars that were started before
    it. A request of the whole pod goes before those of its containers. Not read: a resize in place that is under way.
    """
    sidecars = most = 0
    for container in spec.get("initContainers") or ():
        wanted = _request(container)
        if container.get("restartPolicy") == "Always":
            sidecars += wanted
            most = max(most, sidecars)
        else:
            most = max(most, sidecars + wanted)
    together = sidecars + sum(map(_request, spec.get("containers") or ()))
    whole = _memory(_inner(spec, "resources"), "requests")
    overhead = bytes_of(_inner(spec, "overhead").get("memory") or 0)
    return (whole or max(together, most)) + overhead


def _request(container: Mapping[str, Any]) -> int:
    return _memory(_inner(container, "resources"), "requests")


def _memory(resources: Mapping[str, Any], kind: str) -> int:
    return bytes_of(_inner(resources, kind).get("memory") or 0)


def _inner(item: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = item.get(key) or {}
    return found
