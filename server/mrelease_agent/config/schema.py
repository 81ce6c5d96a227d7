"""The keys of the configuration. Flags, variables, `--help` and docs/reference/configuration.md are derived from this one type."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Meta

from mrelease_agent.config.values import ConfigError

#: ``Meta.extra`` of keys whose text is a duration such as 500ms and whose value is seconds.
_DURATION: Final = {"duration": True}


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Effective configuration. Durations are in seconds."""

    node_name: Annotated[
        str,
        Meta(
            description="Name of this node in answers and in `NodePrecondition.name`.",
            pattern=r"^[!-~]{1,253}$",
            extra={"default": "the host name", "form": "1 to 253 printable ASCII characters without spaces"},
        ),
    ]
    listen: Annotated[
        str,
        Meta(
            description="Where to serve gRPC. A Unix socket needs a directory of the agent's own, mode 0700.",
            extra={
                "default": "agent.sock in $RUNTIME_DIRECTORY, else /run/mrelease (root), else $XDG_RUNTIME_DIR/mrelease",
                "form": "unix:///path, tcp://127.0.0.1:port or tcp://[::1]:port",
            },
        ),
    ]
    allow_plaintext_loopback: Annotated[
        bool,
        Meta(description="Allow `listen` to be TCP on the loopback interface: every user and host-network pod of the node may then kill."),
    ] = False
    http_listen: Annotated[
        str,
        Meta(
            description="Loopback address for `/metrics`, `/healthz` and `/readyz`, for example `127.0.0.1:9464`.",
            extra={"default": "empty: none", "form": "127.0.0.1:port, [::1]:port or empty"},
        ),
    ] = ""
    log_format: Annotated[Literal["text", "json"], Meta(description="One line per event: for people, or one JSON object.")] = "text"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="The least severe level that is logged.")] = "info"
    reap_delay: Annotated[
        float,
        Meta(
            description="How long a killed process may exit by itself before it is reaped. "
            "Below 1ms, waiters on a robust mutex that it shares with living processes may hang.",
            ge=0,
            le=1,
            extra=_DURATION,
        ),
    ] = 0.005
    default_timeout: Annotated[
        float, Meta(description="How long a request that names no timeout waits.", ge=0.001, le=3600, extra=_DURATION)
    ] = 10.0
    max_timeout: Annotated[float, Meta(description="The longest timeout that a request may name.", ge=0.001, le=3600, extra=_DURATION)] = (
        300.0
    )
    reaper_threads: Annotated[int, Meta(description="Threads that call process_mrelease(2).", ge=1, le=64)] = 4
    max_stuck_reapers: Annotated[
        int, Meta(description="How many threads that the kernel does not let go are replaced before requests are refused.", ge=1, le=1024)
    ] = 32
    reaper_nice: Annotated[
        Annotated[int, Meta(ge=-20, le=19)] | None,
        Meta(description="Priority of the reaper threads, nice(2), where they may set it: the kernel frees at it. `null`: the agent's."),
    ] = None
    reaper_cpus: Annotated[
        str,
        Meta(
            description="CPUs on which the reaper threads run, for example `0-3,8`.",
            extra={"default": "empty: those of the agent", "form": "a list of CPUs such as 0-3,8, or empty"},
        ),
    ] = ""
    reaper_class: Annotated[
        Literal["inherit", "other", "rr"],
        Meta(
            description="Scheduling class of the reaper threads, sched(7): `inherit` is that of the agent, `other` the usual one; `rr` is "
            "real time, goes before all that is not, needs CAP_SYS_NICE and, with RT_GROUP_SCHED, cpu.rt_runtime_us of the agent's cgroup."
        ),
    ] = "inherit"
    max_operations: Annotated[int, Meta(description="Operations in flight before requests are refused.", ge=1, le=65536)] = 1024
    max_watchers: Annotated[int, Meta(description="WatchMemory calls at once before more are refused.", ge=1, le=4096)] = 64
    result_ttl: Annotated[
        float,
        Meta(description="How long the result of an operation with a `request_id` is kept.", ge=0, le=86400, extra=_DURATION),
    ] = 600.0
    max_results: Annotated[
        int, Meta(description="How many of these results are kept at most; together never more than 16 MiB.", ge=0, le=65536)
    ] = 1024
    state_dir: Annotated[
        str,
        Meta(
            description="Directory of the agent's own that outlives it until the next boot: the next agent restores from it what this one "
            "could not.",
            extra={"default": "the directory of the Unix socket in `listen`", "form": "an absolute path or empty"},
        ),
    ] = ""
    boost: Annotated[
        Literal["unspecified", "none", "priority", "evacuation", "lift"],
        Meta(
            description="How victims are given CPU time where a request names no boost: "
            "`unspecified` takes the first rung that works and is needed, `none` turns it off."
        ),
    ] = "unspecified"
    drain_timeout: Annotated[
        float, Meta(description="How long the agent waits for operations in flight after SIGTERM.", ge=0, le=3600, extra=_DURATION)
    ] = 30.0
    nice: Annotated[
        Annotated[int, Meta(ge=-20, le=19)] | None,
        Meta(description="Priority of the agent, nice(2), where it may set it; `null` leaves it as it is."),
    ] = -10
    reflection: Annotated[bool, Meta(description="Serve gRPC reflection, for tools such as grpcurl.")] = False


