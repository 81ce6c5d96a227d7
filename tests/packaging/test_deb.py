"""The Debian package: made twice it is one file, lintian has nothing to say, and it is installed, upgraded, downgraded, purged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from mrelease._version import VERSION
from support import lab
from support.debian_root import Root, debian_root
from support.markdown import ROOT
from support.privileges import LEAST, tool
from support.unit_file import Unit

pytestmark = [pytest.mark.packages, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
SITE = "usr/lib/mrelease/lib/python3/site-packages"
OLDER = "0.0.9-1"
#: Debian stable and the one before: one package serves both.
SUITES = ["trixie", "bookworm"]


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The package, built twice at once: in another folder, time zone, language, with other modes for new files."""
    if shutil.which("dh") is None or shutil.which("dpkg-buildpackage") is None:
        raise lab.Unavailable("a Debian package needs debhelper and dpkg-dev: apt install debhelper dpkg-dev")
    started: list[tuple[subprocess.Popen[str], Path]] = []
    for number, (zone, language, umask) in enumerate([("UTC", "C.UTF-8", 0o022), ("Pacific/Auckland", "C", 0o077)]):
        out = tmp_path_factory.mktemp(f"build{number}")
        environment = {**os.environ, "TMPDIR": str(out), "TZ": zone, "LC_ALL": language, "SOURCE_DATE_EPOCH": "1790000000"}
        command = [sys.executable, str(ROOT / "scripts/deb.py"), "--out", str(out)]
        process = subprocess.Popen(command, env=environment, umask=umask, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append((process, out))
    packages: list[Path] = []
    for process, out in started:
        _, said = process.communicate(timeout=800)
        assert process.returncode == 0, said
        packages += out.glob("*.deb")
    return packages


@pytest.fixture(scope="module")
def package(builds: list[Path]) -> Path:
    return builds[0]


@pytest.fixture(scope="module")
def content(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in the package, with its DEBIAN directory."""
    folder = tmp_path_factory.mktemp("content") / "package"
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def older(content: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An older version: another default configuration, and a module that is there no more."""
    folder = tmp_path_factory.mktemp("older") / "package"
    shutil.copytree(content, folder, symlinks=True)
    edit(folder / "DEBIAN/control", f"\nVersion: {field(content, 'Version')}\n", f"\nVersion: {OLDER}\n")
    edit(folder / SITE / "mrelease/_version.py", 'VERSION = "', 'VERSION = "0.0.9"  # "')
    edit(folder / "etc/mrelease/agent.yaml", "http_listen: 127.0.0.1:9464\n", "")
    (folder / SITE / "mrelease/gone_since.py").touch()
    made = folder.with_name("older.deb")
    subprocess.run(
        ["dpkg-deb", "-Zgzip", "-z1", "--root-owner-group", "--build", str(folder), str(made)], check=True, stdout=subprocess.DEVNULL
    )
    return made


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def field(content: Path, name: str) -> str:
    lines = (content / "DEBIAN/control").read_text().splitlines()
    (value,) = (line.partition(": ")[2] for line in lines if line.startswith(f"{name}: "))
    return value


def test_two_builds_are_the_same_file(builds: list[Path]) -> None:
    first, second = (hashlib.sha256(package.read_bytes()).hexdigest() for package in builds)
    assert first == second


def test_lintian_has_nothing_to_say(package: Path) -> None:
    with debian_root("trixie", include=["lintian"]) as root:
        shutil.copy(package, root.path / "srv")
        done = root.run(
            "lintian",
            "--allow-root",
            "--fail-on",
            "error,warning,info,pedantic",
            "--pedantic",
            "--display-info",
            f"/srv/{package.name}",
            check=False,
        )
        said = [line for line in done.stdout.splitlines() if line[:2] in {"E:", "W:", "I:", "P:"}]
        if not (ROOT / "deploy/man").is_dir():  # generated, and not part of a source without them
            said = [line for line in said if "no-manual-page" not in line and "missing-documentation-key" not in line]
        assert said == []


def test_every_override_has_its_reason(content: Path) -> None:
    lines = (content / "usr/share/lintian/overrides/mrelease").read_text().splitlines()
    assert lines[0].startswith("#")
    assert any(line.startswith("mrelease: ") for line in lines)


def test_nothing_secret_and_nothing_of_the_builder_is_in_it(content: Path) -> None:
    names = [str(path.relative_to(content)) for path in content.rglob("*")]
    assert [name for name in names if name.endswith((".key", ".pyc")) or "/__pycache__" in name] == []
    assert sorted(path.name for path in (content / "etc/mrelease").iterdir()) == ["agent.yaml"]
    ours = list((content / SITE / "mrelease").rglob("*.py")) + list((content / "usr/bin").iterdir())
    assert [path for path in ours if str(ROOT).encode() in path.read_bytes()] == []
    assert (content / "DEBIAN/conffiles").read_text().split() == ["/etc/mrelease/agent.yaml"]


def test_every_library_has_its_licence_in_the_copyright_file(content: Path) -> None:
    text = (content / "usr/share/doc/mrelease/copyright").read_text()
    tops = {path.name for path in (content / SITE).iterdir() if path.suffix not in {".dist-info", ".pth"}} - {
        "mrelease",
        "mrelease_agent",
        "mrelease_controller",
    }
    assert sorted(top for top in tops if f"{SITE}/{top.partition('.cpython')[0]}" not in text) == []


def test_systemd_takes_its_unit(content: Path, tmp_path: Path) -> None:
    unit = content / "usr/lib/systemd/system/mrelease-agent.service"
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/usr/bin/mrelease-agent", "/bin/true"))
    verified = subprocess.run([tool("systemd-analyze"), "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    judged = [tool("systemd-analyze"), "security", "--offline=true", "--threshold=30", "--no-pager", str(unit)]
    assert subprocess.run(judged, capture_output=True, check=False).returncode == 0
    assert set(Unit(unit).capabilities) == set(LEAST)
    assert (content / "usr/bin/mrelease-agent").is_file()


@dataclass(frozen=True, slots=True)
class Seen:
    """What life.sh wrote down."""

    folder: Path

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def lines(self, name: str) -> set[str]:
        return set(self.text(name).splitlines())

    def verdict(self, step: str) -> str:
        return str(found(json.loads(self.text(f"{step}.json")), "verdict")).removeprefix("VERDICT_")

    def version(self, step: str) -> str:
        return str(found(json.loads(self.text(f"{step}-node.json")), "agent_version"))


def found(value: object, name: str) -> object:
    """The first value that has this name, in lists and objects; None where there is none."""
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        return fields[name] if name in fields else found(list(fields.values()), name)
    if not isinstance(value, list):
        return None
    items = cast("list[object]", value)
    return next((inner for item in items if (inner := found(item, name)) is not None), None)


@pytest.fixture(scope="module", params=SUITES)
def life(request: pytest.FixtureRequest, package: Path, older: Path) -> Generator[Seen, None, None]:
    with debian_root(request.param, include=["python3"]) as root:
        shutil.copy(package, root.path / "srv/newer.deb")
        shutil.copy(older, root.path / "srv/older.deb")
        shutil.copy(HERE / "life.sh", root.path / "srv")
        shutil.copy(HERE / "systemctl", root.path / "usr/bin")
        live(root)
        yield Seen(root.path / "srv/seen")


def live(root: Root) -> None:
    done = root.run("bash", "/srv/life.sh", check=False)
    logs = [root.path / "srv/seen/apt", root.path / "srv/agent.log"]
    assert done.returncode == 0, done.stdout + "".join(log.read_text()[-3000:] for log in logs if log.exists())


@pytest.mark.parametrize("step", ["installed", "unpacked", "upgraded", "downgraded"])
def test_a_process_is_killed_and_its_memory_proven_back(life: Seen, step: str) -> None:
    """Also between unpacking and configuring, when the old agent runs on files of the new version."""
    assert life.verdict(step) in {"RELEASED", "EXITED"}


def test_the_agent_is_that_of_the_package_which_is_configured(life: Seen) -> None:
    steps = ["installed", "unpacked", "upgraded", "downgraded"]
    assert [life.version(step) for step in steps] == ["0.0.9", "0.0.9", VERSION, "0.0.9"]


def test_what_was_in_flight_at_the_upgrade_ends_with_its_result(life: Seen) -> None:
    assert life.verdict("flight") == "EXITED"
    calls = life.text("systemctl.upgraded").splitlines()
    assert sum(" restart " in f" {call} " for call in calls) == 1
    assert not any(" stop " in f" {call} " for call in calls)


def test_it_is_enabled(life: Seen) -> None:
    assert "mrelease-agent.service -> " in life.text("wants")


def test_a_changed_configuration_is_kept_and_the_new_default_lies_beside_it(life: Seen) -> None:
    kept = life.text("etc-upgraded/agent.yaml")
    assert "named-by-its-administrator" in kept
    assert "http_listen" not in kept
    assert found(json.loads(life.text("upgraded-node.json")), "name") == "named-by-its-administrator"
    assert life.text("etc-upgraded/agent.yaml.dpkg-dist") == (ROOT / "deploy/systemd/agent.yaml").read_text()


def test_removed_it_leaves_the_configuration_and_the_audit_log(life: Seen) -> None:
    left = life.lines("removed") - life.lines("before")
    assert "/etc/mrelease/agent.yaml" in left
    assert "/var/log/mrelease/audit" in left
    assert [path for path in left if path.startswith(("/usr/lib/mrelease", "/usr/bin", "/usr/lib/systemd"))] == []


def test_purged_it_leaves_nothing_and_has_taken_nothing(life: Seen) -> None:
    before, after = life.lines("before"), life.lines("after")
    assert (sorted(after - before), sorted(before - after)) == ([], [])
