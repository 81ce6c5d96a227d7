"""What an access policy is made of, as its file says it. ``docs/reference/policy.schema.json`` is derived from these types."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

#: The methods of the contract that a rule may name.
METHODS: Final = ("KillAndRelease", "Release", "Reclaim", "WatchRelease", "GetNode", "ListProcesses", "WatchMemory")

Method = Literal["KillAndRelease", "Release", "Reclaim", "WatchRelease", "GetNode", "ListProcesses", "WatchMemory", "*"]
#: ``custom`` is every kind of custom target, ``custom:slurm`` that one.
Kind = Annotated[str, Meta(pattern=r"^(process|container|pod|cgroup|custom(:[a-z][a-z0-9-]{0,31})?)$")]
Transport = Literal["unix", "mtls", "loopback", "local"]
#: User and group ids; the highest one means "none", chown(2).
_Id = Annotated[int, Meta(ge=0, le=0xFFFFFFFE)]
_SIZE: Final = r"^[0-9]{1,12}(\.[0-9]{1,9})?(B|KiB|MiB|GiB|TiB)$"


class CallerMatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One way to recognise a caller. Every key that is given has to fit; give at least one."""

    uri: (
        Annotated[
            str,
            Meta(
                description="The one URI of the certificate's subject alternative names, such as a SPIFFE ID; a certificate with several "
                "matches none. In its path `*` at the end of a segment stands for any further characters of that segment, and `**` as "
                "the last segment for one or more segments.",
                min_length=1,
                max_length=2048,
            ),
        ]
        | UnsetType
    ) = UNSET
    dns: (
        Annotated[
            str,
            Meta(
                description="A DNS name among the certificate's subject alternative names. `*` as the first label stands for one label.",
                min_length=1,
                max_length=253,
            ),
        ]
        | UnsetType
    ) = UNSET
    cn: (
        Annotated[
            str,
            Meta(description="Common name of the certificate's subject, exactly. No wildcard.", min_length=1, max_length=256),
        ]
        | UnsetType
    ) = UNSET
    unix_uid: Annotated[_Id, Meta(description="User id of the caller's process, on the Unix socket.")] | UnsetType = UNSET
    unix_gid: Annotated[_Id, Meta(description="Group id of the caller's process, on the Unix socket.")] | UnsetType = UNSET
    transport: (
        Annotated[
            Transport,
            Meta(
                description="How the caller reached the agent: `unix` through the socket, `mtls` with any certificate that the agent "
                "trusts, `loopback` by plaintext TCP, `local` in the agent's own process."
            ),
        ]
        | UnsetType
    ) = UNSET


class Targets(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which targets. Every key that is given has to hold for every process of the target; a key that is left out means any."""

    kinds: (
        Annotated[
            list[Kind],
            Meta(
                description="How the target may be named in the request: `process`, `container`, `pod`, `cgroup`, `custom:KIND` such as "
                "`custom:slurm`, or `custom` for every kind that a plugin of the agent has.",
                min_length=1,
                max_length=64,
            ),
        ]
        | UnsetType
    ) = UNSET
    namespaces: (
        Annotated[
            list[Annotated[str, Meta(pattern=r"^([a-z0-9][a-z0-9-]{0,62}\*?|\*)$")]],
            Meta(
                description="Kubernetes namespaces of its pod. `*` at the end stands for any further characters. A process of no pod, or "
                "of one whose namespace the node does not tell, is in none.",
                min_length=1,
                max_length=1024,
            ),
        ]
        | UnsetType
    ) = UNSET
    cgroups: (
        Annotated[
            list[Annotated[str, Meta(pattern=r"^/", max_length=4096)]],
            Meta(
                description="Paths as /proc/PID/cgroup shows them, of the hierarchy that counts memory: that cgroup and all below it.",
                min_length=1,
                max_length=1024,
            ),
        ]
        | UnsetType
    ) = UNSET
    users: (
        Annotated[
            list[_Id | Annotated[str, Meta(min_length=1, max_length=256)]],
            Meta(
                description="User ids, or names that the agent's node knows: all four user ids of the process have to be among them.",
                min_length=1,
                max_length=1024,
            ),
        ]
        | UnsetType
    ) = UNSET


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How much each caller may kill by this rule."""

    max_kills: Annotated[int, Meta(description="Processes that are killed in any window at most.", ge=1, le=1_000_000_000)] | UnsetType = (
        UNSET
    )
    max_bytes: (
        Annotated[
            Annotated[int, Meta(ge=1, le=1 << 62)] | Annotated[str, Meta(pattern=_SIZE)],
            Meta(description="Bytes that their deaths give back in any window at most: a number of bytes, or a size such as 64GiB."),
        ]
        | UnsetType
    ) = UNSET
    window: Annotated[
        str, Meta(description="Length of the window, from 1s to 24h: 30s, 1m, 1h.", pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h)$")
    ] = "1m"


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One thing that is allowed: to these callers, by these methods, to these targets."""

    name: Annotated[
        str, Meta(description="Unique; it is in the explanations and counts of this rule.", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    ]
    callers: Annotated[list[CallerMatch], Meta(description="Any of these.", min_length=1, max_length=1024)]
    methods: Annotated[list[Method], Meta(description="Any of these; `*` is all, also those of later versions of the agent.", min_length=1)]
    targets: Annotated[Targets, Meta(description="To these; left out: to any.")] | UnsetType = UNSET
    limits: Annotated[Limits, Meta(description="Left out: without a limit of this rule.")] | UnsetType = UNSET


class PolicyFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An access policy of mrelease. What no rule allows is denied."""

    version: Annotated[Literal[1], Meta(description="Of this format.")]
    rules: Annotated[list[Rule], Meta(description="In any order.", max_length=1024)]
