"""Files that are read again when they change, without a restart: certificates, the access policy. What is broken is never taken."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Generic, Optional, TypeVar

from mrelease_agent.config.values import ConfigError

T = TypeVar("T")

#: Of one file. A CA bundle of a whole distribution has some 250 KiB.
MAX_FILE_BYTES: Final = 4 * 1024 * 1024

#: Seconds between two looks at the files. A change is taken by the second look that finds it.
_INTERVAL: Final = 0.5
#: Device, inode, size and times; None where there is no file, or none that may be looked at.
_Stamp = Optional[tuple[int, int, int, int, int]]  # noqa: UP045 -- evaluated


class Watched(Generic[T]):
    """What ``make`` makes of some files: made again when one of them changes, with the last good one kept while that fails.

    ``what`` is a word for messages and metrics, for example ``tls``. ``make`` is given the contents of ``files`` in their order and
    raises ConfigError for what cannot be used. ``tell`` is called once for each change: with ``what``, whether ``value`` is stale (the
    files cannot be used), and why.

    A changed file is read when it has been still from one ``poll`` to the next: one that is being written, or a certificate whose key
    follows it, is not taken for broken, and what is written in the clock tick of the reading is not missed. Symbolic links are
    followed, so the exchange of ``..data`` in a mounted Secret or ConfigMap is a change of all its files at once.

    Raises ConfigError where the first load fails.
    """

    def __init__(
        self,
        what: str,
        files: Sequence[Path],
        make: Callable[[Sequence[bytes]], T],
        tell: Callable[[str, bool, str], None],
    ) -> None:
        self.what = what
        self._files = tuple(files)
        self._make = make
        self._tell = tell
        self._seen = self._read = self._stamps()
        self._value = self._load()

    @property
    def value(self) -> T:
        """The last good one. Any thread may ask."""
        return self._value

    def poll(self) -> None:
        """Look whether something changed, and take it where it is good: to be called from time to time. Raises nothing."""
        now = self._stamps()
        still, self._seen = now == self._seen, now
        if not still or now == self._read:
            return
        self._read = now
        try:
            self._value = self._load()
        except ConfigError as error:
            self._tell(self.what, True, str(error))
        except Exception as error:  # noqa: BLE001, RUF100 -- whatever is in the file, the last good value stays
            self._tell(self.what, True, f"cannot be used ({type(error).__name__})")
        else:
            self._tell(self.what, False, "")

    def _load(self) -> T:
        return self._make([read(file) for file in self._files])

    def _stamps(self) -> list[_Stamp]:
        return [_stamp(file) for file in self._files]


@asynccontextmanager
async def polling(watched: Sequence[Watched[Any]]) -> AsyncGenerator[None, None]:
    """Poll all of them twice a second for as long as the context lasts."""

    async def poll() -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            for each in watched:
                await asyncio.to_thread(each.poll)  # a long policy takes a quarter of a second to read

    task = asyncio.create_task(poll()) if watched else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


def read(file: Path) -> bytes:
    """Read a whole file. Raises ConfigError where that fails, and for what is no regular file or longer than ``MAX_FILE_BYTES``."""
    try:
        # O_NONBLOCK: a FIFO must not hold the agent up; it has no effect on a file.
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise ConfigError(f"{file} is not a regular file: name a file")
            raw = opened.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"cannot read {file}: {reason}; name a file that the agent's user may read") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{file} is larger than {MAX_FILE_BYTES} bytes: it is not what is needed here")
    return raw


def _stamp(file: Path) -> _Stamp:
    try:
        found = os.stat(file)  # noqa: PTH116 -- twice a second for each file: pathlib adds nothing but time
    except (OSError, ValueError):
        return None
    # The time of the change of the inode sees a chmod, and a write that put the old modification time back.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
