"""Whether an audit log is as it was written: every record is there, in its order, with its own bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mrelease import _audit_files
from mrelease._audit_chain import GENESIS, BadRecordError, Head, Link, fields, link

Kind = Literal["changed", "missing", "reordered", "inserted", "truncated"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where it shows (``line`` 0: in no line), and from which record on."""

    kind: Kind
    file: str
    line: int
    seq: int
    text: str


@dataclass(slots=True)
class Report:
    """What was found. ``first``: number of the first record; ``last``: the last one, which is what to anchor elsewhere."""

    files: int = 0
    records: int = 0
    first: int = 0
    last: Head = field(default_factory=lambda: Head(0, GENESIS))
    problems: list[Problem] = field(default_factory=list[Problem])
    notes: list[str] = field(default_factory=list[str])


def verify(paths: Sequence[Path], expected: Iterable[str] = ()) -> Report:
    """Verify the log in a directory, or in some of its files. ``expected``: hashes that records of it must have.

    A directory is verified as a whole: it begins with the first record of all, or with the one that a record of removal names, and
    reaches as far as its head file says. Of files alone it is verified that they follow one another. Raises OSError.
    """
    for _ in range(3):
        # The head first: the log only grows meanwhile.
        files, directories = _audit_files.find(paths)
        heads = _audit_files.heads(directories)
        try:
            return _Verification(files, heads, set(expected), whole=bool(directories)).run()
        except FileNotFoundError:
            if not directories:
                raise
            # Removed by the agent while we read: there is a newer one.
    raise FileNotFoundError(2, "the files are removed faster than they can be read", str(paths[0]))


@dataclass(slots=True)
class _Gap:
    """Records, ``first`` to ``last``, that were not where they belong, and the problem (by its index) that says so."""

    first: int
    last: int
    problem: int
    found: set[int] = field(default_factory=set[int])

    def lacks(self, seq: int) -> bool:
        return self.first <= seq <= self.last and seq not in self.found