class Key(NamedTuple):
    """One key of the configuration with what its annotation says of it; ``annotated`` is the whole annotation."""

    name: str
    annotated: Any
    default: Any

    @property
    def type(self) -> Any:
        """Type of its value without the annotation."""
        return get_args(self.annotated)[0]

    @property
    def description(self) -> str:
        """What it is for; may contain `code`."""
        return str(get_args(self.annotated)[1].description)

    @property
    def extra(self) -> Mapping[str, Any]:
        """What msgspec has no word for: ``duration``, ``default`` (where it is computed), ``form`` (of a text)."""
        return get_args(self.annotated)[1].extra or {}

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Least and greatest value; None where it is no number."""
        # Of `int | None` the bounds belong to the int.
        for holder in (self.annotated, *get_args(self.type)):
            meta = next((part for part in get_args(holder) if isinstance(part, Meta) and part.ge is not None), None)
            if meta is not None and meta.ge is not None and meta.le is not None:
                return meta.ge, meta.le
        return None

    @property
    def flag(self) -> str:
        """Command line flag."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Environment variable."""
        return "MRELEASE_" + self.name.upper()

    @property
    def is_duration(self) -> bool:
        """Whether its text is a duration."""
        return "duration" in self.extra

    @property
    def is_nullable(self) -> bool:
        """Whether it has a meaning without a value."""
        return type(None) in get_args(self.type)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it may be; empty where it is not one of a few."""
        if self.type is bool:
            return ("true", "false")
        return get_args(self.type) if get_origin(self.type) is Literal else ()


def keys() -> Mapping[str, Key]:
    """Every key by its name, in the order of ``Config``."""
    return _KEYS


def _derive() -> Mapping[str, Key]:
    return {field.name: Key(field.name, field.type, field.default) for field in msgspec.structs.fields(Config)}


_KEYS: Final = _derive()


def default_node_name() -> str:
    """The host name, gethostname(2)."""
    return socket.gethostname()


def default_listen(environ: Mapping[str, str], euid: int) -> str:
    """Socket of the agent where ``listen`` is not set: systemd's RuntimeDirectory=, /run for root, the user's runtime directory.

    Raises ConfigError where there is none of them.
    """
    service = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    user = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(service):  # noqa: PTH117 - a relative one is invalid, and pathlib is not needed to see it
        return f"unix://{service}/agent.sock"
    if euid == 0:
        return "unix:///run/mrelease/agent.sock"
    if os.path.isabs(user):  # noqa: PTH117
        return f"unix://{user}/mrelease/agent.sock"
    raise ConfigError(
        "listen is not set, and there is no runtime directory to choose a socket in (XDG_RUNTIME_DIR is not set): "
        "set it, for example --listen unix://$HOME/.mrelease/agent.sock"
    )
