"""Throw-away root file systems of Debian and Ubuntu: `with debian_root("trixie", include=["python3"]) as root: root.run("id")`.

A base is made once by mmdebstrap, kept in ~/.cache/mrelease-debian, and each test works on a layer above it that goes away. Commands run
in a process, mount and IPC namespace of their own: what they leave running ends with them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.lab import Unavailable, need_root

_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mrelease-debian"
_KEYRINGS = Path("/usr/share/keyrings")
#: Suites whose archive is Ubuntu's: apt of a Debian machine knows no mirror of them, mmdebstrap does, and Debian ships their keys.
_UBUNTU = ("jammy", "noble", "resolute")
_UBUNTU_KEYS = "usr/share/keyrings/ubuntu-archive-keyring.gpg"
#: Raise it when the way in which bases are made changes.
_RECIPE = "1"

#: Mounts what programs expect around the new root, and becomes the program: "$1" is the root.
_ENTER = """
set -e
mount -t proc proc "$1/proc"
mount --rbind /sys "$1/sys"
mount --rbind /dev "$1/dev"
exec chroot "$@"
"""
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}


@dataclass(frozen=True, slots=True)
class Root:
    """A root file system that is the test's own: write below `path`, run commands in it."""

    path: Path
    suite: str

    def popen(
        self,
        *command: str,
        env: Mapping[str, str] | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = subprocess.STDOUT,
    ) -> subprocess.Popen[str]:
        """Starts a command with the machine's network and /sys, but processes and mounts of its own, which end when it is killed."""
        inside = ["sh", "-c", _ENTER, "enter", str(self.path), *command]
        unshare = ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child=KILL", "--propagation", "private", "--"]
        return subprocess.Popen(
            [*unshare, *inside], env={**_ENVIRONMENT, **(env or {})}, stdin=stdin, stdout=stdout, stderr=stderr, text=True, errors="replace"
        )

    def run(
        self, *command: str, env: Mapping[str, str] | None = None, check: bool = True, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end. Returns its status and, as `stdout`, both its outputs; fails with them where check is wanted."""
        with self.popen(*command, env=env) as process:
            try:
                output, _ = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode:
            raise AssertionError(f"{' '.join(command)} in {self.suite} ended with {process.returncode}:\n{output}")
        return subprocess.CompletedProcess(command, process.returncode, output)

    def shell(self, script: str, *arguments: str, env: Mapping[str, str] | None = None, check: bool = True) -> str:
        """Runs a script with sh -e; returns what it printed. Its arguments are $1 and so on."""
        return self.run("sh", "-ec", script, "sh", *arguments, env=env, check=check).stdout


@contextmanager
def debian_root(suite: str, include: Iterable[str] = ()) -> Generator[Root, None, None]:
    """A fresh root of a suite with the packages of mmdebstrap's minbase (no Python) and those in include.

    Everything written to it goes away. Packages can be installed in it with apt-get, from the mirror that this machine's apt knows.

    Raises:
        Unavailable: this process is not root, or mmdebstrap is not installed; pytest reports a skip.
    """
    need_root("a root file system of another Debian")
    base = _base(suite, tuple(sorted(include)))
    folder = Path(tempfile.mkdtemp(prefix=f"mrelease-{suite}-", dir=_CACHE))
    path = folder / "root"
    path.mkdir()
    mounted = _layer(base, folder, path)
    try:
        # What the machine resolves names with now, not when the base was made.
        (path / "etc/resolv.conf").unlink(missing_ok=True)
        shutil.copy("/etc/resolv.conf", path / "etc/resolv.conf")
        yield Root(path, suite)
    finally:
        if mounted:
            subprocess.run(["umount", str(path)], check=True)
        shutil.rmtree(folder)


def _layer(base: Path, folder: Path, path: Path) -> bool:
    """Puts the base at path, below a layer in folder, or a copy where the file system carries no layers. Returns whether it is mounted."""
    for name in ("upper", "work"):
        (folder / name).mkdir()
    options = f"lowerdir={base},upperdir={folder / 'upper'},workdir={folder / 'work'}"
    if subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(path)], capture_output=True, check=False).returncode == 0:
        return True
    subprocess.run(["cp", "--archive", "--reflink=auto", f"{base}/.", str(path)], check=True)
    return False


def _base(suite: str, include: tuple[str, ...]) -> Path:
    """The folder of a base, made if it is not there; one test makes it, others wait."""
    named = hashlib.sha256("\n".join((_RECIPE, suite, *include)).encode()).hexdigest()[:12]
    base = _CACHE / f"{suite}-{named}"
    _CACHE.mkdir(parents=True, exist_ok=True)
    # A lock for each base: two suites may be made beside each other, and Ubuntu's needs Debian's.
    with (_CACHE / f"{base.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.is_dir():
            _make(suite, include, base)
    return base


def _make(suite: str, include: tuple[str, ...], base: Path) -> None:
    if not shutil.which("mmdebstrap"):
        raise Unavailable("a root file system of another Debian needs mmdebstrap: apt install mmdebstrap")
    unfinished = base.with_suffix(".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = ["mmdebstrap", "--mode=root", "--quiet", "--variant=minbase"]
    command += ["--include", ",".join(include)] if include else []
    if suite in _UBUNTU:
        with _ubuntu_keys() as keys:
            # universe: where Ubuntu has python3-venv of some releases.
            _mmdebstrap([*command, f"--keyring={keys}", "--components=main,universe", suite, str(unfinished)])
    else:
        _mmdebstrap([*command, suite, str(unfinished), *_mirror()])
    unfinished.rename(base)


def _mmdebstrap(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")


@contextmanager
def _ubuntu_keys() -> Generator[Path, None, None]:
    """The keys of Ubuntu's archive: this machine's, or those that a current Debian ships, whose own archive is signed with known keys."""
    here = Path("/") / _UBUNTU_KEYS
    if here.exists():
        yield here
        return
    with debian_root("trixie", include=["ubuntu-archive-keyring"]) as debian:
        yield debian.path / _UBUNTU_KEYS


def _mirror() -> list[str]:
    """The Debian mirror that this machine's apt knows, or nothing: mmdebstrap then takes Debian's own."""
    asked = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Origin: Debian"]
    known = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    main = [site for site in known if not site.rstrip("/").endswith("-security")]
    return main[:1]
