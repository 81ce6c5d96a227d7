"""``mrelease audit``: is the log whole, and what is in it. Reads files; no agent is asked."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, cast

import click

from mrelease import _text
from mrelease.cli import formats, output, params
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.settings import Settings, common_options, pass_settings

#: Where the service of deploy/systemd has it.
_USUAL: Final = "/var/log/mrelease/audit"
_COLUMNS: Final = ("SEQ", "TIME", "EVENT", "CALLER", "METHOD", "TARGET", "OUTCOME", "RELEASED", "REASON")
#: Widths where lines are printed as they come; what is longer moves the rest.
_WIDTHS: Final = (6, 24, 9, 16, 14, 22, 12, 9, 0)
_PAUSE: Final = 0.2
#: So many problems are printed for people.
_SHOWN: Final = 20
_PATHS: Final = click.argument("paths", metavar="[DIR|FILE]...", nargs=-1, type=click.Path(path_type=Path, exists=True))


@click.group()
def audit() -> None:
    """Verify and read the audit log of an agent, from its files."""


@audit.command()
@_PATHS
@click.option("--expect-hash", metavar="HASH", multiple=True, help="A record must have this hash, noted elsewhere. May be repeated.")
@common_options
@pass_settings
def verify(settings: Settings, /, paths: tuple[Path, ...], expect_hash: tuple[str, ...]) -> ExitCode:
    """Verify that an audit log is whole and unchanged.

    Without DIR or FILE: /var/log/mrelease/audit. Exit code 0 where it is, 3 where it is not: then each line names file, line and record,
    and what is wrong. Whoever may write the files can write them anew: only a hash noted elsewhere (--expect-hash) proves that they were
    not; the agent logs one as `audit head`, and this command prints the last one.
    """
    from mrelease import _audit_verify

    for digest in expect_hash:
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise click.BadParameter(f"{digest!r} is no SHA-256: expected 64 hexadecimal digits", param_hint="--expect-hash")
    try:
        report = _audit_verify.verify(_paths(paths), expect_hash)
    except OSError as error:
        raise click.UsageError(f"{error.filename}: {error.strerror}") from None
    if settings.output == "table":
        for problem in report.problems[:_SHOWN]:
            where = f"{problem.file}:{problem.line}" if problem.line else problem.file or "-"
            output.out(_text.printable(f"{where}: record {problem.seq}: {problem.kind}: {problem.text}"))
        if len(report.problems) > _SHOWN:
            output.out(f"and {len(report.problems) - _SHOWN} more (all of them: -o json)")
        for note in report.notes:
            output.out(_text.printable(f"note: {note}"))
        verdict = f"broken: {len(report.problems)} problems" if report.problems else "ok"
        span = f"{report.records} records ({report.first} to {report.last.seq}) in {report.files} files"
        output.out(f"{verdict}, {span}, head {report.last.seq} {report.last.hash}")
    else:
        output.out(formats.dump({"ok": not report.problems, **asdict(report)}, settings.output))
    return ExitCode.HELD if report.problems else ExitCode.OK  # 3


@audit.command()
@_PATHS
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on, until interrupted.")
@click.option("--caller", metavar="TEXT", help="Only what callers asked for whose name contains this.")
@click.option("--outcome", metavar="NAME", help="Only results with this outcome, verdict, refusal or error, for example HELD.")
@click.option("--since", metavar="TIME|DURATION", help="Only what is as new: 2026-01-31T12:00:00Z, or 10m.")
@click.option("--pid", type=click.IntRange(min=1), help="Only what names this process.")
@click.option("--request-id", metavar="ID", help="Only what has this request id.")
@common_options
@pass_settings
def show(settings: Settings, /, paths: tuple[Path, ...], follow: bool, **filters: Any) -> ExitCode:
    """Show the records of an audit log, the oldest first.

    Without DIR or FILE: /var/log/mrelease/audit. With `-o json` each record is a line as it was written.
    """
    wanted = _Filter(
        caller=filters["caller"],
        outcome=None if filters["outcome"] is None else filters["outcome"].upper(),
        since=None if filters["since"] is None else _since(filters["since"]),
        pid=filters["pid"],
        request_id=filters["request_id"],
    )
    from mrelease._audit_chain import BadRecordError, link

    bad = False
    if settings.output == "table":
        output.out(_row(_COLUMNS))
    try:
        for line in _lines(_paths(paths), follow=follow):
            try:
                link(line)
            except BadRecordError:
                bad = True
            record = _record(line)
            if record is None or not wanted.passes(record):
                continue
            if settings.output == "table":
                output.out(_text.printable(_row(_cells(record))))
            elif settings.output == "json":
                output.out(line.decode("ascii", "backslashreplace"))
            else:
                output.out(formats.dump_one(record, settings.output))
    except OSError as error:
        raise click.UsageError(f"{error.filename}: {error.strerror}") from None
    if bad:
        output.err("mrelease: some lines were changed or are no records: see `mrelease audit verify`")
    return ExitCode.HELD if bad else ExitCode.OK  # 3


@dataclass(frozen=True, slots=True)
class _Filter:
    caller: str | None
    outcome: str | None
    since: str | None
    pid: int | None
    request_id: str | None

    def passes(self, record: dict[str, Any]) -> bool:
        return (
            (self.caller is None or self.caller in _caller(record))
            and (self.outcome is None or self.outcome in _outcomes(record))
            and (self.since is None or str(record.get("time", "")) >= self.since)
            and (self.pid is None or any(process.get("pid") == self.pid for process in _processes(record)))
            and (self.request_id is None or record.get("request_id") == self.request_id)
        )


def _outcomes(record: dict[str, Any]) -> set[str]:
    single = {str(record[name]) for name in ("verdict", "refusal", "error") if record.get(name)}
    return single | {"INTERRUPTED"} if record.get("event") == "interrupted" else single | set(record.get("outcomes") or ())


def _processes(record: dict[str, Any]) -> list[dict[str, Any]]:
    found = record.get("processes")
    return [_mapping(process) for process in cast("list[object]", found)] if isinstance(found, list) else []


def _caller(record: dict[str, Any]) -> str:
    return str(_mapping(record.get("caller")).get("name", ""))


def _mapping(found: object) -> dict[str, Any]:
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _cells(record: dict[str, Any]) -> list[str]:
    event = str(record.get("event", ""))
    intent = f"of {record['intent']}" if "intent" in record and event != "result" else ""
    said = record.get("verdict") or record.get("error") or record.get("refusal") or ""
    if event == "suppressed":
        said = f"{record.get('count')} refusals"
    released = record.get("released")
    return [
        str(record.get("seq", "")),
        f"{str(record.get('time', ''))[:23]}Z",
        event,
        _caller(record),
        str(record.get("method", "")),
        str(record.get("target", "") or intent or _named(record)),
        str(said),
        _text.size(released) if isinstance(released, int) and event == "result" else "",
        str(record.get("reason") or record.get("cause") or ""),
    ]


def _named(record: dict[str, Any]) -> str:
    return " ".join(f"process {process.get('pid')}" for process in _processes(record)[:3])


def _row(cells: Sequence[str]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip()


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        return _mapping(json.loads(line)) or None
    except (ValueError, RecursionError):
        return None


def _paths(paths: tuple[Path, ...]) -> list[Path]:
    if len(paths) > 1 and any(path.is_dir() for path in paths):
        raise click.UsageError("each directory is a log of its own: name one directory, or files of one log")
    if paths:
        return list(paths)
    usual = Path(_USUAL)
    if not usual.is_dir():
        raise click.UsageError(f"there is no {_USUAL}: name the directory (audit_dir of the agent's configuration)")
    return [usual]


def _since(text: str) -> str:
    """As records have it: compared as text."""
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        when = datetime.now(timezone.utc) - params.duration(text)
    if when.tzinfo is None:
        when = when.astimezone()
    return when.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")


def _lines(paths: list[Path], *, follow: bool) -> Iterator[bytes]:
    """Whole lines of the log, and with ``follow`` those that come."""
    from mrelease import _audit_files

    read: dict[Path, int] = {}
    while True:
        more = False
        for path in _audit_files.find(paths)[0]:
            with contextlib.suppress(FileNotFoundError):  # removed for its age
                for _, text, end in _audit_files.lines(path, read.get(path, 0)):
                    if end >= 0:
                        read[path] = end
                        more = True
                        yield text
        if not follow:
            return
        if not more:
            time.sleep(_PAUSE)
