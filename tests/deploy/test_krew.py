"""The Krew manifest: what `build` fills in passes Krew's own rules, and the archive that it names runs when Krew has unpacked it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mrelease import __version__

ROOT = Path(__file__).parents[2]
KREW = ROOT / "deploy" / "krew"
URI = "https://localhost/releases/a&b|c/kubectl-mrelease.tar.gz"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive and its manifest. The other libraries are those that run the tests: nothing is downloaded."""
    lib, out = tmp_path_factory.mktemp("lib"), tmp_path_factory.mktemp("out")
    shutil.copytree(ROOT / "client/mrelease", lib / "mrelease", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "KREW_LIB": str(lib), "PYTHON": sys.executable}
    subprocess.run([KREW / "build", URI, out], env=environment, capture_output=True, check=True)
    return out


def manifest(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((directory / "mrelease.yaml").read_text())
    return found


def archive(directory: Path) -> Path:
    (found,) = directory.glob("*.tar.gz")
    return found


def check(plugin: dict[str, Any], file_name: str) -> None:
    """The rules of Krew, internal/index/validation/validate.go."""
    assert plugin["apiVersion"] == "krew.googlecontainertools.github.com/v1alpha2"
    assert plugin["kind"] == "Plugin"
    name, spec = plugin["metadata"]["name"], plugin["spec"]
    assert re.fullmatch(r"[\w-]+", name)
    assert file_name == f"{name}.yaml"
    assert re.fullmatch(r"v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?", spec["version"])
    assert spec["shortDescription"]
    assert not re.search(r"[\r\n]", spec["shortDescription"])
    assert spec["platforms"]
    for platform in spec["platforms"]:
        assert platform["uri"]
        assert re.fullmatch(r"[a-f0-9]{64}", platform["sha256"])
        assert set(platform["selector"]["matchLabels"]) <= {"os", "arch"}
        assert platform["files"]
        assert all(file["from"] and file["to"] for file in platform["files"])
        assert not Path(platform["bin"]).is_absolute()
        assert ".." not in Path(platform["bin"]).parts


def test_it_passes_krews_rules(built: Path) -> None:
    check(manifest(built), "mrelease.yaml")
    assert "@" not in (built / "mrelease.yaml").read_text(), "nothing is left to fill in"


def test_it_names_the_archive_that_was_made(built: Path) -> None:
    (platform,) = manifest(built)["spec"]["platforms"]
    assert platform["sha256"] == hashlib.sha256(archive(built).read_bytes()).hexdigest()
    assert platform["uri"] == URI
    assert manifest(built)["spec"]["version"] == f"v{__version__}"


def test_what_krew_has_unpacked_runs(built: Path, tmp_path: Path) -> None:
    (platform,) = manifest(built)["spec"]["platforms"]
    (tmp_path / "download").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "download", "-xf", archive(built)], check=True)
    store, path = tmp_path / "store", tmp_path / "bin"
    for file in platform["files"]:
        # As Krew: `to` is the directory of a file, or what a directory becomes.
        source, to = tmp_path / "download" / file["from"], store / file["to"]
        if source.is_dir():
            shutil.copytree(source, to)
        else:
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to)
    path.mkdir()
    (path / "kubectl-mrelease").symlink_to(store / platform["bin"])
    environment = {**os.environ, "MRELEASE_PYTHON": sys.executable, "PYTHONPATH": "/nowhere"}
    done = subprocess.run([path / "kubectl-mrelease", "--version"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"mrelease {__version__}\n"


def test_another_python_is_said_so(built: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-C", tmp_path, "-xf", archive(built)], check=True)
    (tmp_path / "tools").mkdir()
    for tool in ("dirname", "readlink", "sh"):
        (tmp_path / "tools" / tool).symlink_to(shutil.which(tool) or "")
    environment = {"PATH": str(tmp_path / "tools"), "MRELEASE_PYTHON": "/bin/false"}
    done = subprocess.run([tmp_path / "kubectl-mrelease"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "it needs Python" in done.stderr


def test_only_https_is_published(tmp_path: Path) -> None:
    done = subprocess.run([KREW / "build", "http://localhost/x", tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, "https:// only" in done.stderr) == (1, True)
