"""Victims whose memory is of a special kind."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Generator, Iterable
from pathlib import Path

from .cgroups import Cgroup
from .child import MIB, Victim, holding
from .kernel import Unavailable, need_root
from .readers import PAGE, field_bytes, meminfo
from .sysctl import sysctl

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@contextlib.contextmanager
def thp(size: int = 16 * MIB, *, within: Iterable[Cgroup] = ()) -> Generator[Victim]:
    """A victim whose private memory is in transparent huge pages where the kernel has them at hand."""
    if not THP.exists() or "[never]" in THP.read_text():
        raise Unavailable("transparent huge pages are off")
    with holding(size, huge=True, within=within) as (_, victim, _facts):
        yield victim


@contextlib.contextmanager
def mlocked(size: int = 16 * MIB) -> Generator[Victim]:
    """A victim that has locked all its memory, present and future (mlockall(2)); Unavailable where RLIMIT_MEMLOCK is too small."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if os.geteuid() != 0 and limit != resource.RLIM_INFINITY and limit < size + 64 * MIB:
        raise Unavailable(f"RLIMIT_MEMLOCK is {limit} bytes, and only root is above it")
    with holding(size, mlock=True) as (_, victim, _facts):
        yield victim


@contextlib.contextmanager
def shmem(size: int = 16 * MIB, *, anon: int = 16 * MIB, within: Iterable[Cgroup] = ()) -> Generator[Victim]:
    """A victim with `anon` bytes of private and `size` bytes of shared anonymous memory; only the private is in `size_bytes`."""
    with holding(anon, shmem=size, within=within) as (_, victim, _facts):
        yield victim


@contextlib.contextmanager
def hugetlb(pages: int = 4, *, anon: int = 16 * MIB) -> Generator[Victim]:
    """A victim with `anon` bytes of ordinary memory and `pages` pages of hugetlbfs; only the ordinary is in `size_bytes`. Root only."""
    need_root("growing the pool of huge pages")
    path = Path("/proc/sys/vm/nr_hugepages")
    if not path.exists():
        raise Unavailable("the kernel has no hugetlbfs")
    wanted = int(path.read_text()) + pages
    with sysctl(path, str(wanted)) as now:
        if int(now) < wanted:
            raise Unavailable(f"the kernel found {now} of {wanted} huge pages")
        with holding(anon, hugetlb=pages * meminfo("Hugepagesize")) as (_, victim, _facts):
            assert field_bytes(victim.pid, "HugetlbPages") == pages * meminfo("Hugepagesize")
            yield victim


@contextlib.contextmanager
def many_vmas(count: int = 20_000, *, size: int = 0, within: Iterable[Cgroup] = ()) -> Generator[Victim]:
    """A victim with `count` mappings of one touched page each, and `size` bytes beside them."""
    limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    if count + 500 > limit:
        raise Unavailable(f"vm.max_map_count is {limit}")
    with holding(size, vmas=count, within=within) as (_, victim, _facts):
        yield Victim(victim.pid, size + count * PAGE, victim.pidfd)
