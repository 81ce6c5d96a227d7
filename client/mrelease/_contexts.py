"""Contexts: agents by short names, with what a caller shows them, in one file of the user's own.

``$MRELEASE_CONTEXTS``, else ``mrelease/contexts.json`` in ``$XDG_CONFIG_HOME``, else in ``~/.config``. It names certificates and keys by
their paths and holds none.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, cast

from mrelease._address import parse
from mrelease._tls import TLS
from mrelease.errors import MreleaseError

#: The environment variables that name the file, and the context where the caller does not.
FILE_VARIABLE: Final = "MRELEASE_CONTEXTS"
VARIABLE: Final = "MRELEASE_CONTEXT"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}", re.ASCII)
#: Of a file of the user's own.
MAX_BYTES: Final = 1 << 20


class ContextError(MreleaseError):
    """There is no such context, or the file of the contexts cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Context:
    """An agent, and the paths of what a caller shows it: all of ``ca``, ``cert`` and ``key``, or for an agent of this machine none."""

    agent: str
    ca: str = ""
    cert: str = ""
    key: str = ""
    server_name: str = ""

    @property
    def tls(self) -> TLS | None:
        """The certificates; None where there are none."""
        return TLS(self.ca, self.cert, self.key, self.server_name) if self.ca else None

    def check(self) -> None:
        """Raises ContextError, InvalidAddress."""
        given = [bool(path) for path in (self.ca, self.cert, self.key)]
        if any(given) != all(given):
            raise ContextError("a context has all of --ca, --cert and --key, or none")
        if self.server_name and not any(given):
            raise ContextError("--server-name is for TLS: give --ca, --cert and --key too")
        parse(self.agent, tls=self.tls)


@dataclass(slots=True)
class Contexts:
    """What the file says: the contexts by their names, and the one in use ("": none)."""

    current: str = ""
    contexts: dict[str, Context] = field(default_factory=dict[str, Context])

    def find(self, name: str) -> Context:
        """Raises ContextError for a name that is not there."""
        if name not in self.contexts:
            known = ", ".join(sorted(self.contexts)) or "none"
            raise ContextError(f"there is no context {name!r} (there are: {known}): make it by `mrelease context add`")
        return self.contexts[name]

    def add(self, name: str, context: Context) -> None:
        """Add or replace one. Raises ContextError, InvalidAddress."""
        if not _NAME.fullmatch(name):
            raise ContextError(f"{name!r} cannot be the name of a context: use letters, digits and . _ @ -")
        context.check()
        self.contexts[name] = context


def path(environment: Mapping[str, str] = os.environ) -> Path:
    """The file of the contexts, whether or not it is there."""
    if named := environment.get(FILE_VARIABLE):
        return Path(named)
    home = environment.get("XDG_CONFIG_HOME", "")
    # A relative one is invalid, XDG Base Directory Specification.
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".config") / "mrelease" / "contexts.json"


def load(file: Path) -> Contexts:
    """Read the file; none is one without contexts. Raises ContextError."""
    raw = read_own(file)
    return Contexts() if raw is None else decode(raw, file)


def read_own(file: Path, variable: str = FILE_VARIABLE) -> bytes | None:
    """The beginning of a file of the user's own, up to one byte more than it may have; None: there is none.

    Raises ContextError for what others may have written: who can do that chooses which node is asked, and whom it believes. ``variable``:
    the one that names another file.
    """
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ContextError(f"{file} cannot be read: {error.strerror}") from None
    with open(fd, "rb") as opened:
        found, directory = os.fstat(fd), file.parent.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ContextError(f"{file} is not a regular file: remove it, or name another one ({variable})")
        if found.st_mode & 0o022 or found.st_uid not in (os.geteuid(), 0):
            raise ContextError(f"{file} can be written by others: look at what is in it, then run `chmod 600 {file}` as its owner")
        if directory.st_mode & 0o022 and not directory.st_mode & stat.S_ISVTX:
            raise ContextError(f"{file.parent} can be written by others: look at what is in it, then run `chmod 700 {file.parent}`")
        return opened.read(MAX_BYTES + 1)


def save(contexts: Contexts, file: Path) -> None:
    """Write the file whole or not at all: 0600, in a directory that is made 0700. Raises ContextError."""
    import json
    import tempfile

    data = {"current": contexts.current, "contexts": {name: asdict(context) for name, context in sorted(contexts.contexts.items())}}
    try:
        file.parent.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            file.parent.mkdir(mode=0o700)
        # A link to a file elsewhere stays one.
        file = file.resolve()
        fd, name = tempfile.mkstemp(prefix=".contexts.", dir=file.parent)  # 0600
        temporary = Path(name)
        try:
            with open(fd, "w", encoding="utf-8") as opened:
                json.dump(data, opened, indent=2)
                opened.write("\n")
                opened.flush()
                os.fsync(opened.fileno())
            temporary.replace(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ContextError(f"{file} cannot be written: {error.strerror}") from None


def decode(raw: bytes, file: Path) -> Contexts:
    """What ``file`` has, once it was found to be the user's own. Raises ContextError."""
    import json

    broken = f"{file} is not a file of contexts: mend or remove it"
    if len(raw) > MAX_BYTES:
        raise ContextError(broken)
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        raise ContextError(broken) from None
    if not isinstance(data, dict):
        raise ContextError(broken)
    found = cast("dict[str, Any]", data)
    entries, current = found.get("contexts", {}), found.get("current", "")
    if not isinstance(entries, dict) or not isinstance(current, str) or found.keys() - {"contexts", "current"}:
        raise ContextError(broken)
    names = {each.name for each in fields(Context)}
    contexts = Contexts(current)
    named = cast("dict[str, Any]", entries)
    if (current and not _NAME.fullmatch(current)) or not all(map(_NAME.fullmatch, named)):
        raise ContextError(broken)
    for name, entry in named.items():
        if not isinstance(entry, dict) or "agent" not in entry:
            raise ContextError(f"{broken} (context {name!r})")
        texts = cast("dict[str, Any]", entry)
        if texts.keys() - names or not all(isinstance(text, str) for text in texts.values()):
            raise ContextError(f"{broken} (context {name!r})")
        contexts.contexts[name] = Context(**texts)
    return contexts
