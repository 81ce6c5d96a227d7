"""``mrelease policy check``: an access policy of agents is checked, shown, and its decisions explained, without an agent."""

from __future__ import annotations

import pwd
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from mrelease import _text
from mrelease.cli import formats, output
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from mrelease_agent.guard.caller import Caller, Transport
    from mrelease_agent.guard.policy.decide import AccessPolicy
    from mrelease_agent.guard.policy.explain import Explanation

#: The methods of the contract; a test compares them with those that a policy may name.
METHODS = ("KillAndRelease", "Release", "Reclaim", "WatchRelease", "GetNode", "ListProcesses", "WatchMemory")
#: How a caller may be named, as the audit log does; without a colon it is the transport.
_NAMES = ("uri", "dns", "cn", "uid", "gid")
_TARGET = re.compile(r"process|container|pod|cgroup|custom:[a-z][a-z0-9-]{0,31}", re.ASCII)
_TRANSPORTS = ("unix", "mtls", "loopback", "local")


@click.group()
def policy() -> None:
    """Work with the access policy of agents."""


@policy.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--as",
    "names",
    multiple=True,
    metavar="CALLER",
    help="Explain what is decided for this caller: a URI, dns:NAME, cn:NAME, uid:N, gid:N, unix, mtls or loopback. "
    "Repeat it for what one caller has together.",
)
@click.option("--method", type=click.Choice(METHODS), help="What it would call.")
@click.option("--target", metavar="KIND", help="How it would name the target: process, container, pod, cgroup, or custom:slurm.")
@click.option("--namespace", metavar="NAMESPACE", help="Kubernetes namespace of the target.")
@click.option("--cgroup", metavar="PATH", help="Cgroup of the target's processes.")
@click.option("--user", metavar="USER", help="User of the target's processes: a number, or a name that this machine knows.")
@click.option("-o", "--output", "form", type=click.Choice(["table", "json", "yaml"]), help="How to print it. Default: table.")
@pass_settings
def check(
    settings: Settings,
    file: Path,
    names: tuple[str, ...],
    method: str | None,
    target: str | None,
    namespace: str | None,
    cgroup: str | None,
    user: str | None,
    form: str | None,
) -> ExitCode:
    """Check an access policy, show its rules, and explain its decisions.

    Exit code 2 where the file is no policy; with --as 4 where the policy denies it. What is not said of the target may decide: then the
    answer is DEPENDS, with the conditions.
    """
    try:
        from mrelease_agent.config.values import ConfigError
        from mrelease_agent.config.watched import read
        from mrelease_agent.guard.policy import load
        from mrelease_agent.guard.policy.explain import Supposed, explain
    except ModuleNotFoundError as error:
        raise click.UsageError(f"policy check needs {error.name}: pip install 'mrelease[agent,cli]'") from None
    chosen = form or settings.output
    if not names and any((method, target, namespace, cgroup, user)):
        raise click.UsageError("who would call? add --as")
    if target and not _TARGET.fullmatch(target):
        raise click.UsageError(f"{_text.printable(target)} is no kind of target: use process, container, pod, cgroup, or custom:slurm")
    if names and method is None:
        raise click.UsageError("what would it call? add --method")
    unknown: list[str] = []

    def number(name: str) -> int:
        try:
            return load.node_user(name)
        except KeyError:
            unknown.append(name)
            return -1  # nobody's: the node may know him

    try:
        found = load.load(read(file), str(file), number)
    except ConfigError as error:
        if chosen == "table":
            output.err(f"mrelease: {_text.printable(str(error))}")
        else:
            output.out(formats.dump({"file": str(file), "valid": False, "error": str(error)}, chosen))
        return ExitCode.USAGE
    data: dict[str, Any] = {"file": str(file), "valid": True, "error": None, "rules": _rules(found), "unknown_users": unknown}
    explained = None
    if names and method is not None:
        supposed = Supposed(namespace, cgroup, None if user is None else _user(user))
        explained = explain(found, _caller(names), method, target or "", supposed)
        reasons = [{"rule": reason.rule, "says": reason.says, "because": reason.because} for reason in explained.reasons]
        data |= {"decision": explained.decision, "reasons": reasons}
    if chosen != "table":
        output.out(formats.dump(data, chosen))
    else:
        _show(data, explained)
    return ExitCode.REFUSED if explained is not None and explained.decision == "DENIED" else ExitCode.OK


