"""``mrelease ps``."""

from __future__ import annotations

from functools import cache

import click

from mrelease import Client, ProcessInfo, _text
from mrelease.cli import formats, output
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.settings import Settings, common_options, pass_settings
from mrelease.cli.targets import group, group_options

_HEADER = ("PID:INODE", "USER", "STATE", "THREADS", "RECLAIMABLE", "FILE", "SHMEM", "CONTAINER", "COMMAND", "PROTECTED")
_CONTAINER = _HEADER.index("CONTAINER")


@click.command()
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many processes at most.")
@click.option("--all", "everything", is_flag=True, help="All processes.")
@click.option("-u", "--user", metavar="NAME|UID", help="Only processes of this user.")
@group_options
@common_options
@pass_settings
def ps(settings: Settings, /, limit: int, everything: bool, user: str | None, **within: str | None) -> ExitCode:
    """List the processes whose death gives most memory back.

    The first column is what to kill exactly this process by: `mrelease kill PID:INODE`.
    """
    uid = None if user is None else _uid(user)
    with settings.address() as address, Client(address) as client:
        processes = client.list_processes(limit=None if everything else limit, uid=uid, within=group(within))
    if settings.output == "table":
        rows = [_HEADER, *map(_row, processes)]
        if not any(info.container_id for info in processes):
            rows = [row[:_CONTAINER] + row[_CONTAINER + 1 :] for row in rows]
        output.out(*output.columns(rows, right=(3, 4, 5, 6)))
    else:
        output.out(formats.dump(formats.to_data(processes), settings.output))
    return ExitCode.OK


def _row(info: ProcessInfo) -> tuple[str, ...]:
    return (
        str(info.process),
        _user(info.uid),
        _text.printable(info.state),
        str(info.threads),
        _text.size(info.reclaimable_bytes),
        _text.size(info.memory.file_bytes),
        _text.size(info.memory.shmem_bytes),
        _text.printable(info.container_id[:12]) or "-",
        _text.printable(info.command),
        _text.printable(info.protection),
    )


@cache
def _user(uid: int) -> str:
    """Name of a user here. The agent may see other names, so numbers stay right where names do not."""
    import pwd

    try:
        return _text.printable(pwd.getpwuid(uid).pw_name)
    except (KeyError, OverflowError):
        return str(uid)


def _uid(user: str) -> int:
    import pwd

    if user.isascii() and user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise click.BadParameter(f"there is no user {user!r}", param_hint="--user") from None
