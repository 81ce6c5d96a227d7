"""Directory and files of the audit log: opened so that nothing else can be meant, and looked at again before each record."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mrelease import _audit_chain
from mrelease._audit_chain import Head

Sync = Callable[[int], None]
_APPEND: Final = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Unusable(Exception):  # noqa: N818 -- a state of the log
    """The log cannot be written. ``brief`` says why without naming paths, for callers; ``why`` is for who keeps the agent.

    ``resumable``: the file is as good as before, and may be gone on with.
    """

    def __init__(self, brief: str, why: str = "", *, resumable: bool = False) -> None:
        super().__init__(why or brief)
        self.brief = brief
        self.why = why or brief
        self.resumable = resumable


def unusable(error: OSError, what: str, *, resumable: bool = False) -> Unusable:
    """What a failed system call means."""
    brief = (error.strerror or "unknown error").lower()
    return Unusable(brief, f"{what}: {brief}", resumable=resumable)


class Directory:
    """The directory of one agent's audit log: its own, private, and locked. Raises Unusable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
                _sync_directory(path.parent)
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise unusable(error, f"{path} cannot be opened") from None
        try:
            _private(os.fstat(self.fd), str(path))
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self.fd)
            if error.errno == errno.EWOULDBLOCK:
                raise Unusable("another agent writes it", f"{path} is locked: another agent writes there") from None
            raise unusable(error, f"{path} cannot be locked") from None
        except BaseException:
            os.close(self.fd)
            raise

    def check(self) -> None:
        """Raise Unusable where the path does not lead here any more, or others may write here."""
        try:
            now = self.path.lstat()
        except OSError as error:
            raise unusable(error, f"{self.path} cannot be reached") from None
        if not os.path.samestat(now, os.fstat(self.fd)):
            raise Unusable("its directory was replaced", f"{self.path} was replaced")
        _private(now, str(self.path))

    def names(self) -> list[str]:
        """The log files, the oldest first. Raises OSError."""
        named = ((_audit_chain.file_order(name), name) for name in os.listdir(self.fd))
        return [name for _, name in sorted((order, name) for order, name in named if order is not None)]

    def sync(self) -> None:
        """Make names durable. Raises OSError."""
        os.fsync(self.fd)

    def close(self) -> None:
        """Close and unlock it."""
        os.close(self.fd)


class LogFile:
    """The file that is written. ``size`` is how long it is as far as we know. Raises OSError; Unusable where it is not ours alone."""

    def __init__(self, directory: Directory, name: str, sync: Sync, *, create: bool) -> None:
        self._directory = directory
        self._sync = sync
        self.name = name
        self.fd = os.open(name, _APPEND | (os.O_CREAT | os.O_EXCL if create else 0), 0o600, dir_fd=directory.fd)
        try:
            found = os.fstat(self.fd)
            if not stat.S_ISREG(found.st_mode):
                raise Unusable("its file is none", f"{name} is no regular file")
            if create:
                os.fchmod(self.fd, 0o600)  # whatever the umask
            else:
                _private(found, name)
        except BaseException:
            os.close(self.fd)
            raise
        self.size = found.st_size
        self._failed = False

    def check(self) -> None:
        """Raise Unusable where the file is not the one that was opened, or not as long as what was written."""
        self._directory.check()
        here = os.fstat(self.fd)
        try:
            there = os.stat(self.name, dir_fd=self._directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            raise Unusable("its file was deleted", f"{self.name} was deleted") from None
        except OSError as error:
            raise unusable(error, f"{self.name} cannot be reached") from None
        if not os.path.samestat(here, there):
            raise Unusable("its file was replaced", f"{self.name} was replaced")
        if here.st_size != self.size:
            what = "truncated" if here.st_size < self.size else "written by somebody else"
            raise Unusable(f"its file was {what}", f"{self.name} was {what}: it has {here.st_size} bytes, not {self.size}")
        if here.st_nlink != 1:
            raise Unusable("its file has a second name", f"{self.name} has a second name")
        _private(here, self.name)

    def append(self, text: bytes) -> None:
        """Write at the end. Raises Unusable: then some of it may be there."""
        try:
            written = os.write(self.fd, text)
            if written != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._failed = True
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise unusable(error, f"{self.name} cannot be written", resumable=full) from None
        self.size += written

    def sync(self) -> None:
        """Make what was written durable, fdatasync(2).

        Raises Unusable: what the kernel could not write it may have marked clean, so nothing in this file can be relied on any more.
        """
        try:
            self._sync(self.fd)
        except OSError as error:
            self._failed = True
            raise unusable(error, f"{self.name} cannot be made durable") from None

    def cut(self, size: int) -> bool:
        """Remove what is beyond ``size`` where a write of ours has failed; what others did to the file is left. False where not."""
        try:
            if not self._failed or os.fstat(self.fd).st_size < size:
                return False
            os.ftruncate(self.fd, size)
        except OSError:
            return False
        self.size = size
        return True

    def cut_torn(self, size: int) -> None:
        """Remove the line without an end that an earlier agent left. Raises Unusable."""
        try:
            os.ftruncate(self.fd, size)
        except OSError as error:
            raise unusable(error, f"{self.name} cannot be written") from None
        self.size = size

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)


class HeadFile:
    """How far the log is durable, beside it. It is written after each record that is, and never waited for."""

    def __init__(self, directory: Directory) -> None:
        """Raises OSError."""
        self._fd = os.open(
            _audit_chain.HEAD, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600, dir_fd=directory.fd
        )

    def read(self) -> Head | None:
        """What is there; None where nothing can be read."""
        return _audit_chain.read_head(os.pread(self._fd, 256, 0))

    def write(self, head: Head) -> None:
        """Replace it. A head that stays behind says less, and nothing wrong."""
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, _audit_chain.write_head(head), 0)

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _private(found: os.stat_result, name: str) -> None:
    if found.st_uid != os.geteuid():
        raise Unusable("it belongs to another user", f"{name} belongs to user {found.st_uid}: give it to user {os.geteuid()}")
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise Unusable("others may reach it", f"{name} has mode {mode:04o}: take it from group and others (chmod go= {name})")