class _Verification:
    def __init__(self, files: Sequence[Path], heads: Sequence[Head], expected: set[str], *, whole: bool) -> None:
        self._files = files
        self._heads = {head.seq: head for head in heads}
        self._expected = expected
        self._whole = whole
        self._report = Report(files=len(files))
        self._next: tuple[int, str | None] | None = None  # number and ``prev`` of the next record; None: not known
        self._previous = ("", 0)  # file and line of the last record
        self._bad: list[tuple[str, int, str]] = []  # lines that are no records, since the last one that is
        self._gaps: list[_Gap] = []
        self._hashes: dict[int, str] = {}  # of this file and the one before
        self._begun: Link | None = None  # the first record, where it is not the first of all
        self._torn: tuple[str, int, int] | None = None  # file, line and bytes

    def run(self) -> Report:
        for path in self._files:
            known = self._hashes
            self._hashes = {}
            for number, text, end in _audit_files.lines(path):
                if end < 0:
                    self._torn = (path.name, number, len(text))
                else:
                    self._line(path.name, number, text, known)
            self._hashes = self._hashes or known
        self._end()
        return self._report

    def _line(self, file: str, number: int, text: bytes, known: dict[int, str]) -> None:
        try:
            found = link(text)
            record = fields(text) if found.event in ("begin", "removed") else {}
        except BadRecordError as error:
            self._bad.append((file, number, str(error)))
            return
        report = self._report
        report.records += 1
        self._expected.discard(found.hash)
        if found.event == "begin":
            cause = record.get("cause")
            if cause not in ("first", "rotation"):
                report.notes.append(f"{file} was begun because of the file before: {cause}")
            if self._is_rewind(record, found, {**known, **self._hashes}, file):
                self._next = (found.seq, found.prev)
        if self._torn is not None:
            self._problem("changed", self._torn[0], self._torn[1], found.seq, "the line has no end, and others follow")
            self._torn = None
        if found.event == "removed":
            self._removal(record)
        self._follow(file, number, found)

    def _follow(self, file: str, number: int, found: Link) -> None:
        report = self._report
        if self._next is None:
            report.first = found.seq
            if (found.seq, found.prev) != (1, GENESIS):
                self._begun = found
            if self._bad:
                self._settle_bad(found, max(1, found.seq - len(self._bad)), None)
            self._accept(file, number, found)
            return
        seq, prev = self._next
        if found.seq < seq:
            self._too_early(file, number, found)
            return
        if self._bad:
            self._settle_bad(found, seq, prev)
        elif found.seq > seq:
            self._gaps.append(_Gap(seq, found.seq - 1, len(report.problems)))
            self._problem("missing", file, number, seq, f"{_records(seq, found.seq - 1)} not there: this line is record {found.seq}")
        elif prev is not None and found.prev != prev:
            before, line = self._previous
            self._problem(
                "changed",
                before,
                line,
                seq - 1,
                f"record {seq - 1} is not the one that record {seq} follows: it was changed and hashed anew",
            )
        self._accept(file, number, found)

    def _accept(self, file: str, number: int, found: Link) -> None:
        head = self._heads.get(found.seq)
        if head is not None and head.hash != found.hash:
            self._problem("changed", file, number, found.seq, "it is not the record that the head file names")
        self._next = (found.seq + 1, found.hash)
        self._previous = (file, number)
        self._hashes[found.seq] = found.hash
        self._report.last = Head(found.seq, found.hash)

    def _too_early(self, file: str, number: int, found: Link) -> None:
        gap = next((gap for gap in self._gaps if gap.lacks(found.seq)), None)
        if gap is None:
            self._problem("inserted", file, number, found.seq, f"record {found.seq} stands here too, or was made up")
            return
        gap.found.add(found.seq)
        old = self._report.problems[gap.problem]
        self._report.problems[gap.problem] = Problem(
            "reordered", old.file, old.line, old.seq, f"record {found.seq} belongs before this line, and is line {number} of {file}"
        )

    def _settle_bad(self, found: Link, seq: int, prev: str | None) -> None:
        """Say what lines are that are no records, now that the next record is known."""
        if found.seq == seq and (prev is None or found.prev == prev):
            for file, number, why in self._bad:
                self._problem("inserted", file, number, seq, f"the line is not of this log: {why}")
        elif found.seq - seq == len(self._bad):
            for offset, (file, number, why) in enumerate(self._bad):
                self._problem("changed", file, number, seq + offset, why)
        else:
            file, number, why = self._bad[0]
            self._problem("changed", file, number, seq, f"{why}; {_records(seq, max(seq, found.seq - 1))} not there")
        self._bad.clear()

    def _is_rewind(self, record: dict[str, Any], found: Link, known: dict[int, str], file: str) -> bool:
        """A file after a failure goes on from the last durable record: what the file before has beyond was refused."""
        if self._next is None or not record.get("unconfirmed"):
            return False
        before = found.seq - 1
        if known.get(before, GENESIS if before == 0 else "") != found.prev:
            return False
        beyond = self._next[0] - found.seq + len(self._bad) + (self._torn is not None)
        if beyond > 0:
            self._report.notes.append(f"the last {beyond} lines before {file} were never durable: nothing was killed because of them")
        self._bad.clear()
        self._torn = None
        return True

    def _removal(self, record: dict[str, Any]) -> None:
        if self._begun is not None and (record.get("through"), record.get("last")) == (self._begun.seq - 1, self._begun.prev):
            self._begun = None

    def _end(self) -> None:
        report, last = self._report, self._report.last
        file = self._files[-1].name if self._files else ""
        if self._bad:
            seq = last.seq + 1
            for offset, (name, number, why) in enumerate(self._bad):
                self._problem("changed", name, number, seq + offset, why)
        if self._torn is not None:
            report.notes.append(
                f"the last line of {self._torn[0]} ({self._torn[2]} bytes) is not whole: it is being written, or the agent died while it "
                "wrote, and the next one removes it"
            )
        beyond = max((head.seq for head in self._heads.values()), default=0)
        if beyond > last.seq + len(self._bad):
            self._problem("truncated", file, 0, last.seq + 1, f"{_records(last.seq + 1, beyond)} cut off: the head file names {beyond}")
        if self._begun is not None:
            text = f"{_records(1, self._begun.seq - 1)} not there" if self._begun.seq > 1 else "the first record follows another one"
            if self._whole:
                self._problem("missing", self._files[0].name, 1, 1, f"{text}, and nothing says that they were removed for their age")
            else:
                report.notes.append(f"{text}: these are not all files")
        if self._whole and not self._files:
            report.notes.append("there is no file of an audit log")
        for digest in sorted(self._expected):
            self._problem("missing", file, 0, last.seq + 1, f"no record has the hash {digest}: it was changed or cut off")

    def _problem(self, kind: Kind, file: str, line: int, seq: int, text: str) -> None:
        self._report.problems.append(Problem(kind, file, line, seq, text))


def _records(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"
