"""What became of the tests on one kernel."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

_SHOWN_LINES = 30


@dataclass(slots=True)
class Results:
    """Read from what plugin.py wrote, also while it is still writing."""

    passed: int = 0
    total: int = 0
    skipped: Counter[str] = field(default_factory=Counter[str])
    left_out: Counter[str] = field(default_factory=Counter[str])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    #: The test that is running.
    begun: str = ""

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read the file; a last line that is not whole yet is left."""
        found = cls()
        for line in path.read_text().splitlines(keepends=True) if path.exists() else ():
            if line.endswith("\n"):
                found._add(json.loads(line))
        return found

    def _add(self, facts: dict[str, object]) -> None:
        test, why = str(facts.get("test", "")), str(facts.get("why", ""))
        match facts.get("outcome"):
            case "passed":
                self.passed += 1
            case "skipped":
                self.skipped[why] += 1
            case "left out":
                self.left_out[why] += 1
            case "failed":
                self.failed[test] = why
            case _:
                self.begun = str(facts.get("begun", self.begun))
                self.total = int(str(facts.get("total", self.total)))

    @property
    def done(self) -> int:
        """How many tests have ended."""
        return self.passed + sum(self.skipped.values()) + len(self.failed)

    def counts(self) -> str:
        """One line."""
        skipped, left_out = sum(self.skipped.values()), sum(self.left_out.values())
        return f"{self.passed} passed, {skipped} skipped, {left_out} left out, {len(self.failed)} failed"

    def details(self) -> list[str]:
        """Why tests were skipped and left out, and how they failed."""
        lines = [f"skipped {count}: {why}" for why, count in self.skipped.most_common()]
        lines += [f"left out {count}: {why}" for why, count in self.left_out.most_common()]
        for test, why in self.failed.items():
            lines += [f"FAILED {test}", *(f"    {line}" for line in why.splitlines()[-_SHOWN_LINES:])]
        return lines
