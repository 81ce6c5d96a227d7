"""A PostgreSQL cluster of the test's own, on a Unix socket in its folder, run by an ordinary user: it refuses to be root."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from support import lab
from support.lab import MIB
from support.programs import need_memory, running, tool, work_folder

PACKAGE = "postgresql"
SHARED_BUFFERS = 512 * MIB
#: A table of less than a quarter of the shared buffers stays in them when it is read, storage/buffer/README.
ROWS = 100_000
TABLE = 100 * MIB


@dataclass(frozen=True, slots=True)
class Cluster:
    """A database cluster with a table of TABLE bytes and more."""

    folder: Path
    bin: Path
    user: int | None

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def ready(self) -> int:
        """How often a server of the cluster has said that it is ready: after its start and after each crash recovery."""
        return self.log.read_text().count("ready to accept connections")

    @contextlib.contextmanager
    def server(self, within: lab.Cgroup | None = None) -> Generator[subprocess.Popen[bytes]]:
        """The postmaster; at the start the cluster recovers from whatever happened to the one before."""
        before = self.ready() if self.log.exists() else 0
        settings = {
            "shared_buffers": f"{SHARED_BUFFERS // MIB}MB",
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",  # no power is cut here: what was written outlives every process
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        command = (str(self.bin / "postgres"), "-D", str(self.folder / "data"), *options)
        drop = ("setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups") if self.user is not None else ()
        try:
            with running(*drop, *command, log=self.log, within=within) as postmaster:
                self.await_ready(before + 1, postmaster)
                yield postmaster
        finally:
            lab.until(lambda: not self._at_work(), "all that the postmaster started have noticed its death")

    def _at_work(self) -> list[str]:
        """Processes of the cluster: each works in its directory."""
        found: list[str] = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "cwd").readlink() == self.folder / "data":
                    found.append(entry.name)
        return found

    def await_ready(self, times: int, postmaster: subprocess.Popen[bytes]) -> None:
        """Wait until a server is ready for the ``times``-th time. Raises AssertionError with the log where it ends instead."""

        def there() -> bool:
            assert postmaster.poll() is None, self.log.read_text()
            return self.ready() >= times

        lab.until(there, f"PostgreSQL is ready for the {times}. time")

    def sql(self, *statements: str) -> str:
        """What psql prints of the statements, each in a transaction of its own."""
        commands = [word for statement in statements for word in ("-c", statement)]
        return subprocess.run([*self._psql(), *commands], check=True, capture_output=True, text=True).stdout.strip()

    @contextlib.contextmanager
    def session(self) -> Generator[Session]:
        """A connection that stays open."""
        with subprocess.Popen(self._psql(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as psql:
            try:
                yield Session(psql)
            finally:
                psql.kill()

    def contents(self) -> str:
        """What the table holds, in one line."""
        return self.sql("SELECT count(*), sum(n), sum(hashtext(filler)::bigint) FROM ledger")

    def _psql(self) -> list[str]:
        return [str(self.bin / "psql"), "-qtAX", "-v", "ON_ERROR_STOP=1", "-h", str(self.folder), "-U", "tester", "postgres"]


@dataclass(frozen=True, slots=True)
class Session:
    """One connection with a backend of its own."""

    _psql: subprocess.Popen[str]

    def ask(self, statement: str) -> str:
        """The one line that a statement prints."""
        assert self._psql.stdin
        assert self._psql.stdout
        self._psql.stdin.write(statement + ";\n")
        self._psql.stdin.flush()
        return self._psql.stdout.readline().strip()


@contextlib.contextmanager
def cluster() -> Generator[Cluster]:
    """A cluster with a table called ledger. Raises lab.Unavailable where PostgreSQL is missing."""
    # Debian keeps the server's programs apart for each version.
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    programs = Path(os.path.realpath(tool("initdb", PACKAGE, folders))).parent
    need_memory(SHARED_BUFFERS)
    user = lab.NOBODY if os.geteuid() == 0 else None
    with work_folder(user) as folder:
        made = Cluster(folder, programs, user)
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-U", "tester", "-A", "trust", "--no-locale", "--encoding=UTF8", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        with made.server():
            made.sql(
                "CREATE TABLE ledger (n int, filler char(1000))",
                f"INSERT INTO ledger SELECT n, md5(n::text) FROM generate_series(1, {ROWS}) n",
                "CHECKPOINT",
            )
            assert int(made.sql("SELECT pg_relation_size('ledger')")) >= TABLE
        yield made
