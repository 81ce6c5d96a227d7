"""The keys of the configuration. Flags, variables, `--help` and the reference page are derived from this one type, by keys.py."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

#: ``Meta.extra`` of keys whose text is a duration such as 500ms and whose value is seconds.
_DURATION: Final = {"duration": True}
#: Of keys whose text is a size such as 64GiB and whose value is bytes.
_SIZE: Final = {"size": True}
_MOST: Final = 1_000_000_000
_FILE: Final = {"default": "empty: none", "form": "the path of a file or empty"}


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
    socket_group: Annotated[
        str,
        Meta(
            description="Group whose members may connect to the Unix socket too: its directory has mode 0750 and this group.",
            extra={"default": "empty: the agent's user and root alone", "form": "a group's name or number, or empty"},
        ),
    ] = ""
    unix_peers: Annotated[
        Literal["auto", "on", "off"],
        Meta(
            description="Whether the agent asks the kernel which user and process is at the other end of a connection of the Unix "
            "socket; it then relays the bytes. `auto`: with `socket_group` or `policy`."
        ),
    ] = "auto"
    allow_plaintext_loopback: Annotated[
        bool,
        Meta(description="Allow `listen` to be TCP on the loopback interface: every user and host-network pod of the node may then kill."),
    ] = False
    tls_listen: Annotated[
        str,
        Meta(
            description="Where to serve gRPC to other machines too, by mutual TLS 1.3: callers need a certificate of `tls_ca`.",
            extra={"default": "empty: none", "form": "IP:port, [IPv6]:port or empty"},
        ),
    ] = ""
    tls_cert: Annotated[
        str,
        Meta(
            description="PEM file with the certificate of `tls_listen`, then those between it and its authority. This file and the other "
            "three are read again when they change; what is broken is not taken.",
            extra=_FILE,
        ),
    ] = ""
    tls_key: Annotated[str, Meta(description="PEM file with the private key of `tls_cert`, not encrypted.", extra=_FILE)] = ""
    tls_ca: Annotated[
        str, Meta(description="PEM file with the certificates of the authorities whose callers may connect.", extra=_FILE)
    ] = ""
    tls_crl: Annotated[
        str,
        Meta(description="PEM file with lists of revoked certificates, one for each authority that has one, or empty.", extra=_FILE),
    ] = ""
    policy: Annotated[
        str,
        Meta(
            description="YAML file with the access policy: who may have what done to whom. What it does not allow is denied. Read again "
            "when it changes; what is broken is not taken. `tls_listen` needs one; without one, whoever reaches the agent may do all.",
            extra=_FILE,
        ),
    ] = ""
    pod_logs: Annotated[
        str,
        Meta(
            description="Directory in which kubelet keeps a directory for each pod, by which the access policy knows a pod's namespace.",
            extra={"form": "an absolute path"},
        ),
    ] = "/var/log/pods"
    audit_dir: Annotated[
        str,
        Meta(
            description="Directory of the agent's own, mode 0700, for the audit log: who had what killed, durable before the first signal. "
            "While it cannot be written, nothing is killed. `tls_listen` needs one, or `none`.",
            extra={
                "default": "audit in $LOGS_DIRECTORY or $STATE_DIRECTORY, which systemd sets; else empty: no audit log",
                "form": "an absolute path, none or empty",
            },
        ),
    ] = ""
    audit_max_file: Annotated[int, Meta(description="Bytes of the audit log after which a new file is begun.", ge=65536, le=1073741824)] = (
        4194304
    )
    audit_max_files: Annotated[
        int, Meta(description="How many files of the audit log are kept; the oldest are removed, and that is recorded.", ge=2, le=65536)
    ] = 64
    http_listen: Annotated[
        str,
        Meta(
            description="Address for `/metrics`, `/healthz` and `/readyz`, for example `127.0.0.1:9464`.",
            extra={"default": "empty: none", "form": "127.0.0.1:port, [::1]:port, another IP:port with `allow_remote_http`, or empty"},
        ),
    ] = ""
    allow_remote_http: Annotated[
        bool,
        Meta(
            description="Allow `http_listen` to be an address that other machines reach, as a kubelet's probes and a Prometheus need it: "
            "metrics and health without authentication. No command, reason or pid is in them."
        ),
    ] = False
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
    max_connections: Annotated[
        int,
        Meta(
            description="Connections at once on each address; fewer where the process may not have so many files open. Where users of "
            "the Unix socket are told apart, none may have more than are still free.",
            ge=1,
            le=65536,
        ),
    ] = 1024
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
            extra={
                "default": "the directory of the Unix socket in `listen`; with `socket_group` one named state in it",
                "form": "an absolute path or empty",
            },
        ),
    ] = ""
    boost: Annotated[
        Literal["unspecified", "none", "priority", "evacuation", "lift"],
        Meta(
            description="How victims are given CPU time where a request names no boost: "
            "`unspecified` takes the first rung that works and is needed, `none` turns it off."
        ),
    ] = "unspecified"
    target_plugins: Annotated[
        str,
        Meta(
            description="Kinds of custom targets that the agent has, such as `slurm`. Their plugins run in the agent, with its privileges; "
            "no other plugin is imported. `mrelease plugins` says which work.",
            extra={"default": "empty: none", "form": "kinds with commas between them, or empty"},
        ),
    ] = ""
    target_plugin_options: Annotated[
        str,
        Meta(
            description="Options of these plugins: `slurm.stray_processes=uid`.",
            extra={"default": "empty: none", "form": "kind.option=value with commas between them, or empty"},
        ),
    ] = ""
    protected_cgroups: Annotated[
        str,
        Meta(
            description="Cgroups that are never killed, with all below them, as /proc/PID/cgroup shows them.",
            extra={"default": "empty: none", "form": "absolute paths with commas between them, or empty"},
        ),
    ] = ""
    protected_namespaces: Annotated[
        str,
        Meta(
            description="Namespaces whose pods are never killed; they are looked up in `pod_logs`. Where that does not tell and a kubelet "
            "runs here, no pod is killed.",
            extra={"form": "namespaces with commas between them, or empty"},
        ),
    ] = "kube-system"
    protected_users: Annotated[
        str,
        Meta(
            description="Users whose processes are never killed (effective user id).",
            extra={"default": "empty: none", "form": "names or numbers of users with commas between them, or empty"},
        ),
    ] = ""
    protected_names: Annotated[
        str,
        Meta(
            description="Names of processes that are never killed, as `comm` shows them. Every process can give itself one of them.",
            extra={"default": "empty: none", "form": "names of up to 15 bytes with commas between them, or empty"},
        ),
    ] = ""
    protected_sockets: Annotated[
        str,
        Meta(
            description="Unix sockets whose listeners are never killed, where they are root's and in no container: of a runtime at an "
            "unusual place. A path that ends in / stands for all directly below it.",
            extra={"default": "empty: the usual ones alone", "form": "absolute paths with commas between them, or empty"},
        ),
    ] = ""
    protected_oom_score_adj: Annotated[
        int,
        Meta(
            description="Processes with this oom_score_adj or a lower one are never killed. Containers of pods have -997 at the least, and "
            "1000 where they are BestEffort.",
            ge=-1000,
            le=999,
        ),
    ] = -998
    breaker_window: Annotated[
        float, Meta(description="The window of the five limits that follow: any of this length.", ge=1, le=86400, extra=_DURATION)
    ] = 60.0
    max_kills: Annotated[
        int, Meta(description="Processes that are killed on this node in any window at most; 0: any number.", ge=0, le=_MOST)
    ] = 16384
    max_bytes: Annotated[
        int,
        Meta(
            description="Bytes, anonymous memory and swap of those processes, in any window at most; 0: any number.",
            ge=0,
            le=1 << 60,
            extra=_SIZE,
        ),
    ] = 0
    max_kills_per_caller: Annotated[int, Meta(description="The same as `max_kills` for each caller.", ge=0, le=_MOST)] = 8192
    max_bytes_per_caller: Annotated[int, Meta(description="The same as `max_bytes` for each caller.", ge=0, le=1 << 60, extra=_SIZE)] = 0
    max_kills_per_target: Annotated[
        int,
        Meta(
            description="How often in any window the same pod, container, cgroup, or command of one user in one cgroup is killed at most "
            "after it has come back; 0: any number.",
            ge=0,
            le=_MOST,
        ),
    ] = 60
    drain_timeout: Annotated[
        float, Meta(description="How long the agent waits for operations in flight after SIGTERM.", ge=0, le=3600, extra=_DURATION)
    ] = 30.0
    nice: Annotated[
        Annotated[int, Meta(ge=-20, le=19)] | None,
        Meta(description="Priority of the agent, nice(2), where it may set it; `null` leaves it as it is."),
    ] = -10
    lock_memory: Annotated[
        Literal["auto", "on", "off"],
        Meta(
            description="Whether the agent's memory stays in RAM from its first use on, mlockall(2), so that it still answers when a node "
            "without memory thrashes. `auto`: where permitted; with `on` it does not start where not."
        ),
    ] = "auto"
    oom_score_adj: Annotated[
        Annotated[int, Meta(ge=-1000, le=1000)] | None,
        Meta(description="How late the OOM killer takes the agent, where it may lower that; -999 is kubelet's own. `null` leaves it."),
    ] = -999
    otlp_endpoint: Annotated[
        str,
        Meta(
            description="OpenTelemetry collector to which spans of calls and of the steps of operations are sent, OTLP over gRPC: "
            "docs/tracing.md. Needs the extra `otel`. By `http` in clear text: for a collector on this node.",
            extra={"default": "empty: none", "form": "http://host:port, https://host:port or empty"},
        ),
    ] = ""
    reflection: Annotated[bool, Meta(description="Serve gRPC reflection, for tools such as grpcurl.")] = False
