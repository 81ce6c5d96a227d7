"""The example in another language as a program, and the agent that it calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from support.certified import Certified


@dataclass(frozen=True, slots=True)
class Example:
    """A program and how it writes its flags."""

    command: tuple[str, ...]
    dashes: str
    second: str

    def calling(self, agent: str, files: Mapping[str, Path], *words: str, deadline: int = 60, request_id: str = "") -> list[str]:
        """Its command line, with the certificates ``files``."""
        flags = {"agent": agent, **files, "deadline": f"{deadline}{self.second}", "reason": "a test", "request-id": request_id}
        return [*self.command, *(part for name, value in flags.items() if value for part in (f"{self.dashes}{name}", str(value))), *words]


@dataclass(frozen=True, slots=True)
class Called:
    """An agent that serves who is called "killer"."""

    certified: Certified
    folder: Path

    @property
    def address(self) -> str:
        return self.certified.address

    @property
    def audit(self) -> Path:
        return self.folder / "audit"

    def files(self, name: str = "killer") -> dict[str, Path]:
        """The certificates of a caller."""
        made = self.certified.folder
        with self.certified.caller(name):  # makes them
            return {"ca": made / "ca.crt", "cert": made / f"{name}.crt", "key": made / f"{name}.key"}
