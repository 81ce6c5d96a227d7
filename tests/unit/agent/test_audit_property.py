"""In whatever order requests, results, failures, crashes, power cuts, restarts and rotations come: one chain, nothing durable is lost."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mrelease_agent.guard.audit.chain import Chain
from mrelease_agent.guard.audit.files import Unusable
from mrelease_agent.guard.audit.records import Record
from support.audit_log import chain, die, events, files, intent, opened, records, refused, result, sound

MAX_FILE = 8192


class Log(RuleBasedStateMachine):
    """``durable``: numbers of intents that callers were told of; they must be there, each with exactly one end."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="mrelease-audit-"))
        self.path = self.folder / "audit"
        self.durable: set[int] = set()
        self.running: list[int] = []
        self.synced: dict[Path, int] = {}
        self.broken = False
        self.available = True
        self.backlog: list[Record] = []
        self.log: Chain

    @initialize()
    def start(self) -> None:
        self.log = opened(self.path, MAX_FILE, 1000, sync=self.sync)

    def sync(self, fd: int) -> None:
        if self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        name = Path(os.readlink(f"/proc/self/fd/{fd}"))  # noqa: PTH115
        self.synced[name] = os.fstat(fd).st_size

    def commit(self, made: list[Record], *, durable: bool) -> bool:
        if not self.available:
            return False
        try:
            self.log.commit(made, durable=durable)
        except Unusable:
            self.backlog += self.log.take_lost()
            self.available = False
            return False
        return True

    @rule(count=st.integers(1, 8), long=st.booleans())
    def ask(self, count: int, long: bool) -> None:
        asked = [intent(reason="x" * 900 if long else "") for _ in range(count)]
        if self.commit([*asked], durable=True):
            self.running += [each.seq for each in asked]
            self.durable |= {each.seq for each in asked}
        else:
            # Told to nobody; those in a file that was full before are closed by who reports them.
            self.backlog += [result(each.seq) for each in asked if 0 < each.seq <= self.log.head.seq]

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        seq = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if self.available:
            self.commit([result(seq)], durable=False)
        else:
            self.backlog.append(result(seq))

    @rule()
    def refuse(self) -> None:
        self.commit([refused()], durable=False)

    @rule()
    def flush(self) -> None:
        if self.available:
            try:
                self.log.sync()
            except Unusable:
                self.backlog += self.log.take_lost()
                self.available = False

    @rule(broken=st.booleans())
    def disk(self, broken: bool) -> None:
        self.broken = broken

    @precondition(lambda self: not self.available)
    @rule()
    def try_again(self) -> None:
        try:
            self.log.open()
        except Unusable:
            return
        self.available = True

    @precondition(lambda self: self.available and self.backlog)
    @rule()
    def write_what_waited(self) -> None:
        lost, self.backlog = self.backlog, []
        self.commit(lost, durable=True)

    @rule(cut=st.integers(0, 1 << 16), power=st.booleans())
    def crash(self, cut: int, power: bool) -> None:
        """The agent is killed; with ``power`` the node loses what was not durable, from any byte on."""
        die(self.log)
        if power:
            for file in files(self.path):
                size, kept = file.stat().st_size, self.synced.get(file, 0)
                os.truncate(file, min(size, kept + cut % (size - kept + 1)) if size > kept else size)
        self.broken, self.available = False, True
        self.backlog.clear()
        self.running.clear()
        self.log = chain(self.path, MAX_FILE, 1000, sync=self.sync)
        self.log.open()

    @rule()
    def restart(self) -> None:
        if self.available and not self.broken and not self.backlog:
            self.log.close()
            self.running.clear()
            self.log = opened(self.path, MAX_FILE, 1000, sync=self.sync)

    @invariant()
    def one_chain(self) -> None:
        if not hasattr(self, "log"):
            return
        sound(self.path)
        confirmed = {record["seq"] for record in events(self.path, "intent")}
        assert self.durable <= confirmed

    def teardown(self) -> None:
        try:
            if hasattr(self, "log"):
                die(self.log)
                opened(self.path, MAX_FILE, 1000).close()
                sound(self.path)
                ends = [record["intent"] for record in records(self.path) if record["event"] in ("result", "interrupted")]
                assert self.durable <= set(ends)
                assert len(ends) == len(set(ends))
                assert set(ends) <= {record["seq"] for record in events(self.path, "intent")}
        finally:
            shutil.rmtree(self.folder)


TestLog = Log.TestCase
TestLog.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
