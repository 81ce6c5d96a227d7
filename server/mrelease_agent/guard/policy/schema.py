"""The JSON Schema of a policy file, for editors and for checks outside of an agent."""

from __future__ import annotations

from typing import Any

import msgspec

from mrelease_agent.guard.policy.types import PolicyFile


def schema() -> dict[str, Any]:
    """JSON Schema 2020-12. It knows the shape; what patterns of names may be, and which users there are, only load() knows."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(PolicyFile)}
