"""An agent that counts what it does for one call: run as a program, it prints one line of JSON. See tests/rpc/test_costs.py.

Counted are calls of the agent's own functions (sys.setprofile, on every thread), files opened by name and folders listed (audit events),
and jobs handed to other threads. Not time, not what asyncio and gRPC do: so it is the same number on every machine and under every load.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

import mrelease_agent
from mrelease import AsyncClient, Boost, Process
from mrelease.v1 import target_pb2
from mrelease_agent.agent import serve
from mrelease_agent.boosting.booster import Booster
from mrelease_agent.config import load
from mrelease_agent.guard.protected import Protection
from mrelease_agent.linux import cgroup_tree
from mrelease_agent.linux.capabilities import probe
from mrelease_agent.rpc.group_target import GroupMembers
from mrelease_agent.targets.group import Group
from mrelease_agent.telemetry.logs import setup
from support import lab

_PACKAGE: Final = f"{Path(mrelease_agent.__file__).parent}{os.sep}"
#: Of so many calls the one that cost least counts: a timer of the agent may have fallen into another one.
_REPEATS: Final = 5
#: How work gets to another thread.
_HOPS: Final = frozenset({"to_thread", "call_soon_threadsafe"})

_counts: Counter[str] = Counter()
_counting = False


def _profile(frame: FrameType, event: str, _argument: object) -> None:
    if not _counting or event != "call":
        return
    code = frame.f_code
    if code.co_filename.startswith(_PACKAGE):
        _counts["calls"] += 1
    elif code.co_name in _HOPS and code.co_filename.endswith(("asyncio/threads.py", "asyncio/base_events.py")):
        _counts["hops"] += 1


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _counting and (event in ("os.listdir", "os.scandir") or (event == "open" and not isinstance(arguments[0], int))):
        _counts["opens"] += 1


async def counted(work: Callable[[], Awaitable[Any]]) -> dict[str, int]:
    """What one piece of work costs: the least of several, by name."""
    global _counting  # noqa: PLW0603 -- the hooks, which cannot be given anything, look at it
    found: list[dict[str, int]] = []
    for _ in range(_REPEATS):
        _counts.clear()
        _counting = True
        try:
            await work()
        finally:
            _counting = False
        found.append({name: _counts[name] for name in ("calls", "opens", "hops")})
    return {name: min(one[name] for one in found) for name in found[0]}


async def _run(folder: Path) -> dict[str, dict[str, int]]:
    flags = ["--listen", f"unix://{folder}/agent.sock", "--state-dir", str(folder), "--max-kills-per-target", "0", "--log-level", "error"]
    config = load(flags, {})
    setup(config.log_format, config.log_level)
    booster = Booster(folder)
    capabilities = probe(nice=config.nice).plus(booster.features())
    found: dict[str, dict[str, int]] = {}
    async with serve(config, capabilities, booster) as endpoint, AsyncClient(endpoint.listen) as node:

        async def kill() -> None:
            with contextlib.ExitStack() as stack:
                victim = stack.enter_context(lab.live(lab.MIB))
                # It exits by itself: whether it does so before it is reaped is no question of luck.
                result = await node.kill_and_release(Process(victim.pid), boost=Boost.NONE, reap_delay=1.0)
                assert result.is_released

        await node.get_node()
        await kill()
        found["GetNode"] = await counted(node.get_node)
        found["KillAndRelease"] = await counted(kill)
    for count in (8, 24):
        with contextlib.suppress(lab.Unavailable):
            found[f"group of {count}"] = await _group(count)
    return found


async def _group(count: int) -> dict[str, int]:
    """Open, judge and measure all processes of a cgroup. Raises lab.Unavailable.

    Not by a call of the agent: before it takes a cgroup it looks at every process of the node, and others start and end some meanwhile.
    """
    tree = cgroup_tree.tree("memory")
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(lab.memory_cgroup())
        for _ in range(count):
            stack.enter_context(lab.live(lab.MIB, within=[made]))
        assert tree is not None
        path = tree.top.rstrip("/") + "/" + str(made.path.relative_to(tree.mount.path))
        group, protection = stack.enter_context(Group(tree, path)), Protection()
        target = target_pb2.Target(cgroup=target_pb2.CgroupTarget(path=path))

        async def fresh() -> None:
            members = await GroupMembers([group], target, protection).fresh()
            assert len(members) == count
            for member in members:
                member.ref.close()

        return await counted(fresh)


def main(arguments: Sequence[str]) -> None:
    """Count in an empty directory of its own, of mode 0700."""
    sys.addaudithook(_audit)
    threading.setprofile(_profile)
    sys.setprofile(_profile)
    print(json.dumps(asyncio.run(_run(Path(arguments[0])))))


if __name__ == "__main__":
    main(sys.argv[1:])
