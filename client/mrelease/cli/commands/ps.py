"""``mrelease ps``."""

from __future__ import annotations

from collections.abc import Iterator

import click

from mrelease import ProcessInfo, UnreleasedCause, _text
from mrelease.cli import formats, output, users
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.settings import Settings, common_options, pass_settings
from mrelease.cli.targets import group, group_options

_HEADER = ("PID:INODE", "USER", "STATE", "THREADS", "RECLAIMABLE", "FILE", "SHMEM", "CONTAINER", "COMMAND", "PROTECTED", "NOTES")
# Columns that are left out where no process has anything there.
_SPARSE = (_HEADER.index("CONTAINER"), _HEADER.index("NOTES"))
# Of processes with the same memory so many are named.
_NAMED = 3


@click.command()
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many processes at most.")
@click.option("--all", "everything", is_flag=True, help="All processes.")
@click.option("-u", "--user", metavar="NAME|UID", help="Only processes of this user.")
@group_options
@common_options
@pass_settings
def ps(settings: Settings, /, limit: int, everything: bool, user: str | None, **within: str | None) -> ExitCode:
    """List the processes whose death gives most memory back.

    The first column is what to kill exactly this process by: `mrelease kill PID:INODE`. RECLAIMABLE is what its death gives back; SHMEM
    stays, and NOTES say what else does, and with whom it shares its memory: only the death of all of them gives that back.
    """
    uid = None if user is None else _uid(user)
    with settings.where() as where, where.client() as client:
        processes = client.list_processes(limit=None if everything else limit, uid=uid, within=group(within))
    if settings.output == "table":
        rows = [_HEADER, *map(_row, processes)]
        empty = {column for column in _SPARSE if all(row[column] in ("", "-") for row in rows[1:])}
        rows = [tuple(cell for column, cell in enumerate(row) if column not in empty) for row in rows]
        output.out(*output.columns(rows, right=(3, 4, 5, 6)))
    else:
        output.out(formats.dump(formats.to_data(processes), settings.output))
    return ExitCode.OK


def _row(info: ProcessInfo) -> tuple[str, ...]:
    return (
        str(info.process),
        users.name(info.uid),
        _text.printable(info.state),
        str(info.threads),
        _text.size(info.reclaimable_bytes),
        _text.size(info.memory.file_bytes),
        _text.size(info.memory.shmem_bytes),
        _text.printable(info.container_id[:12]) or "-",
        _text.printable(info.command),
        _text.printable(info.protection),
        "; ".join(_notes(info)),
    )


def _notes(info: ProcessInfo) -> Iterator[str]:
    """What its death does not give back, but for what a column has, and who holds on to the rest."""
    for unreleased in info.unreleased:
        if unreleased.cause not in (UnreleasedCause.SHMEM, UnreleasedCause.SHARED_MM):
            yield f"keeps {unreleased}"
    if info.sharing_pids:
        named = ", ".join(map(str, info.sharing_pids[:_NAMED]))
        more = len(info.sharing_pids) - _NAMED
        yield f"shares memory with {named}" + (f" and {more} more" if more > 0 else "")


def _uid(user: str) -> int:
    import pwd

    if user.isascii() and user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise click.BadParameter(f"there is no user {user!r}", param_hint="--user") from None
