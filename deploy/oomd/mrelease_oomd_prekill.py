#!/usr/bin/env python3
"""A prekill hook of systemd-oomd (260 or newer): what it kills gives its memory back, also where SIGKILL alone does not do that.

systemd-oomd calls io.systemd.oom.Prekill.Notify(cgroup) of every socket in /run/systemd/oomd.prekill.hook before it kills a cgroup, and
waits for the answers, at most PrekillHookTimeoutSec= (oomd.conf(5); 0, the default, is: no hook is called).

By default the hook answers at once, waits until systemd-oomd has killed, and has the agent release what is dying: it kills nothing itself,
and the unit ends with the result oom-kill as before. With --kill it has the agent kill the cgroup and answers when its memory is back:
the agent can give starved victims CPU time before the kill, which it cannot do for most after it; systemd then sees a process that was
killed by a signal, not by oomd.

It speaks Varlink, needs mrelease and nothing else, and logs to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final, cast

from mrelease import Cgroup, Client, Outcome, ReleaseResult
from mrelease import __version__ as VERSION  # noqa: N812 -- a constant
from mrelease.errors import AgentError, NotDying, WrongTarget

NOTIFY: Final = "io.systemd.oom.Prekill.Notify"
PRODUCT: Final = {"vendor": "mrelease", "product": "mrelease-oomd-prekill", "version": VERSION, "url": ""}
INTERFACES: Final = {
    "org.varlink.service": "interface org.varlink.service\n"
    "method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)\n"
    "method GetInterfaceDescription(interface: string) -> (description: string)\n"
    "error InterfaceNotFound (interface: string)\n"
    "error MethodNotFound (method: string)\n"
    "error InvalidParameter (parameter: string)\n",
    "io.systemd.oom.Prekill": "interface io.systemd.oom.Prekill\nmethod Notify(cgroup: string) -> ()\n",
}
_SERVICE: Final = "org.varlink.service"
_LONGEST: Final = 1 << 16
_LONGEST_PATH: Final = 4096
#: Seconds that a caller has for its message.
_PATIENCE: Final = 10.0
#: Pause between two looks whether systemd-oomd has killed.
_PAUSE: Final = 0.01
#: The first descriptor that systemd passes, sd_listen_fds(3).
_LISTEN_FD: Final = 3


class Refused(Exception):  # noqa: N818 -- what Varlink calls an error
    """The answer is an error: its name and parameters."""

    def __init__(self, name: str, **parameters: str) -> None:
        super().__init__(name)
        self.name = name
        self.parameters = parameters


class Hook:
    """What is done for a cgroup. ``agent``: its address, None: as the command line of mrelease finds it; ``seconds``: at most so long."""

    def __init__(self, agent: str | None, seconds: float, *, kill: bool) -> None:
        self._client = Client(agent, timeout=seconds)
        self._seconds, self._kill = seconds, kill

    def before(self, path: str) -> None:
        """What comes before the answer to systemd-oomd."""
        if self._kill:
            try:
                self._log(path, self._client.kill_and_release(Cgroup(path), timeout=self._seconds, reason="systemd-oomd"))
            except AgentError as error:
                say(f"{path}: left to systemd-oomd: {error}")

    def after(self, path: str) -> None:
        """What comes after it: systemd-oomd kills now."""
        if self._kill:
            return
        end = time.monotonic() + self._seconds
        while (left := end - time.monotonic()) > 0:
            try:
                result = self._client.release(Cgroup(path), timeout=left, reason="systemd-oomd")
            except NotDying:
                time.sleep(_PAUSE)  # not killed yet: nothing announces it
                continue
            except WrongTarget:
                say(f"{path}: it is empty, so its memory is back")
                return
            except AgentError as error:
                say(f"{path}: {error}")
                return
            if not any(process.outcome is Outcome.NOT_DYING for process in result.processes):
                self._log(path, result)
                return
            time.sleep(_PAUSE)
        say(f"{path}: systemd-oomd has not killed all of it within {self._seconds:g} s")

    def _log(self, path: str, result: ReleaseResult) -> None:
        say(f"{path}: {result.verdict.name}, {result.released_bytes >> 20} MiB of {len(result.processes)} processes")


def answer(hook: Hook, method: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the answer. Raises Refused."""
    if method == NOTIFY:
        hook.before(cgroup_of(parameters))
        return {}
    if method == f"{_SERVICE}.GetInfo":
        return {**PRODUCT, "interfaces": sorted(INTERFACES)}
    if method == f"{_SERVICE}.GetInterfaceDescription":
        interface = parameters.get("interface")
        if not isinstance(interface, str) or interface not in INTERFACES:
            raise Refused(f"{_SERVICE}.InterfaceNotFound", interface=str(interface)[:200])
        return {"description": INTERFACES[interface]}
    raise Refused(f"{_SERVICE}.MethodNotFound", method=method[:200])


