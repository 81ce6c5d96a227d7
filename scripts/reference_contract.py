"""The reference pages of the contract: what became of a process, and the errors that stop a request."""

from __future__ import annotations

import errno
import inspect
import re
from pathlib import Path

import grpc

from mrelease import _failure, errors
from mrelease.cli import exit_codes
from mrelease.v1 import error_reason_pb2
from mrelease_agent.reaping.outcome import ANSWERS, UNEXPECTED, Answer, HeldCause, Outcome, Then, verdict
from mrelease_agent.reaping.remedies import DOCUMENTED, REMEDIES, UNKNOWN_WAIT, WAITS, Wait, anchor
from mrelease_agent.rpc.errors import CODES

PROTO = Path(__file__).resolve().parent.parent / "proto" / "mrelease" / "v1"
#: Outcomes whose remedy is that of a held cause.
_HELD: dict[Outcome, HeldCause | None] = {
    Outcome.PARTIAL: None,
    Outcome.HELD: None,
    Outcome.SHARED_MM: HeldCause.SHARED_MM,
    Outcome.CORE_DUMPING: HeldCause.CORE_DUMP,
    Outcome.UNSUPPORTED: HeldCause.UNSUPPORTED,
}
_REFUSALS = ("NOT_DYING", "NOT_FOUND", "IDENTITY_MISMATCH", "PROTECTED", "KERNEL_THREAD", "NOT_PERMITTED")


def outcomes(notice: str) -> str:
    """The page of outcomes, verdicts, steps, proofs, and the answers of process_mrelease(2)."""
    rows = "".join(
        f"| `{name}` | {number} | {_verdict(name)} | {text} | {_remedy(name)} |\n"
        for name, number, text in enum_values("outcome", "Outcome")
    )
    return f"""{notice}
# Outcomes

What became of one process (`ProcessResult.outcome`), and of the target as a whole (`ReleaseResult.verdict`). Numbers are stable: names and
numbers may be stored. Why an outcome is what it is: [how it works](../explanation/how-it-works.md).

| outcome | number | verdict | meaning | what to do |
|---|---|---|---|---|
{rows}
A result also has `cause` and `remedy`: these sentences, with what was found in the case at hand.

## Verdicts

The worst of the processes' outcomes: UNKNOWN, HELD, PARTIAL, RELEASED, EXITED, VALIDATED, in this order. HELD becomes PARTIAL where the
memory of another process of the target is back.

{_table("verdict", enum_values("outcome", "Verdict"))}
## Proofs

{_table("proof", enum_values("outcome", "Proof"))}
## Held causes

What keeps memory that is not back by the deadline (`ProcessResult.held_cause`). The agent looks at every thread of the process, so `state`
and `wchan` are of the one that keeps it, not of a main thread that has long ended; `tracer_pid`, `sharing_pids` and `reader_pids` name who
else has to do with it. It reads nothing that pins the memory or waits for its lock, and takes a fraction of a second: what it did not get
to see, or may not see, is left out.

| cause | number | meaning | what to do, and what to expect |
|---|---|---|---|
{"".join(_held_cause(*value) for value in enum_values("outcome", "HeldCause"))}
What a thread in state D waits for, told by how its wait channel (`wchan`) begins:

| wait channel | it waits for | what to do |
|---|---|---|
{"".join(map(_wait, WAITS))}| any other | see `/proc/PID/stack` | {UNKNOWN_WAIT} |

## Steps

{_table("step", enum_values("outcome", "Step"))}
## Memory that does not come back

{_table("cause", enum_values("outcome", "UnreleasedCause"))}
## Answers of process_mrelease(2)

Source: `mm/oom_kill.c` of the kernel. The last column is the outcome where the memory is not back by the deadline.

| errno | meaning | what the agent does then | outcome at the deadline |
|---|---|---|---|
{"".join(_answer(name, what) for name, what in _answers())}"""


