"""The file of an access policy: read, checked, watched."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from mrelease_agent.config.values import ConfigError
from mrelease_agent.config.watched import Watched
from mrelease_agent.guard.caller import Caller
from mrelease_agent.guard.policy.compiler import Compiler, Users
from mrelease_agent.guard.policy.decide import AccessPolicy, RuleGrant
from mrelease_agent.guard.policy.problems import undecodable
from mrelease_agent.guard.policy.strict_yaml import parse
from mrelease_agent.guard.policy.types import PolicyFile


def node_user(name: str) -> int:
    """User id of a user of this machine, getpwnam(3). Raises KeyError."""
    return pwd.getpwnam(name).pw_uid


def load(raw: bytes, file: str, users: Users = node_user) -> AccessPolicy:
    """Make a policy of what ``file`` contains; ``file`` is its name, for errors. Raises ConfigError."""
    document = parse(raw, file)
    try:
        policy = msgspec.convert(document.value, PolicyFile)
    except msgspec.ValidationError as error:
        raise undecodable(error, document, file) from None
    return AccessPolicy(list(Compiler(document, file, users).rules(policy)))


class WatchedPolicy:
    """The policy in a file, as it is now: taken again when the file changes, the last good one kept. See guard.gate.Policy.

    ``tell``: see Watched. Raises ConfigError where there is no good one to begin with.
    """

    def __init__(self, file: str, tell: Callable[[str, bool, str], None]) -> None:
        def make(contents: Sequence[bytes]) -> AccessPolicy:
            _check_private(file)
            return load(contents[0], file)

        #: To be polled, see Watched.poll(), on a thread: reading 300 rules takes 0.25 s.
        self.watched: Watched[AccessPolicy] = Watched("policy", [Path(file)], make, tell)

    def grant(self, caller: Caller, method: str, kind: str = "") -> RuleGrant | None:
        """See AccessPolicy.grant()."""
        return self.watched.value.grant(caller, method, kind)


def _check_private(file: str) -> None:
    """Raise ConfigError where others than root and the agent's user can change by what they are judged."""
    try:
        found = os.stat(file)  # noqa: PTH116 -- as everywhere in the agent: pathlib adds nothing but time
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}; name a file that the agent's user may read") from None
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{file} belongs to user {found.st_uid}, who could change it: chown it to root or to the agent's user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{file} can be changed by its group or by others: chmod go-w it")
