"""The records of the audit log. docs/reference/audit.schema.json is generated from these types.

Every record is one line of JSON. The names and meanings of version 1 stay; fields may be added.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from mrelease import _audit_chain

VERSION: Final = 1
#: So many processes at most are in one record: what is more follows in records ``more``, so that no line grows without bound.
MOST_PROCESSES: Final = 512

_Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_Count = Annotated[int, Meta(ge=0)]


class Record(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="event"):
    """What every record begins with; `hash`, which ends it, is added when it is written."""

    v: Annotated[Literal[1], Meta(description="Version of the record.")] = msgspec.field(default_factory=lambda: 1)
    seq: Annotated[int, Meta(ge=1, description="Number of the record: one more than the one before, across files and restarts.")]
    time: Annotated[
        str, Meta(description="When it happened, RFC 3339 in UTC with nanoseconds.", pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$")
    ]
    prev: Annotated[_Hash, Meta(description="`hash` of the record before; zeros in the first one of all.")]
    boot: Annotated[str, Meta(description="Boot id of the node, random_boot_id(4).")]
    node: Annotated[str, Meta(description="Name of the node, `node_name` of the agent's configuration.")]


class Caller(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Who asked, as the transport established it."""

    name: Annotated[str, Meta(description="The most telling name: a URI or `dns:`, `cn:` of a certificate, `uid:` of a Unix peer.")]
    transport: Annotated[str, Meta(description="`unix`, `mtls`, `loopback` or `local`.")]
    fingerprint: Annotated[str, Meta(description="SHA-256 of the client certificate.")] = ""
    uid: Annotated[int | None, Meta(description="User id of a Unix peer.")] = None
    gid: Annotated[int | None, Meta(description="Group id of a Unix peer.")] = None
    pid: Annotated[int | None, Meta(description="Process id of a Unix peer when it connected.")] = None