def errors_page(notice: str) -> str:
    """The page of error reasons with their gRPC codes, SDK classes and exit codes."""
    rows = "".join(_reason(*value) for value in enum_values("error_reason", "ErrorReason"))
    bare = "".join(
        f"| `{code.name}` | {_class(kind)} | {_exit(kind, code)} |\n" for code, kind in _failure.BY_CODE.items() if code.value[0]
    )
    codes = "".join(f"| {int(code)} | {meaning} |\n" for code, meaning in exit_codes.MEANINGS.items())
    tree = inspect.cleandoc(errors.__doc__ or "").split("::\n\n", 1)[1].rsplit("\n\n", 1)[0]
    return f"""{notice}
# Errors

An error stops a whole request: nothing was signalled, but for `INTERNAL`, which cannot know. A process that was killed and keeps its
memory is not an error but a [result](outcomes.md).

Every error of an agent is a gRPC status with exactly one `google.rpc.ErrorInfo` in the trailer `grpc-status-details-bin`. Its `domain` is
`mrelease.dev`, its `reason` one of the names below, its `metadata` has `remedy` and what the reason names. `RESOURCE_EXHAUSTED` and
`UNAVAILABLE` also carry `google.rpc.RetryInfo`.

| reason | number | gRPC status | exception | exit code | meaning |
|---|---|---|---|---|---|
{rows}
## Statuses without details

gRPC itself or a proxy made these. `UNAVAILABLE` is {_class(errors.Unreachable)} (exit code \
{_exit(errors.Unreachable, grpc.StatusCode.UNAVAILABLE)}) where there never was a connection.

| gRPC status | exception | exit code |
|---|---|---|
{bare}
The exit codes are those of `mrelease kill` and `release`.

## Exceptions of the SDK

```text
{tree}
```

## Exit codes of `mrelease`

| code | meaning |
|---|---|
{codes}
With several targets the worst one decides, in this order: {", ".join(str(int(code)) for code in exit_codes.WORST_FIRST)}.
"""


def enum_values(file: str, enum: str) -> list[tuple[str, int, str]]:
    """Values of an enum of the contract but for the unset one: name without prefix, number, comment."""
    body = re.search(rf"^enum {enum} {{\n(.*?)^}}", (PROTO / f"{file}.proto").read_text(), re.S | re.M)
    assert body, f"{file}.proto has no enum {enum}"
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum).upper() + "_"
    values: list[tuple[str, int, str]] = []
    comment: list[str] = []
    for line in body[1].splitlines():
        text = line.strip()
        if text.startswith("//"):
            comment.append(text.removeprefix("//").strip())
        elif found := re.fullmatch(rf"{prefix}(\w+) = (\d+);", text):
            values.append((found[1], int(found[2]), " ".join(comment)))
            comment = []
    return [value for value in values if value[1] or enum == "Proof"]


def _table(title: str, values: list[tuple[str, int, str]]) -> str:
    rows = "".join(f"| `{name}` | {number} | {text} |\n" for name, number, text in values)
    return f"| {title} | number | meaning |\n|---|---|---|\n{rows}"


def _verdict(name: str) -> str:
    return "" if name in _REFUSALS else f"`{verdict([Outcome[name]]).name}`"


def _remedy(name: str) -> str:
    if name in _REFUSALS:
        return f"see the reason [`{'PROCESS_NOT_FOUND' if name == 'NOT_FOUND' else name}`](errors.md)"
    if Outcome[name] not in _HELD:
        return ""
    cause = _HELD[Outcome[name]]
    return f"see the held cause [`{cause.name}`](#{anchor(cause)})" if cause else "see its [held cause](#held-causes)"


def _held_cause(name: str, number: int, text: str) -> str:
    cause = HeldCause[name]
    return f'| `{name}` | <a id="{anchor(cause)}"></a>{number} | {text} | {REMEDIES[cause].format_map(DOCUMENTED)} |\n'


def _wait(wait: Wait) -> str:
    return f"| {', '.join(f'`{channel}`' for channel in wait.channels)} | {wait.what} | {wait.remedy} |\n"


def _answers() -> list[tuple[str, Answer]]:
    known = [(f"`{errno.errorcode[number]}`" if number else "0", what) for number, what in ANSWERS.items()]
    return [*known, ("any other", UNEXPECTED)]


def _answer(name: str, what: Answer) -> str:
    then = what.then.value
    if what.then is Then.MEASURE:
        then += "; call again while some is left"
    return f"| {name} | {what.meaning} | {then} | `{what.outcome.name}` |\n"


def _reason(name: str, number: int, text: str) -> str:
    code = CODES[error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{name}")]
    kind = _failure.BY_REASON[name]
    # The comment begins with the status, which has a column of its own.
    meaning = text.partition(". ")[2]
    return f"| `{name}` | {number} | `{code.name}` | {_class(kind)} | {_exit(kind, code)} | {meaning} |\n"


def _class(kind: type[errors.AgentError]) -> str:
    return f"`{kind.__name__}`"


def _exit(kind: type[errors.AgentError], code: grpc.StatusCode) -> int:
    return int(exit_codes.of_error(kind("", code=code)))
