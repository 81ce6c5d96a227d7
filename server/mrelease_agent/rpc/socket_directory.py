"""The directory that says who may connect to the agent's Unix socket: its owner, or a group too."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path


class ListenError(Exception):
    """The agent cannot listen there; the message says why and what to do."""


def make_private_directory(directory: Path) -> None:
    """Make a directory of mode 0700, or check that it is one of the agent's own. Raises ListenError, which says what to do."""
    mode = stat.S_IMODE(_made(directory).st_mode)
    if mode & 0o077:
        raise ListenError(
            f"the directory {directory} is open to other users (mode {mode:04o}), who could then have processes killed: if it is the "
            f"agent's own, run `chmod 700 {directory}` (systemd: RuntimeDirectoryMode=0700) or set `socket_group`, else choose another one "
            "for `listen`"
        )


def make_group_directory(directory: Path, group: int) -> None:
    """Make a directory of mode 0750 that belongs to a group, or check that it is that and the agent's own.

    Raises ListenError, which says what to do.
    """
    made = not directory.exists()
    found = _made(directory)
    remedy = f"run `chgrp {group} {directory} && chmod 750 {directory}` (systemd: Group= and RuntimeDirectoryMode=0750)"
    if made:
        try:
            os.chown(directory, -1, group)
            directory.chmod(0o750)
        except OSError as error:
            raise ListenError(
                f"cannot give the directory {directory} to `socket_group` ({error.strerror}): make the agent's user a member of the group, "
                f"or have its owner {remedy}"
            ) from error
        found = directory.lstat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & ~stat.S_ISGID != 0o750 or found.st_gid != group:
        raise ListenError(
            f"the directory {directory} has mode {mode:04o} and group {found.st_gid}, with `socket_group` it has to be 0750 and group "
            f"{group}, so that nobody else can have processes killed: if it is the agent's own, {remedy}, else choose another for `listen`"
        )
    if _has_access_list(directory):
        raise ListenError(f"the directory {directory} has an access control list, which may let others in: run `setfacl -b {directory}`")


def group_id(group: str) -> int:
    """The number of a group by its name or number. Raises ListenError."""
    if group.isascii() and group.isdigit() and len(group) <= 10 and int(group) < 2**32 - 1:
        return int(group)
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise ListenError(
            f"there is no group {group!r} here: make it (`groupadd --system {group}`), or give the number of one in `socket_group`"
        ) from None


def _made(directory: Path) -> os.stat_result:
    """Make a directory of mode 0700, or check that one is there, which may have another mode, and belongs to the agent's user."""
    try:
        directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        found = directory.lstat()
    except OSError as error:
        raise ListenError(f"cannot make the directory {directory} for the agent's socket: {error.strerror}") from error
    if stat.S_ISLNK(found.st_mode):
        raise ListenError(f"{directory} is a symbolic link: name the directory itself in `listen`")
    if not stat.S_ISDIR(found.st_mode):
        raise ListenError(f"{directory} is not a directory: choose another path for `listen`")
    if found.st_uid != os.geteuid():
        raise ListenError(
            f"the directory {directory} belongs to user {found.st_uid}, the agent runs as user {os.geteuid()}: "
            "choose a directory of the agent's own for `listen`"
        )
    return found


def _has_access_list(directory: Path) -> bool:
    """Whether acl(5) says more than the mode does. A directory that others cannot enter by its mode is closed to them by an ACL too."""
    try:
        os.getxattr(directory, "system.posix_acl_access")
    except OSError as error:
        return error.errno not in (errno.ENODATA, errno.EOPNOTSUPP)
    return True
