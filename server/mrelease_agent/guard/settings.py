"""Protection and breaker as the configuration has them."""

from __future__ import annotations

from collections.abc import Callable

from mrelease_agent.config import Config
from mrelease_agent.config.protected import user_ids
from mrelease_agent.config.values import parse_list
from mrelease_agent.guard.breaker import KillBreaker, Limits
from mrelease_agent.guard.protected import Additions, Protection
from mrelease_agent.guard.subject import PodNames


def protection(config: Config, pod_names: PodNames) -> Protection:
    """What is never killed."""
    additions = Additions(
        cgroups=parse_list(config.protected_cgroups),
        namespaces=frozenset(parse_list(config.protected_namespaces)),
        users=user_ids(config.protected_users),
        names=frozenset(parse_list(config.protected_names)),
        oom_score_adj=config.protected_oom_score_adj,
        sockets=parse_list(config.protected_sockets),
    )
    return Protection(additions, pod_names)


def breaker(config: Config, tell: Callable[[str], None]) -> KillBreaker:
    """How much is killed at most; ``tell`` is called with the name of the limit for each refusal."""
    limits = Limits(
        window=config.breaker_window,
        max_kills=config.max_kills,
        max_bytes=config.max_bytes,
        max_kills_per_caller=config.max_kills_per_caller,
        max_bytes_per_caller=config.max_bytes_per_caller,
        max_kills_per_target=config.max_kills_per_target,
    )
    return KillBreaker(limits, tell)
