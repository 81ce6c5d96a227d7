#!/usr/bin/env python3
"""Make the root file system of the agent's image from a virtual environment: it, Python, the libraries that both load, and nothing else.

    scripts/image_root.py --venv /opt/mrelease --sbom scripts/sbom.py --out /image

Runs in the build stage of the Dockerfile, as root, with the Python that the environment was made with, on a base that has dpkg. The same
input gives the same bytes: modes and times are set, byte code is compiled here with the hash of its source in place of its time.

What is taken of the base is written down where scanners look (/var/lib/dpkg/status.d, as distroless images have it) and, beside the
distributions, in the bill of materials /usr/share/mrelease/sbom.cdx.json; the packages' copyright files come along.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

#: Of the standard library, what an agent and a command line never import: tests, tools for developers, windows, databases.
_LEFT_OUT = {
    "__pycache__", "config-*", "curses", "dbm", "dist-packages", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data",
    "site-packages", "sitecustomize.py", "sqlite3", "test", "tests", "tkinter", "turtle.py", "turtledemo", "EXTERNALLY-MANAGED",
}  # fmt: skip
#: The same for the compiled modules; some would bring a library of their own.
_MODULES_LEFT_OUT = {
    "_ctypes_test*", "_curses*", "_dbm*", "_gdbm*", "_sqlite3*", "_test*", "_tkinter*", "_xx*", "audioop*", "nis*", "ossaudiodev*",
    "readline*", "xx*",
}  # fmt: skip
#: Of the environment's bin, what a container is started with; the rest are shell scripts and tools of dependencies.
_PROGRAMS = ("python", "python3", "mrelease", "mrelease-agent", "mrelease-controller")
_SBOM = "usr/share/mrelease/sbom.cdx.json"
_FILES = {
    "etc/passwd": "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/ld.so.conf": "/usr/local/lib\n",
}
#: Where the runtime mounts something, so that a read-only root will do.
_MOUNT_POINTS = ("dev", "proc", "run", "sys", "tmp")


class ImageError(Exception):
    """Why there is no file system: what is missing, and what to do."""


class Root:
    """The file system that is being made below a directory."""

    def __init__(self, out: Path) -> None:
        self._out = out
        #: What was taken, by its path without links, in the base.
        self.taken: set[Path] = set()

    def path(self, path: Path | str) -> Path:
        """Where something lies in the new file system while it is being made."""
        return self._out / str(path).lstrip("/")

    def take(self, path: Path) -> None:
        """Copy a file or a directory of the base to the same place: with every link on the way, and what it leads to."""
        real = self._follow(path)
        if real.is_dir():
            self.path(real).mkdir(parents=True, exist_ok=True)
        elif real not in self.taken:
            self.path(real).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(real, self.path(real))
            self.path(real).chmod(0o755 if os.access(real, os.X_OK) else 0o644)
            self.taken.add(real)

    def write(self, path: str, text: str) -> None:
        """A file that the base does not have."""
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path(path).write_text(text, encoding="utf-8")
        self.path(path).chmod(0o644)

    def all(self) -> Iterator[Path]:
        """Everything that is there, a directory after what is in it."""
        for folder, folders, files in os.walk(self._out, topdown=False):
            for name in (*files, *folders):
                yield Path(folder, name)
        yield self._out

    def _follow(self, path: Path) -> Path:
        """Make the links that lead to a path, and return where they lead to."""
        at = Path("/")
        for index, name in enumerate(path.parts[1:], 1):
            if (at / name).is_symlink():
                to = (at / name).readlink()
                link = self.path(at / name)
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.is_symlink():
                    link.symlink_to(to)
                # As the kernel does: ".." is taken after what stands before it was followed.
                return self._follow(Path(os.path.normpath(at / to), *path.parts[index + 1 :]))
            at /= name
        return at


def standard_library(root: Root) -> None:
    """The interpreter's modules, without what _LEFT_OUT names."""
    for top in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
        for folder, folders, files in os.walk(top):
            skipped = _MODULES_LEFT_OUT if folder.endswith("lib-dynload") else _LEFT_OUT
            folders[:] = [name for name in folders if not _matches(name, _LEFT_OUT)]
            for name in files:
                if not _matches(name, skipped):
                    root.take(Path(folder, name))


def environment(root: Root, venv: Path) -> None:
    """The virtual environment, with the programs that are wanted of it."""
    root.take(venv / "pyvenv.cfg")
    for name in _PROGRAMS:
        root.take(venv / "bin" / name)
    for folder, folders, files in os.walk(venv / "lib"):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in files:
            root.take(Path(folder, name))


def libraries(root: Root) -> None:
    """The shared libraries that what was taken loads, and the loader. Raises ImageError where one is missing."""
    programs = [path for path in sorted(root.taken) if _is_elf(path)]
    said = _said("ldd", *map(str, programs), check=False)
    missing = re.findall(r"^\s*(\S+) => not found", said, re.MULTILINE)
    if missing:
        raise ImageError(f"the base has not {', '.join(sorted(set(missing)))}: install the packages that have them in the base")
    for path in sorted(set(re.findall(r"^\s*(?:\S+ => )?(/\S+) \(0x", said, re.MULTILINE))):
        root.take(Path(path))
    # glibc opens it when a thread ends early, pthread_exit(3); ldd cannot know.
    for path in re.findall(r"libgcc_s\.so\.1 \(.*\) => (\S+)", _said("/sbin/ldconfig", "-p"))[:1]:
        root.take(Path(path))


