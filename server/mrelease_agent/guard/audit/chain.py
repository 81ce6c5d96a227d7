"""The log as a chain of records in files: appended, rotated, recovered, and given up where it cannot be trusted. One thread uses it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mrelease import _audit_chain
from mrelease._audit_chain import GENESIS, BadRecordError, Head
from mrelease._version import VERSION
from mrelease_agent.guard.audit.describe import Describer, now
from mrelease_agent.guard.audit.files import Directory, HeadFile, LogFile, Sync, Unusable, unusable
from mrelease_agent.guard.audit.records import (
    Begin,
    Intent,
    Interrupted,
    More,
    Record,
    Removed,
    Result,
    Resumed,
    Start,
    Stop,
    seal,
)
from mrelease_agent.guard.audit.recovery import LONGEST, REFUSALS, Tail, read_tail

#: Refusals take no more of a file than its size divided by this: who is refused cannot make files be rotated away.
_REFUSAL_SHARE: Final = 4
#: What of a failed write is not written again: callers are told, and the rest says what was so then.
_NOT_AGAIN: Final = (Intent, More, Begin, Start, Stop, Resumed, Removed)


class Chain:
    """The audit log in ``path``: files of ``max_file`` bytes, ``max_files`` of them.

    ``warn`` is told in words what was found wrong or removed; ``sync`` is fdatasync(2), a seam for what a disk cannot be made to answer.
    """

    def __init__(
        self, path: Path, describer: Describer, max_file: int, max_files: int, *, warn: Callable[[str], None], sync: Sync = os.fdatasync
    ) -> None:
        self._path = path
        self._describer = describer
        self._max_file = max_file
        self._max_files = max_files
        self._warn = warn
        self._sync = sync
        self._directory: Directory | None = None
        self._file: LogFile | None = None
        self._head: HeadFile | None = None
        self._known = False  # whether the end of the chain is: it was read, or written
        self._seq, self._hash = 0, GENESIS
        self._durable = (0, GENESIS, 0)  # number, hash, and size of the file
        self._refusals = 0
        self._open: set[int] = set()
        self._unsynced: list[Record] = []
        self._first = 0  # bytes of the file's first record
        self._last_intent = 0
        self._failed: tuple[str, Unusable] | None = None  # since when, and why

    @property
    def head(self) -> Head:
        """The last durable record."""
        return Head(*self._durable[:2])

    @property
    def room_for_refusals(self) -> bool:
        """Whether the file may have more of them."""
        return self._refusals < self._max_file // _REFUSAL_SHARE

    def open(self) -> None:
        """Find out where the log ends and go on with it, or go on after a failure. Raises Unusable: then it may be tried again."""
        try:
            if self._known and self._failed is not None:
                self._reopen(*self._failed)
            else:
                self._recover()
        except OSError as error:
            raise self._fail(unusable(error, f"{self._path} cannot be written")) from None
        except Unusable as why:
            raise self._fail(why) from None
        self._failed = None

    def check(self) -> None:
        """Look whether the file is still the one that was opened. Raises Unusable."""
        assert self._file is not None
        try:
            self._file.check()
        except Unusable as why:
            raise self._fail(why) from None

    def commit(self, records: Sequence[Record], *, durable: bool) -> None:
        """Number, chain and write records; ``durable``: and make them durable, with what was written before them.

        Raises Unusable: then those that nobody waits for are returned by ``take_lost``.
        """
        self._unsynced += records
        self.check()
        try:
            self._write(records)
            if durable:
                self._sync_file()
        except OSError as error:
            raise self._fail(unusable(error, f"{self._path} cannot be written")) from None
        except Unusable as why:
            raise self._fail(why) from None

    def sync(self) -> None:
        """Make durable what is written. Raises Unusable."""
        try:
            self._sync_file()
        except Unusable as why:
            raise self._fail(why) from None

    def take_lost(self) -> list[Record]:
        """After a failure: records that nobody waits for and that are not durable."""
        lost, self._unsynced = [record for record in self._unsynced if not isinstance(record, _NOT_AGAIN)], []
        for record in lost:
            record.seq = 0
        return lost

    def close(self, *, stop: bool = True) -> None:
        """Say that it ends, where it can be said; harmless when repeated."""
        if self._file is not None:
            with contextlib.suppress(Unusable):
                self.commit([Stop(**self._describer.header(), pid=os.getpid())] if stop else [], durable=True)
        self._let_go()

    def _recover(self) -> None:
        directory = self._directory = Directory(self._path)
        head = self._head = HeadFile(directory)
        was = head.read()
        names = directory.names()
        tail, torn = Tail(), 0
        file: LogFile | None = None
        for name in names[:-3:-1]:  # one that was made and never written, and the one before
            try:
                file = LogFile(directory, name, self._sync, create=False)
                tail = read_tail(file.fd, name, was)
            except OSError as error:
                raise unusable(error, f"{name} cannot be read") from None
            torn += tail.torn
            if tail.seq or tail.problem or name != names[-1]:
                break
            file.close()
            file = None
            os.unlink(name, dir_fd=directory.fd)
        self._seq, self._hash, self._open, self._refusals = tail.seq, tail.hash, tail.open, tail.refusals
        problem = tail.problem
        if was is not None and was.seq > tail.seq:
            problem = problem or f"records {tail.seq + 1} to {was.seq} are missing"
            self._seq, self._hash = was.seq, was.hash
        self._file = file
        if file is not None:
            file.sync()  # who was killed may have left what no disk has yet, and what follows is to stand on it
        if file is not None and tail.torn and not problem:
            file.cut_torn(tail.size)
        if file is None or problem:
            if problem:
                self._warn(f"{problem}; a new file is begun, and `mrelease audit verify` will say so for as long as the old one is there")
            self._durable = (self._seq, self._hash, 0)
            self._begin(problem or "first")
        else:
            self._durable = (self._seq, self._hash, file.size)
        if torn and not problem:
            self._warn(f"removed {torn} bytes of a last line that was not whole")
        left = sorted(self._open)
        start = Start(**self._describer.header(), agent=VERSION, pid=os.getpid(), torn=0 if problem else torn)
        self._write([start, *(Interrupted(**self._describer.header(), intent=seq) for seq in left)])
        self._sync_file()
        self._known = True
        self._remove_old()

    def _reopen(self, since: str, why: Unusable) -> None:
        self._seq, self._hash = self._durable[:2]
        if self._file is not None:  # it was kept because it is as good as before
            self._file.check()
        else:
            if self._directory is None:
                self._directory = Directory(self._path)
                self._head = HeadFile(self._directory)
                head = self._head.read()
                if head is not None and head.seq > self._seq:  # another agent wrote meanwhile
                    self._let_go()
                    self._recover()
                    return
            self._begin(why.why, unconfirmed=True)
        self._write([Resumed(**self._describer.header(), since=since, cause=why.why)])
        self._sync_file()

    def _write(self, records: Sequence[Record]) -> None:
        """Raises OSError, Unusable."""
        assert self._file is not None
        pending: list[bytes] = []
        size = 0
        for record in records:
            line = self._seal(record)
            if self._file.size + size + len(line) > self._max_file and self._file.size + size > self._first:
                self._seq, self._hash = record.seq - 1, record.prev
                self._file.append(b"".join(pending))
                pending, size = [], 0
                self._rotate()
                line = self._seal(record)
            self._account(record, len(line))
            pending.append(line)
            size += len(line)
        if pending:
            self._file.append(b"".join(pending))

    def _seal(self, record: Record) -> bytes:
        if isinstance(record, More) and not record.intent:
            record.intent = self._last_intent
        record.seq, record.prev = self._seq + 1, self._hash
        line, self._hash = seal(record)
        self._seq = record.seq
        return line

    def _account(self, record: Record, size: int) -> None:
        if isinstance(record, Intent):
            self._open.add(record.seq)
            self._last_intent = record.seq
        elif isinstance(record, Result | Interrupted):
            self._open.discard(record.intent)
        elif record.__struct_config__.tag in REFUSALS:
            self._refusals += size

    def _rotate(self) -> None:
        self._sync_file()
        assert self._file is not None
        self._file.close()
        self._file = None
        self._begin("rotation")
        self._remove_old()

    def _begin(self, cause: str, *, unconfirmed: bool = False) -> None:
        """Begin a new file. Raises OSError, Unusable."""
        assert self._directory is not None
        if self._file is not None:
            self._file.close()
            self._file = None
        taken = set(self._directory.names())
        name = next((name for spare in range(10) if (name := _audit_chain.file_name(self._seq + 1, spare)) not in taken), "")
        if not name:
            raise Unusable("too many files", f"{self._path} has ten files that begin with record {self._seq + 1}: move them away")
        before = self._seq, self._hash
        file = LogFile(self._directory, name, self._sync, create=True)
        try:
            begin = Begin(**self._describer.header(), cause=cause, agent=VERSION, open=sorted(self._open), unconfirmed=unconfirmed)
            file.append(self._seal(begin))
            file.sync()
            self._directory.sync()
        except (OSError, Unusable):
            self._seq, self._hash = before
            file.close()
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._directory.fd)
            raise
        self._file, self._first, self._refusals = file, file.size, 0
        self._set_durable()

    def _sync_file(self) -> None:
        """Raises Unusable."""
        assert self._file is not None
        if self._durable[0] != self._seq:
            self._file.sync()
            self._unsynced = [record for record in self._unsynced if not 0 < record.seq <= self._seq]
            self._set_durable()

    def _set_durable(self) -> None:
        assert self._file is not None
        self._durable = (self._seq, self._hash, self._file.size)
        if self._head is not None:
            self._head.write(self.head)

    def _remove_old(self) -> None:
        """Keep within ``max_files``. What is removed is durably said before. Raises OSError, Unusable."""
        assert self._directory is not None
        names = self._directory.names()
        old, kept = names[: -self._max_files], names[-self._max_files :]
        if not old:
            return
        try:
            fd = os.open(kept[0], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self._directory.fd)
            with open(fd, "rb") as file:
                first = _audit_chain.link(file.readline(LONGEST)[:-1])
        except (OSError, BadRecordError):
            self._warn(f"{kept[0]} is damaged: nothing older is removed")
            return
        self._write([Removed(**self._describer.header(), files=old, through=first.seq - 1, last=first.prev)])
        self._sync_file()
        for name in old:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._directory.fd)

    def _fail(self, why: Unusable) -> Unusable:
        """Give up for now; what is not durable is cut off as far as that goes."""
        for record in self._unsynced:
            if isinstance(record, Intent):
                self._open.discard(record.seq)
            elif isinstance(record, Result | Interrupted):
                self._open.add(record.intent)
        if self._failed is None:
            self._failed = (now(), why)
        if not self._known:
            self._let_go()
            return why
        self._seq, self._hash = self._durable[:2]
        if self._file is not None and not (self._file.cut(self._durable[2]) and why.resumable):
            self._file.close()
            self._file = None
        if self._directory is not None:
            try:
                self._directory.check()
            except Unusable:
                self._let_go()
        return why

    def _let_go(self) -> None:
        for part in (self._file, self._head, self._directory):
            if part is not None:
                part.close()
        self._file = self._head = self._directory = None
