#!/usr/bin/env python3
"""Build the Debian package: agent, CLI, their libraries and the hardened service. `make deb` runs it.

    scripts/deb.py [--out dist] [--version 0.1.0-1] [--pythons 3.11,3.12,3.13]

Two builds of one commit are the same file: times come from SOURCE_DATE_EPOCH, else from the commit. Libraries have the versions of
constraints.txt and are kept in $XDG_CACHE_HOME/mrelease-deb; nothing else is fetched while it builds.
Needs Debian's debhelper and dpkg-dev.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from email.utils import formatdate
from pathlib import Path
from typing import Final

import deb_tree

ROOT: Final = Path(__file__).resolve().parent.parent
PARTS: Final = ROOT / "deploy" / "deb"
EXTRAS: Final = "agent,cli,certs,kubernetes"
#: Debian 12 has 3.11, Ubuntu 24.04 3.12, Debian 13 3.13. One after the other: what lies between must be served, too.
PYTHONS: Final = "3.11,3.12,3.13"
PLATFORMS: Final = {"amd64": "x86_64", "arm64": "aarch64"}
#: Versions of the C library that wheels may ask for: Debian 12 has 2.36.
GLIBC: Final = (17, 26, 27, 28, 31, 34, 35)
_CHANGELOG: Final = """mrelease ({version}) unstable; urgency=medium

  * What is new is in changelog.gz beside this file.

 -- {maintainer}  {date}
"""


def main() -> int:
    """Build, and print where the package is. Exit status: 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(description="Build the Debian package.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="directory for the package")
    parser.add_argument("--version", default=f"{_own_version()}-1", help="version of the package; %(default)s")
    parser.add_argument("--pythons", default=PYTHONS, help="versions of Python that it serves, without gaps; %(default)s")
    options = parser.parse_args()
    try:
        print(build(options.out, options.version, options.pythons.split(",")))
    except (deb_tree.TreeError, FileNotFoundError) as error:
        print(f"deb: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"deb: {Path(error.cmd[0]).name} ended with {error.returncode}", file=sys.stderr)
        return 1
    return 0


def build(out: Path, version: str, pythons: list[str]) -> Path:
    """The package, built in a directory of its own and put into ``out``."""
    for tool in ("dpkg-buildpackage", "dh"):
        if shutil.which(tool) is None:
            raise FileNotFoundError(f"there is no {tool} here; on Debian: apt install debhelper dpkg-dev")
    architecture = _asked("dpkg", "--print-architecture")
    if architecture not in PLATFORMS:
        raise deb_tree.TreeError(f"there are no wheels of all libraries for {architecture}, only for {' and '.join(PLATFORMS)}")
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _asked("git", "-c", "safe.directory=*", "log", "-1", "--format=%ct") or "1580601600")
    with tempfile.TemporaryDirectory(prefix="mrelease-deb-") as made:
        work = Path(made) / f"mrelease-{version}"
        tree = work / "tree"
        ours = _our_wheel(Path(made), epoch)
        wheels = [ours, *_libraries(ours, architecture, pythons)]
        deb_tree.lay_out(tree, wheels, pythons)
        _add_files(tree)
        deb_tree.set_times(tree, epoch)
        _write_debian(work / "debian", version, epoch, pythons, deb_tree.copyright_of(wheels))
        said = Path(made) / "log"
        with said.open("wb") as log:
            done = subprocess.run(
                ["dpkg-buildpackage", "--build=binary", "--unsigned-changes", "--unsigned-buildinfo"],
                cwd=work, env=_build_environment(), stdout=log, stderr=log, umask=0o022, check=False,
            )  # fmt: skip
        if done.returncode:
            sys.stderr.write(said.read_text(errors="replace"))
            done.check_returncode()
        (package,) = Path(made).glob("mrelease_*.deb")
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package, out / package.name)
        return out / package.name


def _own_version() -> str:
    namespace: dict[str, str] = {}
    exec((ROOT / "client/mrelease/_version.py").read_text(), namespace)  # noqa: S102  # one constant; importing would need the libraries
    return namespace["VERSION"]


