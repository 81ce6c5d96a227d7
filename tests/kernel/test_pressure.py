"""The kernel's trigger on a pressure file, watched by an event loop: facts of kernel/sched/psi.c that the agent builds on."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Generator
from contextlib import ExitStack, closing

import pytest

from mrelease_agent.linux import pressure
from mrelease_agent.linux.pressure import CGROUP_FILE, TRIGGER_FLAGS, Trigger
from support import lab

PATIENCE = 60.0


@pytest.fixture
def group() -> Generator[lab.Cgroup]:
    """A v2 cgroup, which has a pressure file with or without controllers."""
    with lab.cgroup() as made:
        if not (made.path / CGROUP_FILE).exists():
            raise lab.Unavailable("the kernel does not measure memory pressure (PSI)")
        yield made


def opened(group: lab.Cgroup) -> int:
    return os.open(group.path / CGROUP_FILE, TRIGGER_FLAGS)


async def test_a_trigger_of_a_cgroup_fires_for_its_own_stalls(group: lab.Cgroup) -> None:
    fired = asyncio.Event()
    with closing(Trigger(opened(group), "some", 0.01, 2.0, fired.set)), ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, lab.thrashing(within=[group]))
        await asyncio.wait_for(fired.wait(), PATIENCE)
    found = pressure.parse((group.path / CGROUP_FILE).read_bytes())
    assert found.some.total >= 0.01


async def test_a_cgroup_that_is_removed_is_told_once() -> None:
    """Its file is in error from then on: a loop that watched on would spin."""
    calls: asyncio.Queue[None] = asyncio.Queue()

    with ExitStack() as stack:
        with lab.cgroup() as made:
            if not (made.path / CGROUP_FILE).exists():
                raise lab.Unavailable("the kernel does not measure memory pressure (PSI)")
            stack.enter_context(closing(Trigger(opened(made), "some", 1.0, 2.0, lambda: calls.put_nowait(None))))
        await asyncio.wait_for(calls.get(), PATIENCE)
        for _ in range(100):
            await asyncio.sleep(0)
    assert calls.empty()


@pytest.mark.parametrize(
    ("window", "watched"), [(0.5, {0.5, 2.0}), (1.999999, {1.999999, 2.0}), (2.0, {2.0}), (9.0, {9.0, 10.0}), (10.0, {10.0})]
)
async def test_a_window_is_what_was_asked_for_or_the_next_multiple_of_two_seconds(
    group: lab.Cgroup, window: float, watched: set[float]
) -> None:
    for stall in (1e-9, window / 2, window):
        with closing(Trigger(opened(group), "full", stall, window, lambda: None)) as trigger:
            assert trigger.window in watched


async def test_what_the_kernel_refuses_is_an_error_that_leaves_nothing_open(group: lab.Cgroup) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Invalid argument") as caught:
        Trigger(opened(group), "some", 1.0, 10.1, lambda: None)
    assert caught.value.errno == errno.EINVAL
    assert len(os.listdir("/proc/self/fd")) == before


async def test_closing_twice_is_harmless(group: lab.Cgroup) -> None:
    before = len(os.listdir("/proc/self/fd"))
    trigger = Trigger(opened(group), "some", 1.0, 2.0, lambda: None)
    trigger.close()
    trigger.close()
    assert len(os.listdir("/proc/self/fd")) == before
