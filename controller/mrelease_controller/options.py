"""The command line of ``mrelease-controller``: where things are. What it may do is in the file that ``--config`` names."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from mrelease import TLS
from mrelease._version import VERSION


@dataclass(frozen=True, slots=True)
class Options:
    """What was said. ``lease``: namespace and name; None: this controller is alone."""

    config: str
    kubeconfig: str
    context: str
    agents: tuple[str, str]
    tls: TLS
    lease: tuple[str, str] | None
    identity: str
    http_listen: str
    log_format: str
    log_level: str
    check: bool


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line. Ends the process with status 2 and a message where it cannot be used."""
    parser = argparse.ArgumentParser(
        prog="mrelease-controller",
        description="Releases what terminates in a cluster and keeps its memory. It never kills unless the configuration says so.",
        epilog="docs/controller.md describes the configuration.",
    )
    parser.add_argument("--config", metavar="FILE", required=True, help="what it may do, YAML")
    parser.add_argument("--check-config", action="store_true", help="read the configuration, and end with 0 or 2")
    parser.add_argument("--kubeconfig", metavar="FILE", default="", help="the cluster; by default as kubectl, else that of this pod")
    parser.add_argument("--context", default="", help="of the kubeconfig")
    parser.add_argument(
        "--agents", metavar="NAMESPACE/SERVICE", default="mrelease/mrelease", help="the Service of the agents (%(default)s)"
    )
    tls = parser.add_argument_group("what agents are shown")
    tls.add_argument("--tls-ca", metavar="FILE", default="/etc/mrelease/tls/ca.crt")
    tls.add_argument("--tls-cert", metavar="FILE", default="/etc/mrelease/tls/tls.crt")
    tls.add_argument("--tls-key", metavar="FILE", default="/etc/mrelease/tls/tls.key")
    tls.add_argument("--tls-server-name", metavar="NAME", default="", help="of the agents' certificates (SERVICE.NAMESPACE.svc)")
    parser.add_argument(
        "--lease", metavar="NAMESPACE/NAME", default="", help="of leader election (that of --agents, SERVICE-controller); none: alone"
    )
    parser.add_argument("--identity", default=os.environ.get("POD_NAME", ""), help="in the lease (host name and pid)")
    parser.add_argument("--http-listen", metavar="ADDRESS:PORT", default="127.0.0.1:9465", help="/metrics, /healthz, /readyz (%(default)s)")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    found = parser.parse_args(arguments)
    namespace, service = _pair(parser, "--agents", found.agents)
    lease = None if found.lease == "none" else _pair(parser, "--lease", found.lease or f"{namespace}/{service}-controller")
    return Options(
        config=found.config,
        kubeconfig=found.kubeconfig,
        context=found.context,
        agents=(namespace, service),
        tls=TLS(found.tls_ca, found.tls_cert, found.tls_key, found.tls_server_name or f"{service}.{namespace}.svc"),
        lease=lease,
        identity=found.identity or f"{socket.gethostname()}-{os.getpid()}",
        http_listen=found.http_listen,
        log_format=found.log_format,
        log_level=found.log_level,
        check=found.check_config,
    )


def _pair(parser: argparse.ArgumentParser, option: str, text: str) -> tuple[str, str]:
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        parser.error(f"{option} is {text!r}: write NAMESPACE/NAME")
    return namespace, name