class Process(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A process that the target was found to be."""

    pid: int
    inode: Annotated[int, Meta(description="Inode number of its pidfd: unique until the next boot where pidfs is (Linux 6.9).")]
    start: Annotated[int, Meta(description="Its start time in clock ticks since boot, proc_pid_stat(5).")]
    command: Annotated[str, Meta(description="Its name, proc_pid_comm(5).")]
    size: Annotated[int, Meta(description="Bytes that its death gives back, as measured before.")] = 0
    uid: Annotated[int | None, Meta(description="Its effective user id; absent where it could not be read.")] = None
    container: Annotated[str, Meta(description="Id of its container.")] = ""
    pod: Annotated[str, Meta(description="Uid of its pod.")] = ""
    namespace: Annotated[str, Meta(description="Namespace of its pod, where the node tells.")] = ""
    pod_name: Annotated[str, Meta(description="Name of its pod, where the node tells.")] = ""


class Fate(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What became of a process."""

    pid: int
    inode: int
    outcome: Annotated[str, Meta(description="An `Outcome` of the contract, such as `RELEASED`.")]
    errno: Annotated[str, Meta(description="Name of the error that decided it.")] = ""
    released: Annotated[_Count, Meta(description="Bytes proven back.")] = 0


class Asked(Record, kw_only=True, omit_defaults=True):
    """What records of a request have in common."""

    caller: Caller
    method: Annotated[str, Meta(description="The RPC, such as `KillAndRelease`.")]
    kind: Annotated[
        str, Meta(description="What kind of target was asked for: `process`, `container`, `pod`, `cgroup` or `custom:KIND`.")
    ] = ""
    target: Annotated[str, Meta(description="The target as it was asked for.")] = ""
    request_id: Annotated[str, Meta(description="Request id of the caller.")] = ""
    reason: Annotated[str, Meta(description="Why, in the words of the caller.")] = ""
    dry_run: Annotated[bool, Meta(description="Whether only checks were asked for.")] = False
    trace_id: Annotated[str, Meta(description="The trace that it belongs to, W3C trace context.", pattern="^([0-9a-f]{32})?$")] = ""
    span_id: Annotated[
        str,
        Meta(description="The span of that trace: the caller's, or the agent's own where it exports spans.", pattern="^([0-9a-f]{16})?$"),
    ] = ""


class Intent(Asked, kw_only=True, omit_defaults=True, tag="intent"):
    """A request that passed policy and breaker: durable before the first signal."""

    decision: Annotated[Literal["allowed"], Meta(description="What the guard decided.")] = msgspec.field(default_factory=lambda: "allowed")
    kill: Annotated[bool, Meta(description="Whether a signal is sent; false where what is already killed is only released.")]
    total: Annotated[_Count, Meta(description="How many processes the target was; those not here follow in records `more`.")]
    processes: list[Process]


class More(Record, kw_only=True, omit_defaults=True, tag="more"):
    """Processes that belong to an intent too: those that did not fit into its line, or that its target forked meanwhile."""

    intent: Annotated[int, Meta(ge=1, description="`seq` of the intent.")]
    processes: list[Process]


class Result(Asked, kw_only=True, omit_defaults=True, tag="result"):
    """What became of an intent."""

    intent: Annotated[int, Meta(ge=1, description="`seq` of the intent.")]
    verdict: Annotated[str, Meta(description="A `Verdict` of the contract; empty where the operation ended in an error.")] = ""
    released: Annotated[_Count, Meta(description="Bytes proven back in all.")] = 0
    outcomes: Annotated[dict[str, int], Meta(description="How many processes have which outcome.")] = {}
    processes: Annotated[list[Fate], Meta(description="The processes, those first that gave nothing back; at most 512 of them.")] = []
    error: Annotated[str, Meta(description="Reason of the error that the operation ended in, of the contract's `ErrorReason`.")] = ""


class Refused(Asked, kw_only=True, omit_defaults=True, tag="refused"):
    """A request that policy, breaker or the kernel's facts refused: nothing was signalled."""

    decision: Annotated[Literal["refused"], Meta(description="What the guard decided.")] = msgspec.field(default_factory=lambda: "refused")
    refusal: Annotated[str, Meta(description="Why: a reason of the contract's `ErrorReason`.")]
    message: Annotated[str, Meta(description="What the caller was told.")] = ""


class Suppressed(Record, kw_only=True, omit_defaults=True, tag="suppressed"):
    """Refusals that were counted and not written one by one, because there were too many."""

    count: Annotated[int, Meta(ge=1)]
    callers: Annotated[dict[str, int], Meta(description="How many of which caller; of more than 32 callers the rest is `other`.")]


class Interrupted(Record, kw_only=True, omit_defaults=True, tag="interrupted"):
    """An intent whose result was never written: its agent died. Found and closed by the next one; what was signalled is not known."""

    intent: Annotated[int, Meta(ge=1, description="`seq` of the intent.")]


class Begin(Record, kw_only=True, omit_defaults=True, tag="begin"):
    """The first record of every file."""

    cause: Annotated[
        str,
        Meta(description="Why it began: `first`, `rotation`, or what was wrong with the file before, in words: then it is not trusted."),
    ]
    agent: Annotated[str, Meta(description="Version of the agent.")]
    open: Annotated[list[int], Meta(description="Intents of earlier files whose results are to come.")] = []
    unconfirmed: Annotated[
        bool,
        Meta(
            description="Records of the file before whose numbers are those of this file and later were never durable, and nobody was "
            "killed because of them."
        ),
    ] = False


class Start(Record, kw_only=True, omit_defaults=True, tag="start"):
    """An agent started, and goes on with this log."""

    agent: Annotated[str, Meta(description="Version of the agent.")]
    pid: Annotated[int, Meta(description="Its process id.")]
    torn: Annotated[
        _Count, Meta(description="Bytes of a last line without an end that were removed: the agent before died while it wrote.")
    ] = 0


class Stop(Record, kw_only=True, omit_defaults=True, tag="stop"):
    """The agent stopped in an orderly way: it writes nothing after this."""

    pid: Annotated[int, Meta(description="Its process id.")]


class Resumed(Record, kw_only=True, omit_defaults=True, tag="resumed"):
    """The log could not be written for a while; nothing was killed meanwhile."""

    since: Annotated[str, Meta(description="Since when.")]
    cause: Annotated[str, Meta(description="Why.")]


class Removed(Record, kw_only=True, omit_defaults=True, tag="removed"):
    """Old files were removed to keep within `audit_max_files`. Durable before they are."""

    files: Annotated[list[str], Meta(description="Their names.")]
    through: Annotated[int, Meta(ge=1, description="`seq` of the last record in them.")]
    last: Annotated[_Hash, Meta(description="`hash` of that record: `prev` of the first one that is left.")]


#: Every kind of record.
KINDS: Final = (Intent, More, Result, Refused, Suppressed, Interrupted, Begin, Start, Stop, Resumed, Removed)
_ENCODER: Final = msgspec.json.Encoder()


def seal(record: Record) -> tuple[bytes, str]:
    """The line of a record, and its hash."""
    body = _ENCODER.encode(record)
    if not body.isascii():
        # Names of processes and reasons are chosen by others: escaped, they neither drive a terminal nor end a line for anybody.
        body = json.dumps(json.loads(body), separators=(",", ":")).encode()
    return _audit_chain.seal(body)


def schema() -> dict[str, Any]:
    """JSON Schema of a line."""
    (found,), parts = msgspec.json.schema_components(
        [Intent | More | Result | Refused | Suppressed | Interrupted | Begin | Start | Stop | Resumed | Removed]
    )
    for kind in KINDS:
        part = parts[kind.__name__]
        part["properties"]["hash"] = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": 'SHA-256 of the line before `,"hash"`.'}
        part["required"].append("hash")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of the audit log of mrelease-agent",
        **found,
        "$defs": parts,
    }
