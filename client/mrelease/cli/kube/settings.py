"""Options that every command for clusters takes, before or after its name: kubectl's own by their names."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import click

from mrelease import TLS
from mrelease.cli import params
from mrelease.errors import InvalidTLS
from mrelease.resolvers.kubernetes import CALLER, Kubernetes

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_TLS = ("ca", "cert", "key")


@dataclass(slots=True)
class KubeSettings:
    """What the common options say."""

    kubeconfig: str = ""
    context: str = ""
    namespace: str = ""
    all_namespaces: bool = False
    as_user: str = ""
    as_groups: tuple[str, ...] = ()
    agents: str = ""
    caller: str = CALLER
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    direct: bool | None = None
    request_timeout: timedelta = timedelta(seconds=30)
    output: str = "table"

    @contextmanager
    def cluster(self) -> Generator[Kubernetes]:
        """The cluster, for as long as the block lasts. Raises ResolutionError, InvalidTLS."""
        kubernetes = Kubernetes(
            kubeconfig=self.kubeconfig,
            context=self.context,
            as_user=self.as_user,
            as_groups=self.as_groups,
            agents=self.agents,
            caller=self.caller,
            tls=self._tls(),
            tunnel=None if self.direct is None else not self.direct,
        )
        with kubernetes:
            yield kubernetes

    def end(self) -> float:
        """time.monotonic() by which the cluster has to have answered what is asked now."""
        return time.monotonic() + self.request_timeout.total_seconds()

    def where(self, kubernetes: Kubernetes) -> str:
        """The namespace that is meant; empty: all."""
        return "" if self.all_namespaces else self.namespace or kubernetes.namespace

    @property
    def is_table(self) -> bool:
        """Whether people read it."""
        return self.output in ("table", "wide")

    def _tls(self) -> TLS | None:
        given = [getattr(self, f"tls_{name}") for name in _TLS]
        if not any(given):
            return None
        if not all(given):
            raise InvalidTLS("give all of --tls-ca, --tls-cert and --tls-key, or none of them")
        # The agents' common name is the cluster's to say: reached by it, not by an address.
        return TLS(*given)


def _set(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    settings = ctx.ensure_object(KubeSettings)
    if value is None or value == ():
        return
    if value == "" and param.name != "agents":
        raise click.BadParameter("it is empty, as of a variable that is not set", param=param)
    setattr(settings, str(param.name), value)
    if settings.all_namespaces and settings.namespace:
        raise click.UsageError("give one of --namespace and --all-namespaces")


def _common(*names: str, **attributes: Any) -> Callable[[CommandT], CommandT]:
    return click.option(*names, callback=_set, expose_value=False, **attributes)


def common_options(command: CommandT) -> CommandT:
    """Add the common options to a command or the group."""
    options = (
        _common("-n", "--namespace", metavar="NAME", help="Namespace of the pods. Default: that of the context."),
        _common("-A", "--all-namespaces", is_flag=True, default=None, help="Pods of every namespace."),
        _common(
            "-o",
            "--output",
            type=click.Choice(["table", "wide", "json", "yaml"]),
            help="How to print results. Default: table.",
        ),
        _common("--context", metavar="NAME", help="Context of the kubeconfig. Default: its current one."),
        _common("--kubeconfig", metavar="FILE", help="Default: $KUBECONFIG, else ~/.kube/config, else the pod's service account."),
        _common("--as", "as_user", metavar="USER", help="Ask the API server as this user. The agents see --caller as ever."),
        _common("--as-group", "as_groups", metavar="GROUP", multiple=True, help="And as this group. Repeatable."),
        _common(
            "--request-timeout",
            type=params.duration,
            metavar="DURATION",
            help="How long the API server, and the way to an agent, may take. Default: 30s.",
        ),
        _common(
            "--agents",
            metavar="NAMESPACE",
            envvar="MRELEASE_KUBERNETES_AGENTS",
            help="Where the Helm chart is installed. Default: $MRELEASE_KUBERNETES_AGENTS, else mrelease, else wherever there is one.",
        ),
        _common(
            "--caller",
            metavar="NAME",
            envvar="MRELEASE_KUBERNETES_CALLER",
            help=f"Whose certificate to show the agents: Secret RELEASE-client-NAME. Default: $MRELEASE_KUBERNETES_CALLER, else {CALLER}.",
        ),
        *(
            _common(f"--tls-{name}", metavar="FILE", help=f"{text} instead of the Secret's.")
            for name, text in (("ca", "Authorities of the agents"), ("cert", "Certificate to show them"), ("key", "Its private key"))
        ),
        _common(
            "--direct/--tunnel",
            default=None,
            help="Reach agents at their pods' addresses, or through the API server. Default: tunnel, but from a pod of the cluster.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


pass_settings = click.make_pass_decorator(KubeSettings, ensure=True)