def cgroup_of(parameters: Mapping[str, Any]) -> str:
    """The cgroup of a notification, as systemd-oomd writes it: from the top of the hierarchy. Raises Refused."""
    given = parameters.get("cgroup")
    path = given if isinstance(given, str) and len(given) <= _LONGEST_PATH and given.isprintable() else ""
    # The top, and what climbs to it, is everything.
    if not path.startswith("/") or ".." in PurePosixPath(path).parts or not path.strip("/."):
        raise Refused(f"{_SERVICE}.InvalidParameter", parameter="cgroup")
    return str(PurePosixPath("/" + path.strip("/")))


def serve(connection: socket.socket, hook: Hook, trusted: frozenset[int]) -> None:
    """All calls of one connection."""
    with connection:
        uid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[1]
        if uid not in trusted:
            say(f"user {uid} was refused: it is neither root nor systemd-oom")
            return
        connection.settimeout(_PATIENCE)
        pending = b""
        # Whoever goes away, or takes too long, has no answer to expect.
        with contextlib.suppress(OSError):
            while more := connection.recv(_LONGEST):
                *messages, pending = (pending + more).split(b"\0")
                if len(pending) > _LONGEST or not all(respond(connection, hook, message) for message in messages):
                    return


def respond(connection: socket.socket, hook: Hook, message: bytes) -> bool:
    """Answer one call; False: it was none, and the connection ends."""
    try:
        call: object = json.loads(message)
    except (ValueError, RecursionError):
        return False
    fields = cast("dict[str, Any]", call) if isinstance(call, dict) else {}
    method, parameters = fields.get("method"), fields.get("parameters", {})
    if not isinstance(method, str) or not isinstance(parameters, dict):
        return False
    given = cast("dict[str, Any]", parameters)
    try:
        reply: dict[str, Any] = {"parameters": answer(hook, method, given)}
    except Refused as error:
        reply = {"error": error.name, "parameters": error.parameters}
    if not fields.get("oneway"):
        connection.sendall(json.dumps(reply).encode() + b"\0")
    if method == NOTIFY and "error" not in reply:
        hook.after(cgroup_of(given))
    return True


def listening(path: Path | None) -> socket.socket:
    """The socket that systemd passes, or one at ``path``."""
    if path is None:
        if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
            sys.exit("no socket: name one with --socket, or start mrelease-oomd-prekill.socket")
        return socket.socket(fileno=_LISTEN_FD)
    path.unlink(missing_ok=True)
    os.umask(0o077)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    return listener


def trusted_users() -> frozenset[int]:
    """Root, whoever runs this, and the user of systemd-oomd where there is one."""
    users = {0, os.geteuid()}
    with contextlib.suppress(KeyError):
        users.add(pwd.getpwnam("systemd-oom").pw_uid)
    return frozenset(users)


def say(text: str) -> None:
    """To the journal."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", type=Path, help="where to listen; without it the socket that systemd passes")
    parser.add_argument("--agent", help="address of the agent; without it as the command mrelease finds it")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for one cgroup (10)")
    parser.add_argument("--kill", action="store_true", help="kill it before systemd-oomd does, and answer when the memory is back")
    asked = parser.parse_args()
    hook, trusted = Hook(asked.agent, asked.timeout, kill=asked.kill), trusted_users()
    with listening(asked.socket) as listener:
        say("ready")
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, hook, trusted), daemon=True).start()


if __name__ == "__main__":
    main()
