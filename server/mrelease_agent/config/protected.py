"""Keys that are lists of what is never killed: each word is checked, so that a slip does not leave unprotected what was meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from mrelease_agent.config.schema import Config
from mrelease_agent.config.values import ConfigError, parse_list, quote

#: A DNS label, as names of namespaces are (pkg/apis/core/validation).
_NAMESPACE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
#: TASK_COMM_LEN of linux/sched.h, without the byte that ends it.
_LONGEST_COMM: Final = 15


def check_protected(config: Config, source: Callable[[str], str]) -> None:
    """Raise ConfigError for a word that can be no such thing; ``source`` names where a key is from."""
    for key, problem in _PROBLEMS.items():
        for word in parse_list(getattr(config, key)):
            said = problem(word)
            if said:
                raise ConfigError(f"{source(key)}: {key} has {quote(word)}: {said}")


def user_ids(words: str) -> frozenset[int]:
    """User ids of a checked list of users."""
    return frozenset(map(_user, parse_list(words)))


def _cgroup(word: str) -> str:
    if not word.startswith("/") or (word != "/" and not {"", ".", ".."}.isdisjoint(word[1:].split("/"))):
        return "write the path of a cgroup as /proc/PID/cgroup shows it, such as /system.slice/sshd.service"
    return ""


def _namespace(word: str) -> str:
    return "" if _NAMESPACE.fullmatch(word) else "write the name of a namespace, such as kube-system"


def _user_problem(word: str) -> str:
    try:
        _user(word)
    except KeyError:
        return "this machine does not know this user: write the number (in a container the node's users have no names)"
    return ""


def _name(word: str) -> str:
    return (
        ""
        if len(word.encode()) <= _LONGEST_COMM
        else f"the kernel keeps {_LONGEST_COMM} bytes of a name: write it as `ps -o comm` shows it"
    )


def _socket(word: str) -> str:
    return "" if word.startswith("/") and len(word) > 1 else "write an absolute path, such as /run/containerd/containerd.sock"


def _user(word: str) -> int:
    if word.isascii() and word.isdecimal():
        return int(word)
    import pwd  # only where users have names

    return pwd.getpwnam(word).pw_uid


_PROBLEMS: Final[Mapping[str, Callable[[str], str]]] = {
    "protected_cgroups": _cgroup,
    "protected_namespaces": _namespace,
    "protected_users": _user_problem,
    "protected_names": _name,
    "protected_sockets": _socket,
}