def _asked(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout.strip()


def _build_environment() -> dict[str, str]:
    """What a package could depend on by accident is fixed: language, time zone, the flags of whoever builds."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "TMPDIR"}}
    return {**kept, "LC_ALL": "C.UTF-8", "TZ": "UTC", "DEB_BUILD_OPTIONS": "nocheck"}


def _pip(*arguments: str, **environment: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check", "--no-deps", "--no-input"]
    fixed = {"PIP_CONSTRAINT": str(ROOT / "constraints.txt"), "PYTHONPATH": ""}
    subprocess.run(command, env={**os.environ, **fixed, **environment}, cwd="/", check=True)


def _our_wheel(directory: Path, epoch: int) -> Path:
    _pip("wheel", str(ROOT), "--wheel-dir", str(directory), SOURCE_DATE_EPOCH=str(epoch))
    (wheel,) = directory.glob("mrelease-*.whl")
    return wheel


def _libraries(ours: Path, architecture: str, pythons: list[str]) -> list[Path]:
    """The libraries' wheels for every version of Python, from the cache where they are all there."""
    wanted = hashlib.sha256((ROOT / "constraints.txt").read_bytes())
    with zipfile.ZipFile(ours) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        wanted.update(b"".join(line for line in archive.read(name).splitlines() if line.startswith(b"Requires-Dist:")))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mrelease-deb"
    folders = [cache / f"{wanted.hexdigest()[:16]}-{architecture}-{python}" for python in pythons]
    if not all(folder.is_dir() for folder in folders):
        cache.mkdir(parents=True, exist_ok=True)
        needed = _requirements(ours)
        for python, folder in zip(pythons, folders, strict=True):
            _download(folder, architecture, python, needed)
    return [wheel for folder in folders for wheel in sorted(folder.glob("*.whl"))]


def _download(folder: Path, architecture: str, python: str, needed: list[str]) -> None:
    fresh = Path(tempfile.mkdtemp(dir=folder.parent))
    platforms = [f"--platform=manylinux_2_{minor}_{PLATFORMS[architecture]}" for minor in GLIBC]
    _pip("download", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *platforms, "--dest", str(fresh), *needed)
    try:
        fresh.rename(folder)
    except OSError:  # another build was faster, or has made it before
        shutil.rmtree(fresh)


def _requirements(ours: Path) -> list[str]:
    """Name and version of every library, as pip resolves them for this Python: none of them is for some versions of it alone."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--disable-pip-version-check"]
    command += ["--constraint", str(ROOT / "constraints.txt"), "--report", "-", f"{ours}[{EXTRAS}]"]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, cwd="/", check=True).stdout)
    pinned = (f"{item['metadata']['name']}=={item['metadata']['version']}" for item in report["install"])
    return sorted(pin for pin in pinned if not pin.startswith("mrelease=="))


def _add_files(tree: Path) -> None:
    """The configuration, man pages and completions. The unit goes by debhelper, which writes what enables it."""
    deb_tree.install(ROOT / "deploy/systemd/agent.yaml", tree / "etc/mrelease/agent.yaml")
    for page in sorted((ROOT / "deploy/man").glob("*.[1-8]")):
        deb_tree.install(page, tree / f"usr/share/man/man{page.suffix[1]}" / page.name)
    for script in sorted((ROOT / "deploy/completions").glob("*")):
        if place := _completion(script.name):
            deb_tree.install(script, tree / place)


def _completion(name: str) -> str | None:
    """Where the shell looks for a completion script that is called mrelease.bash, mrelease.zsh (or _mrelease) or mrelease.fish."""
    command, _, shell = name.rpartition(".")
    if shell == "bash":
        return f"usr/share/bash-completion/completions/{command}"
    if shell == "zsh":
        return f"usr/share/zsh/vendor-completions/_{command.lstrip('_')}"
    if name.startswith("_"):
        return f"usr/share/zsh/vendor-completions/{name}"
    return f"usr/share/fish/vendor_completions.d/{name}" if shell == "fish" else None


def _write_debian(debian: Path, version: str, epoch: int, pythons: list[str], copyright_text: str) -> None:
    """The directory debian/ of the source package."""
    debian.mkdir()
    for part in sorted(PARTS.iterdir()):
        if part.suffix != ".md":
            deb_tree.install(part, debian / part.name, 0o755 if part.name == "rules" else 0o644)
    first, last = pythons[0], pythons[-1].split(".")
    python = f"python3 (>= {first}~), python3 (<< {last[0]}.{int(last[1]) + 1}~)"
    maintainer = (
        f"{os.environ.get('DEBFULLNAME') or 'mrelease maintainers'} <{os.environ.get('DEBEMAIL') or 'maintainers@mrelease.example'}>"
    )
    control = debian / "control"
    control.write_text(control.read_text().replace("@PYTHON@", python).replace("@MAINTAINER@", maintainer))
    changelog = _CHANGELOG.format(version=version, maintainer=maintainer, date=formatdate(epoch))
    (debian / "changelog").write_text(changelog)
    (debian / "copyright").write_text(copyright_text)
    deb_tree.install(ROOT / "CHANGELOG.md", debian.parent / "CHANGELOG.md")
    unit = (ROOT / "deploy/systemd/mrelease-agent.service").read_text().replace("/opt/mrelease/bin/", "/usr/bin/")
    for page in sorted((ROOT / "deploy/man").glob("mrelease-agent.[1-8]")):
        unit = unit.replace("\nAfter=", f"\nDocumentation=man:{page.stem}({page.suffix[1]})\nAfter=", 1)
    (debian / "mrelease.mrelease-agent.service").write_text(unit)


if __name__ == "__main__":
    sys.exit(main())
