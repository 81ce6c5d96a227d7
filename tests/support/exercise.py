"""Everything that an agent does, once: for tests that confine one and for the list of system calls that it makes."""

from __future__ import annotations

import os
import re
import urllib.request
from pathlib import Path

from mrelease import Boost, Client, Feature, Outcome, Process
from support import lab, raw
from support.agent import Agent
from support.certified import Certified

SIZE = 16 * lab.MIB
#: Flags with which an agent has all its parts.
FLAGS = ("--http-listen", "127.0.0.1:0", "--reaper-nice", "-5", "--reaper-cpus", "0", "--reaper-class", "other", "--reflection")


def exercise(agent: Agent) -> None:
    """Kill with every boost that works, kill what shares and what is stuck, release, list, stream, scrape. Each must work."""
    with agent.client() as node:
        capabilities = node.get_node()
        rungs = {
            Boost.NONE: True,
            Boost.PRIORITY: capabilities.can(Feature.BOOST_PRIORITY),
            Boost.EVACUATION: capabilities.can(Feature.BOOST_EVACUATION),
            Boost.LIFT: capabilities.can(Feature.BOOST_LIFT),
        }
        for boost, works in rungs.items():
            if works:
                _kill(node, boost)
        with lab.clone_vm_sharer(SIZE) as shared:
            (result,) = node.kill_and_release(Process(shared.pid), timeout=0.3).processes
            assert result.outcome is Outcome.SHARED_MM
        with lab.held_at_exit(SIZE) as dead:
            assert node.release(Process(dead.pid)).is_released
        with lab.live(SIZE) as polite:
            assert node.kill_and_release(Process(polite.pid), grace_period=0.05, request_id=f"exercise-{polite.pid}").is_released
        assert node.list_processes(limit=None)
        assert next(iter(node.watch_memory(interval=0.1))).memory.total_bytes > 0
    if found := re.search(r"serving HTTP listen=(\S+)", agent.log):
        for path in ("metrics", "healthz", "readyz"):
            with urllib.request.urlopen(f"http://{found[1]}/{path}") as answer:
                assert answer.status == 200


def exercise_tls(certified: Certified) -> None:
    """Call by TLS, and have the certificates read again."""
    with certified.caller("tester") as call:
        assert call(raw.GET_NODE, b"").code.name == "OK"
    os.utime(certified.folder / "agent.crt")


def _kill(node: Client, boost: Boost) -> None:
    with lab.live(SIZE, uid=lab.NOBODY if os.geteuid() == 0 else None) as victim, lab.hold_at_exit(victim):
        result = node.kill_and_release(Process(victim.pid), boost=boost)
        assert result.is_released, result
        assert lab.rss_anon(victim.pid) < SIZE * 0.01


def traced(folder: Path) -> list[str]:
    """What is put before an agent's command so that strace(1) writes its system calls to files named ``calls`` in ``folder``."""
    return ["strace", "--daemonize", "--follow-forks", "--output-separately", "--quiet=all", "--output", str(folder / "calls")]


def calls_in(folder: Path) -> set[str]:
    """Names of the system calls in what traced() wrote."""
    lines = (line for file in folder.glob("calls.*") for line in file.read_text(errors="replace").splitlines())
    return {match[1] for line in lines if (match := re.match(r"(\w+)\(", line))}
