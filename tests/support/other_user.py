"""Callers that are other users: a process that becomes one connects to the agent for the test, which talks through it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from support import lab

#: Becomes the user when all that only root can read is imported; each connection to its socket is one of its own to the agent.
_PROGRAM = """
import asyncio, concurrent.futures.thread, os, socket, sys
here, agent, uid, gid, *groups = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(here)
listener.listen(4096)
os.setgroups([int(group) for group in groups])
os.setresgid(int(gid), int(gid), int(gid))
os.setresuid(int(uid), int(uid), int(uid))

async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()

async def serve(reader, writer):
    try:
        from_agent, to_agent = await asyncio.open_unix_connection(agent)
    except OSError as error:
        print(error.errno, flush=True)
        writer.close()
        return
    await asyncio.gather(pump(reader, to_agent), pump(from_agent, writer))
    to_agent.close()
    writer.close()

async def main():
    server = await asyncio.start_unix_server(serve, sock=listener)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)

asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class OtherUser:
    """``address``: who connects to it is this user to the agent. ``pid``: of the process that does."""

    address: str
    uid: int
    gid: int
    pid: int
    _process: subprocess.Popen[str]

    def errno(self) -> int:
        """Waits until it could not connect to the agent, and says why not."""
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


@contextlib.contextmanager
def other_user(agent: str, uid: int, gid: int | None = None, groups: Sequence[int] = ()) -> Generator[OtherUser, None, None]:
    """``agent``: path of its socket. Raises Unavailable where the tests do not run as root."""
    if os.geteuid() != 0:
        raise lab.Unavailable("only root can be other users")
    gid = uid if gid is None else gid
    with tempfile.TemporaryDirectory(prefix="mrelease-", dir="/tmp") as folder:
        here = str(Path(folder) / "sock")
        command = [sys.executable, "-c", _PROGRAM, here, agent, str(uid), str(gid), *map(str, groups)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield OtherUser(f"unix://{here}", uid, gid, process.pid, process)
            process.kill()
