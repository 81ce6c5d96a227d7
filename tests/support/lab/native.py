"""Victims in C, for what a Python process cannot do: compiled when they are needed."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

from .child import SCRIPTS
from .kernel import Unavailable


@contextlib.contextmanager
def compiled(source: str) -> Generator[Path]:
    """The program that a C file of `victims/` makes. Raises Unavailable where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Unavailable("no C compiler (cc, gcc, clang)")
    with tempfile.TemporaryDirectory(prefix="mrelease-lab-") as folder:
        program = Path(folder, source.removesuffix(".c"))
        subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", program, SCRIPTS / source], check=True)
        yield program
