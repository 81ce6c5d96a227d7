"""Debian's kernels: downloaded by apt, installed nowhere, kept in a cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

#: Debian's suites, by the kernel that each one has.
SUITES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie", "7.3": "trixie-backports"}
#: What has to be there, and the Debian package that has it.
TOOLS = {"qemu-system-x86_64": "qemu-system-x86", "modprobe": "kmod", "cpio": "cpio", "busybox": "busybox-static", "xz": "xz-utils"}
#: Of the drivers, those that a test can use; the others are three quarters of a kernel's bytes.
_DRIVERS = ("block", "char", "virtio")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class MissingError(Exception):
    """This machine lacks something: the message says what and how to get it."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel: ``vmlinuz`` and ``lib/modules`` in ``folder``."""

    folder: Path
    release: str


def check_tools() -> None:
    """Raise MissingError unless everything is there."""
    missing = [package for tool, package in TOOLS.items() if not _found(tool)]
    if missing:
        raise MissingError(f"this needs: apt install {' '.join(missing)}")
    if os.geteuid():
        raise MissingError("this needs root: the machine reads all of this machine's files")


def _found(tool: str) -> bool:
    path = shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    # The initrd has no libraries: ldd(1) fails for a static program.
    return path is not None and (tool != "busybox" or subprocess.run(["ldd", path], capture_output=True, check=False).returncode != 0)


def kernel(name: str) -> Kernel:
    """Return the kernel called 5.10, 6.1, 6.12, 7.3 or by a suite's name, from the cache or made now.

    Raises MissingError, and CalledProcessError where apt or another tool failed.
    """
    suite = SUITES.get(name, name)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mrelease-vm"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / suite
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache) as made:
                _make(Path(made) / suite, suite)
                (Path(made) / suite).rename(folder)
    return Kernel(folder, (folder / "release").read_text().strip())


def _make(folder: Path, suite: str) -> None:
    tree = folder / "tree"
    tree.mkdir(parents=True)
    apt = _Apt(folder / "apt", suite)
    depends = apt.cache("depends", "linux-image-amd64")
    release = next(line.split("linux-image-")[1] for line in depends.splitlines() if "Depends: linux-image-" in line)
    # From 7.x on the image is in packages of its own: vmlinuz in binary, lists of modules in base.
    packages = [f"linux-{part}-{release}" for part in ("image", "base", "binary", "modules")]
    apt.download([package for package in packages if package in apt.cache("pkgnames", package).split()])
    for package in apt.folder.glob("*.deb"):
        run(["dpkg-deb", "-x", str(package), str(tree)])
    shutil.move(next(tree.rglob("vmlinuz*")), folder / "vmlinuz")
    modules = folder / "lib/modules" / release
    modules.parent.mkdir(parents=True)
    shutil.move(next(path for path in tree.rglob(f"lib/modules/{release}")), modules)
    for driver in (modules / "kernel/drivers").iterdir():
        if driver.name not in _DRIVERS:
            shutil.rmtree(driver)
    run(["depmod", "-b", str(folder), release])
    shutil.rmtree(tree)
    shutil.rmtree(apt.folder)
    (folder / "release").write_text(release)


class _Apt:
    """apt with the machine's own configuration and mirror, but sources, lists and archives of its own."""

    def __init__(self, folder: Path, suite: str) -> None:
        self.folder = folder
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {_mirror()} {suite} main\n")
        options = {
            "Dir::Etc::sourcelist": folder / "sources.list", "Dir::Etc::sourceparts": os.devnull, "Dir::Etc::preferencesparts": os.devnull,
            "Dir::State": folder, "Dir::State::status": folder / "status", "Dir::Cache": folder / "cache",
            "APT::Architecture": "amd64", "APT::Sandbox::User": "root", "Acquire::Languages": "none",
        }  # fmt: skip
        self._options = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        run(["apt-get", *self._options, "-qq", "update"])

    def cache(self, *arguments: str) -> str:
        return run(["apt-cache", *self._options, *arguments])

    def download(self, packages: list[str]) -> None:
        run(["apt-get", *self._options, "-qq", "download", *packages], self.folder)


def _mirror() -> str:
    """The Debian mirror of this machine's own apt, or VM_MIRROR."""
    wanted = ["Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main"]
    known = run(["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted]).split()
    mirror = os.environ.get("VM_MIRROR") or (known[0] if known else "")
    if not mirror or not _KEYRING.exists():
        raise MissingError("this machine's apt knows no Debian mirror: set VM_MIRROR to one's URL, and apt install debian-archive-keyring")
    return mirror


def run(command: list[str], cwd: Path | None = None) -> str:
    """Return the standard output of a command. Raises CalledProcessError; what it says on standard error is the person's to read."""
    sbin = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "LC_ALL": "C"}
    return subprocess.run(command, cwd=cwd, env=sbin, stdout=subprocess.PIPE, text=True, check=True).stdout