def packages(root: Root) -> list[dict[str, Any]]:
    """The Debian packages of which something was taken: their entries for scanners, their copyright, and themselves as components."""
    # A package may name a file by the path from before /lib and /usr/lib became one.
    names = {str(path) for path in root.taken}
    names |= {name.removeprefix("/usr") for name in names if name.startswith("/usr/lib")}
    found: set[str] = set()
    for some in _chunks(sorted(names)):
        lines = _said("dpkg-query", "-S", *some, check=False).splitlines()
        found |= {name for line in lines if not line.startswith("diversion") for name in line.rpartition(": ")[0].split(", ")}
    components: list[dict[str, Any]] = []
    for package in sorted(found):
        name = package.partition(":")[0]
        status = _said("dpkg-query", "-s", package)
        root.write(f"var/lib/dpkg/status.d/{name}", status)
        copyright_file = Path("/usr/share/doc", name, "copyright")
        if copyright_file.exists():
            root.take(copyright_file)
        version, architecture = _field(status, "Version"), _field(status, "Architecture")
        address = f"pkg:deb/debian/{name}@{version.replace('+', '%2B').replace(':', '%3A')}?arch={architecture}"
        components.append({"type": "library", "bom-ref": address, "name": name, "version": version, "purl": address})
    return components


def bill_of_materials(root: Root, venv: Path, script: Path, debian: list[dict[str, Any]]) -> None:
    """What is installed in the environment, as the script describes it, and the packages that Python needs of the base."""
    bill = json.loads(_said(sys.executable, str(script), "--python", str(venv / "bin" / "python")))
    bill["components"] += debian
    python = next(part["bom-ref"] for part in bill["components"] if part["type"] == "platform")
    references = [part["bom-ref"] for part in debian]
    for entry in bill["dependencies"]:
        if entry["ref"] == python:
            entry["dependsOn"] = [*entry["dependsOn"], *references]
    bill["dependencies"] += [{"ref": reference, "dependsOn": []} for reference in references]
    content = json.dumps([bill["components"], bill["dependencies"]], sort_keys=True)
    bill["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, bill['serialNumber'] + content)}"
    root.write(_SBOM, json.dumps(bill, indent=1, ensure_ascii=False) + "\n")


def byte_code(root: Root, venv: Path) -> None:
    """Compile every module, so that a read-only root starts fast. The pages hold the source's hash, which nobody compares at run time."""
    tops = [str(root.path(top)) for top in (sysconfig.get_path("stdlib"), venv / "lib")]
    how = ("-q", "-f", "--invalidation-mode", "unchecked-hash", "-s", str(root.path("")), "-p", "/")
    # The order of a set of strings in byte code follows the hash seed.
    _said("env", "PYTHONHASHSEED=0", sys.executable, "-m", "compileall", *how, *tops)


def settle(root: Root, epoch: int) -> None:
    """The loader's cache, then one owner, no write permission but the owner's, and one time for everything."""
    _said("/sbin/ldconfig", "-r", str(root.path("")))
    shutil.rmtree(root.path("var/cache"), ignore_errors=True)  # holds inode numbers
    for path in root.all():
        os.chown(path, 0, 0, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    root.path("tmp").chmod(0o1777)
    for path in root.all():
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def main() -> int:
    """Make it; 1 where that is not possible."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, required=True, help="virtual environment with the agent")
    parser.add_argument("--sbom", type=Path, required=True, help="the script that describes what is installed")
    parser.add_argument("--out", type=Path, required=True, help="directory to make, new or empty")
    options = parser.parse_args()
    try:
        _make(options.venv, options.sbom, options.out)
    except (ImageError, OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"image_root.py: {error}\n")
        return 1
    return 0


def _make(venv: Path, sbom: Path, out: Path) -> None:
    if os.geteuid() != 0 or shutil.which("dpkg-query") is None or shutil.which("ldd") is None:
        raise ImageError("needs root, dpkg and ldd: run it in the build stage of an image of Debian")
    if out.exists() and any(out.iterdir()):
        raise ImageError(f"{out} has something in it: name a new directory")
    root = Root(out)
    for name in _MOUNT_POINTS:
        root.path(name).mkdir(parents=True)
    environment(root, venv)
    standard_library(root)
    libraries(root)
    root.take(Path("/etc/os-release"))
    bill_of_materials(root, venv, sbom, packages(root))
    for name, text in _FILES.items():
        root.write(name, text)
    byte_code(root, venv)
    settle(root, int(os.environ.get("SOURCE_DATE_EPOCH") or 0))


def _said(*command: str, check: bool = True) -> str:
    """What a command printed; what it complains about goes to this script's standard error, but for one that may fail."""
    quiet = None if check else subprocess.DEVNULL
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=quiet, text=True, check=check).stdout


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _field(paragraph: str, name: str) -> str:
    found = re.search(rf"^{name}: (.+)$", paragraph, re.MULTILINE)
    return found[1] if found else ""


def _chunks(names: list[str], size: int = 1000) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]


if __name__ == "__main__":
    sys.exit(main())
