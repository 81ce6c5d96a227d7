"""What a reader must know of the machine to judge the numbers."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

from mrelease._version import VERSION
from mrelease.demo.budget import meminfo


def describe(*more: str) -> dict[str, str]:
    """Machine and versions, for people; ``more`` are versions of contenders."""
    return {
        "CPU": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} CPUs",
        "memory": f"{meminfo('MemTotal') / (1 << 30):.1f} GiB, swap {meminfo('SwapTotal') / (1 << 30):.1f} GiB",
        "kernel": f"Linux {platform.release()} {platform.machine()}",
        "user": "root" if os.geteuid() == 0 else "not root",
        "load before": f"{os.getloadavg()[0]:.2f} (1 minute)",
        **_commit(),
        "versions": f"mrelease {VERSION}, Python {platform.python_version()}, grpcio {version('grpcio')}, "
        f"protobuf {version('protobuf')}, {', '.join([_compiler(), *more])}",
    }


def _commit() -> dict[str, str]:
    """The commit that is measured, and whether what runs differs from it; nothing outside of a clone."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD") if shutil.which("git") else ""
    if not commit:
        return {}
    changed = git("status", "--porcelain", "--", ":/server", ":/client", ":/proto")
    return {"commit": f"{commit}, with changes that were not committed" if changed else commit}


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def _compiler() -> str:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return "no C compiler"
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def version_of(program: str) -> str:
    """The first line of ``PROGRAM --version``; empty where it is not installed."""
    if shutil.which(program) is None:
        return ""
    return (subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.splitlines() or [""])[0]
