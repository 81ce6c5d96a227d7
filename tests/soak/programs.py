"""The soak's C programs, compiled."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from unittest import SkipTest


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of the compiled programs."""

    observer: Path
    victim: Path


def compile_programs(folder: Path) -> Programs:
    """Compile into ``folder``. Raises SkipTest where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SkipTest("no C compiler: on Debian and Ubuntu: apt install gcc libc6-dev")
    for name in ("observer", "victim"):
        source = Path(__file__).with_name(f"{name}.c")
        subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-pthread", "-o", str(folder / name), str(source)], check=True)
    return Programs(folder / "observer", folder / "victim")
