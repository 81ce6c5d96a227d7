"""A systemd unit, and its sandbox without systemd: the same capabilities, system calls and mounts, as far as a test can make them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from support import lab
from support.privileges import tool

ALLOWLIST = Path(__file__).with_name("allowlist.py")
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}
#: Its parts in the order in which systemd applies them; what holds the interpreter or the agent's directory is left where it is.
_MOUNTS = """
mkdir_bind() { mkdir -p "$1"; mount --bind "$2" "$1"; }
mount -t tmpfs tmpfs /run
mkdir_bind /run/mrelease "$RUN"
for private in /tmp /var/tmp /home /root; do
  keep=; for used in $KEEP; do case "$used/" in "$private"/*) keep=yes;; esac; done
  [ -n "$keep" ] || mount -t tmpfs tmpfs "$private"
done
[ -d "$RUN" ] || mkdir -p "$RUN"
mkdir -p /run/dev
mount -t tmpfs tmpfs /run/dev
for node in null zero full random urandom tty; do touch /run/dev/$node; mount --bind /dev/$node /run/dev/$node; done
mkdir /run/dev/shm; mount -t tmpfs tmpfs /run/dev/shm
mount --bind /proc/sys /proc/sys
mount --rbind /run/dev /dev
mount --bind /run/mrelease "$RUN"
mount -o remount,bind,ro /proc/sys
[ -w /sys ] && mount -o remount,bind,ro /sys || true
mount -o remount,bind,ro /
exec "$@"
"""


class Unit:
    """The [Service] section of a unit: values of each directive, in order."""

    def __init__(self, path: Path) -> None:
        self.directives: dict[str, list[str]] = {}
        section = ""
        for line in path.read_text().splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            elif section == "Service" and "=" in line and not line.startswith("#"):
                name, _, value = line.partition("=")
                self.directives.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> str:
        (value,) = self.directives[name]
        return value

    def is_on(self, name: str) -> bool:
        """Whether a boolean directive is yes."""
        return self.directives.get(name, ["no"])[-1] == "yes"

    @property
    def capabilities(self) -> list[str]:
        """Names as setpriv(1) has them."""
        return [name.removeprefix("CAP_").lower() for name in self["CapabilityBoundingSet"].split()]

    def calls(self) -> set[str]:
        """What SystemCallFilter= allows, with systemd's groups resolved. Raises Unavailable without systemd-analyze."""
        allowed = {"execve", *_group("@default")}  # systemd adds these to every allow list
        for value in self.directives["SystemCallFilter"]:
            names = {call for name in value.removeprefix("~").split() for call in _resolve(name)}
            allowed = allowed - names if value.startswith("~") else allowed | names
        return allowed

    def prefix(self, run: Path, calls: Path) -> list[str]:
        """What is put before the agent's command. ``run``: the agent's directory; ``calls``: a file to write the allow list to."""
        assert self.is_on("NoNewPrivileges")
        assert self["ProtectSystem"] == "strict"
        calls.write_text("\n".join(sorted(self.calls())))
        keep = " ".join({sys.prefix, sys.base_prefix, str(Path(__file__).resolve().parents[2]), str(calls)})
        bounding = ",".join(["-all", *(f"+{name}" for name in self.capabilities)])
        families = ",".join(str(FAMILIES[name]) for name in self["RestrictAddressFamilies"].split())
        restricted = ["--families", families]
        restricted += ["--no-namespaces"] if self.is_on("RestrictNamespaces") else []
        restricted += ["--no-wx"] if self.is_on("MemoryDenyWriteExecute") else []
        return [
            *(tool("unshare"), "--mount", "--propagation", "private", "env", f"RUN={run}", f"KEEP={keep}", "sh", "-ec", _MOUNTS, "-"),
            *(tool("setpriv"), "--bounding-set", bounding, "--inh-caps", bounding, "--no-new-privs"),
            *(sys.executable, "-E", "-s", "-S", str(ALLOWLIST), "--calls", str(calls), *restricted, "--"),
        ]

    def before_start(self) -> list[str]:
        """The command of ExecStartPre=, which is not sandboxed."""
        command = self["ExecStartPre"]
        assert command.startswith("+")
        return shlex.split(command[1:])


def _resolve(name: str) -> set[str]:
    return _group(name) if name.startswith("@") else {name}


def _group(name: str) -> set[str]:
    done = subprocess.run([tool("systemd-analyze"), "syscall-filter", name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise lab.Unavailable(f"systemd-analyze does not know {name}: {done.stderr}")
    names = re.findall(r"^ +([@\w-]+)$", done.stdout, re.MULTILINE)
    return {call for member in names for call in _resolve(member)}