def _show(data: dict[str, Any], explained: Explanation | None) -> None:
    for name in data["unknown_users"]:
        output.err(f"mrelease: this machine has no user {_text.printable(name)}; an agent on such a node refuses the policy")
    if explained is None:
        rules: list[dict[str, Any]] = data["rules"]
        output.out(f"{data['file']} is valid: {len(rules)} rule{'s' * (len(rules) != 1)}; what none of them allows is denied")
        cells = [
            [
                rule["name"],
                " | ".join(rule["callers"]),
                ", ".join(rule["methods"]),
                _targets(rule),
                rule["limits"]["text"] if rule["limits"] else "-",
            ]
            for rule in rules
        ]
        if cells:
            output.out(*output.columns([["RULE", "CALLERS", "METHODS", "TARGETS", "LIMITS"], *cells]))
        return
    rows = [[reason.rule, reason.says, reason.because] for reason in explained.reasons]
    if rows:
        output.out(*output.columns([["RULE", "SAYS", "BECAUSE"], *rows]))
    output.out(explained.decision)


def _rules(found: AccessPolicy) -> list[dict[str, Any]]:
    from mrelease_agent.guard.policy.explain import limit_text

    return [
        {
            "name": rule.name,
            "callers": [test.text for test in rule.callers],
            "methods": ["*"] if rule.methods is None else sorted(rule.methods),
            "kinds": None if rule.kinds is None else sorted(rule.kinds),
            "conditions": {condition.key: list(condition.values) for condition in rule.conditions},
            "limits": None
            if (limit := rule.limit) is None
            else {"max_kills": limit.max_kills, "max_bytes": limit.max_bytes, "window": f"{limit.window:g}s", "text": limit_text(limit)},
        }
        for rule in found.rules
    ]


def _targets(rule: dict[str, Any]) -> str:
    kinds: list[str] = rule["kinds"] or []
    conditions: dict[str, list[str]] = rule["conditions"]
    parts = [f"kinds: {', '.join(kinds)}"] if kinds else []
    return "; ".join([*parts, *(f"{key}: {', '.join(values)}" for key, values in conditions.items())]) or "any"


def _caller(names: tuple[str, ...]) -> Caller:
    from mrelease_agent.guard.caller import Caller

    found: dict[str, list[str]] = {name: [] for name in (*_NAMES, "transport")}
    for text in names:
        kind, colon, rest = text.partition(":")
        if text in _TRANSPORTS:
            found["transport"].append(text)
        elif kind in _NAMES and colon and rest:
            found[kind].append(rest)
        elif "://" in text:
            found["uri"].append(text)
        else:
            raise click.UsageError(f"{text!r} names no caller: write a URI, dns:NAME, cn:NAME, uid:N, gid:N, unix, mtls or loopback")
    transports = {
        *found["transport"],
        *(["mtls"] if found["uri"] or found["dns"] or found["cn"] else []),
        *(["unix"] if found["uid"] or found["gid"] else []),
    }
    if len(transports) > 1 or any(len(found[name]) > 1 for name in ("cn", "uid", "gid")):
        raise click.UsageError(
            "no caller is all of that: one has a certificate (URI, dns:, cn:), or a user of the Unix socket (uid:, gid:)"
        )
    uid, gid = (_number(found[name]) for name in ("uid", "gid"))
    transport = cast("Transport", transports.pop())
    return Caller(transport, uid=uid, gid=gid, uris=tuple(found["uri"]), dns=tuple(found["dns"]), common_name="".join(found["cn"]))


def _number(texts: list[str]) -> int | None:
    if not texts:
        return None
    if not (texts[0].isascii() and texts[0].isdecimal()):
        raise click.UsageError(f"{texts[0]!r} is no number: write uid:1000 or gid:1000")
    return int(texts[0])


def _user(text: str) -> int:
    if text.isascii() and text.isdecimal():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise click.UsageError(f"this machine has no user {text!r}: give the number") from None
