"""The agent's image: what is in it, what is not, and that it can be built again, byte for byte. Built as `make e2e` builds it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import mrelease
from support.lab import need_root
from support.markdown import ROOT, repository

pytestmark = pytest.mark.e2e

PACKAGES = "opt/mrelease/lib/python3.11/site-packages/"
#: What somebody who got into the container would look for first.
TOOLS = {
    *("sh", "bash", "dash", "ash", "busybox", "env", "cat", "ls", "cp", "chmod", "mount", "nsenter", "unshare", "kill", "ps"),
    *("apt", "apt-get", "dpkg", "pip", "pip3", "easy_install", "gcc", "cc", "ld", "as", "make", "curl", "wget", "nc", "perl", "git"),
}


@dataclass(frozen=True)
class Image:
    """A docker archive: its configuration, and its one layer as it is."""

    archive: Path
    config: dict[str, Any]
    layer: Path
    entries: dict[str, tarfile.TarInfo]

    def text(self, name: str) -> str:
        with tarfile.open(self.layer) as tar:
            file = tar.extractfile(self.entries[name])
            assert file is not None
            return file.read().decode()

    def programs(self) -> Iterator[str]:
        for name, entry in self.entries.items():
            if not entry.isdir() and re.fullmatch(r"(.*/)?s?bin/[^/]+", name):
                yield name


def unpack(archive: Path, folder: Path) -> Image:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (manifest,) = json.loads((folder / "manifest.json").read_text())
    (layer,) = manifest["Layers"]
    with tarfile.open(folder / layer) as tar:
        entries = {entry.name.removeprefix("./").rstrip("/"): entry for entry in tar}
    return Image(archive, json.loads((folder / manifest["Config"]).read_text()), folder / layer, entries)


def copy_of_the_project(folder: Path) -> Path:
    for name in repository():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def build(project: Path, archive: Path, umask: int = -1) -> Image:
    command = [project / "tests" / "e2e" / "build_image", archive]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, umask=umask)
    return unpack(archive, archive.with_suffix(""))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as it is at one moment."""
    need_root("building an image without docker")
    return copy_of_the_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def image(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Image:
    return build(project, tmp_path_factory.mktemp("image") / "image.tar")


@pytest.fixture(scope="module")
def root(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's files as a directory."""
    folder = tmp_path_factory.mktemp("root")
    with tarfile.open(image.layer) as tar:
        tar.extractall(folder, filter="fully_trusted")
    return folder


def run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the image, with nothing but the image."""
    chroot = shutil.which("chroot") or "/usr/sbin/chroot"
    return subprocess.run([chroot, str(root), *command], env={"LANG": "C.UTF-8"}, capture_output=True, text=True, check=False)


def test_its_programs_are_ours_and_python_and_no_other(image: Image) -> None:
    programs = set(image.programs())
    assert {Path(name).name for name in programs} & TOOLS == set()
    assert {name for name in programs if not re.search(r"/python(3(\.\d+)?)?$", name)} == {
        "opt/mrelease/bin/mrelease",
        "opt/mrelease/bin/mrelease-agent",
        "opt/mrelease/bin/mrelease-controller",
    }


def test_nothing_that_installs_compiles_or_tests_is_in_it(image: Image) -> None:
    unwanted = re.compile(
        r"(^|/)(pip|setuptools|wheel|ensurepip|idlelib|lib2to3|hatchling|pytest|tests?|\.git|src|dist|wheels|include)(/|$)|\.(a|o|h|c|whl)$"
    )
    # prometheus_client and others may name a module so; a package of the standard library or ours may not.
    assert [name for name in image.entries if unwanted.search(name) and "site-packages" not in name] == []
    installed = {entry.split("/")[0].lower() for name in image.entries if (entry := name.removeprefix(PACKAGES)) != name}
    assert installed & {"pip", "setuptools", "wheel", "hatchling", "pytest", "tests", "test", "_pytest", "grpc_tools"} == set()


def test_everything_is_roots_and_only_root_can_write(image: Image) -> None:
    assert {name for name, entry in image.entries.items() if (entry.uid, entry.gid) != (0, 0)} == set()
    writable = {name for name, entry in image.entries.items() if not entry.issym() and entry.mode & 0o022}
    assert writable == {"tmp"}
    assert {name for name, entry in image.entries.items() if entry.mode & 0o6000} == set()


def test_its_labels_and_how_it_starts(image: Image) -> None:
    config = image.config["config"]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert labels["version"] == mrelease.__version__
    assert labels["title"] == "mrelease"
    assert labels["licenses"] == "Apache-2.0"
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels["revision"])
    assert labels["base.name"]
    assert config["Entrypoint"] == ["mrelease-agent"]
    assert "PATH=/opt/mrelease/bin" in config["Env"]
    assert "User" not in config  # the agent's capabilities are those of root, without the rest of them: the chart's matter


def test_a_build_without_arguments_has_the_same_version() -> None:
    assert f"ARG VERSION={mrelease.__version__}\n" in (ROOT / "Dockerfile").read_text()


def test_its_programs_start_in_it(root: Path) -> None:
    assert run(root, "/opt/mrelease/bin/mrelease-agent", "--version").stdout == f"mrelease-agent {mrelease.__version__}\n"
    assert run(root, "/opt/mrelease/bin/mrelease", "--version").stdout == f"mrelease {mrelease.__version__}\n"
    assert run(root, "/opt/mrelease/bin/mrelease-controller", "--version").stdout == f"mrelease-controller {mrelease.__version__}\n"
    # Every module of ours, but for what belongs to an extra that is not in the image: nothing of the standard library is missing.
    code = """
import importlib, pkgutil, sys, mrelease, mrelease.errors, mrelease_agent, mrelease_controller
for package in (mrelease, mrelease_agent, mrelease_controller):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name.endswith("__main__") or module.name.split(".")[1] == "demo":
            continue
        try:
            importlib.import_module(module.name)
        except mrelease.errors.MissingExtra:  # of an orchestrator's, in whose own environment it runs
            pass
        except ModuleNotFoundError as error:
            ours = {"mrelease", "mrelease_agent", "mrelease_controller", "lightkube", "grpc", "google"}
            if error.name.partition(".")[0] in {*sys.stdlib_module_names, *ours}:
                raise
"""
    done = run(root, "/opt/mrelease/bin/python", "-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr


def test_the_bill_of_materials_lists_what_is_installed(image: Image, root: Path) -> None:
    bill = json.loads(image.text("usr/share/mrelease/sbom.cdx.json"))
    listed = {part["purl"] for part in (*bill["components"], bill["metadata"]["component"])}
    distributions: set[str] = set()
    for name in image.entries:
        if found := re.fullmatch(re.escape(PACKAGES) + r"[^/]+\.dist-info/METADATA", name):
            fields = dict(
                line.split(": ", 1) for line in image.text(found[0]).split("\n\n")[0].splitlines() if re.match("(Name|Version): ", line)
            )
            distributions.add(f"pkg:pypi/{re.sub(r'[-_.]+', '-', fields['Name']).lower()}@{fields['Version']}")
    assert {one for one in listed if one.startswith("pkg:pypi/")} == distributions
    debian = {re.sub(r"@.*", "", one).removeprefix("pkg:deb/debian/") for one in listed if one.startswith("pkg:deb/")}
    packages = {name.removeprefix("var/lib/dpkg/status.d/") for name in image.entries if name.startswith("var/lib/dpkg/status.d/")}
    assert debian == packages
    assert {"libc6", "libssl3"} <= packages
    assert {name for name in packages if not (root / "usr/share/doc" / name / "copyright").is_file()} == set()
    references = {part["bom-ref"] for part in (*bill["components"], bill["metadata"]["component"])}
    assert {entry["ref"] for entry in bill["dependencies"]} == references


def test_two_builds_are_identical(image: Image, project: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(project, elsewhere, symlinks=True)
    for file in elsewhere.rglob("*"):  # as after a clone by somebody with another umask, on another day
        if not file.is_symlink():
            file.chmod(file.stat().st_mode & 0o700)
            os.utime(file, (0, 0))
    second = build(elsewhere, tmp_path / "again.tar", umask=0o077)
    assert second.entries.keys() == image.entries.keys()
    assert second.config == image.config  # has the layer's digest in it
    assert digest(second.archive) == digest(image.archive)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
