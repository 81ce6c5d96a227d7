"""Robust mutexes of a victim: whoever waits for one gets it (EOWNERDEAD). Reaped at once, the kernel cannot find them (DESIGN §2.4)."""

from __future__ import annotations

import mmap
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mrelease import Boost, Client, Process
from mrelease_agent.linux.robust import holds_robust_mutex
from support import lab, scrape
from support.agent import running_agent
from support.lab import MIB

ROUNDS = 500
SIZE = 4 * MIB

pytestmark = pytest.mark.usefixtures("process_mrelease")


def test_no_waiter_hangs_with_the_default_reap_delay(node: Client) -> None:
    with lab.robust_mutex() as mutex:
        for number in range(ROUNDS):
            assert node.kill_and_release(Process(mutex.hold(SIZE))).is_released
            assert mutex.outcome() == lab.OWNER_DIED, f"round {number} of {ROUNDS}"


def test_waiters_hang_where_the_victim_is_reaped_at_once(node: Client) -> None:
    """What the delay is for: without it some waiter sleeps for ever. Not boosted, eight threads need a while to get to their end."""

    def round_hangs() -> bool:
        victim = Process(mutex.hold(MIB, threads=8))
        assert node.kill_and_release(victim, reap_delay=0, boost=Boost.NONE).is_released
        return mutex.outcome() == lab.HUNG

    with lab.robust_mutex() as mutex:
        assert any(round_hangs() for _ in range(ROUNDS))


def test_who_holds_one_is_spared_until_it_has_been_given_away(run_dir: Path) -> None:
    """Frozen, the victim cannot come to its end within the delay. Who waits for its mutex may live on: so it is reaped after that."""
    with (
        running_agent(run_dir, *scrape.FLAGS) as agent,
        agent.client() as node,
        lab.robust_mutex() as mutex,
        lab.cgroup("freezer") as freezer,
        ThreadPoolExecutor(1) as pool,
    ):
        victim = mutex.hold(SIZE)
        freezer.add(victim)
        freezer.write("freezer.state", "FROZEN")
        try:
            lab.until(lambda: freezer.read("freezer.state").strip() == "FROZEN", "the victim is frozen")
            flying = pool.submit(node.kill_and_release, Process(victim), timeout=60, boost=Boost.NONE)
            lab.until(lambda: scrape.metric(agent, "mrelease_reaper_cpu_seconds_total") > 0, "a reaper has looked at it")
        finally:
            freezer.write("freezer.state", "THAWED")
        assert flying.result(60).is_released
        assert mutex.outcome() == lab.OWNER_DIED


#: argv: flags of mmap(2). Its one thread's list says that it holds something.
_LIST = """
import ctypes, mmap, signal, sys
memory = mmap.mmap(-1, 4096, int(sys.argv[1]))
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
ctypes.c_uint64.from_address(address).value = address + 64
assert ctypes.CDLL(None).syscall(SET_ROBUST_LIST, ctypes.c_void_p(address), ctypes.c_size_t(24)) == 0
print(flush=True)
signal.pause()
""".replace("SET_ROBUST_LIST", "273" if platform.machine() == "x86_64" else "99")


@pytest.mark.parametrize(("flags", "seen"), [(mmap.MAP_PRIVATE, True), (mmap.MAP_SHARED, False)], ids=["private", "shared"])
def test_a_list_in_memory_that_others_provide_is_not_read(flags: int, seen: bool) -> None:
    """A victim could put it where reading waits for a file system or for userfaultfd(2), and so hold the agent's thread."""
    with subprocess.Popen([sys.executable, "-S", "-E", "-c", _LIST, str(flags | mmap.MAP_ANONYMOUS)], stdout=subprocess.PIPE) as victim:
        try:
            assert victim.stdout is not None
            victim.stdout.readline()
            proc = os.open(f"/proc/{victim.pid}", os.O_PATH | os.O_DIRECTORY)
            assert holds_robust_mutex(proc) is seen
            os.close(proc)
        finally:
            victim.kill()
