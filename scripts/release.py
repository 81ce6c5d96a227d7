#!/usr/bin/env python3
"""Prepare a release in the working tree: the version wherever it stands, the changelog, and the contract that callers may rely on.

    scripts/release.py 0.2.0     write them; git, and what is built from the tree, is up to who releases (docs/releasing.md)
    scripts/release.py --check   say whether all places agree

Needs buf, which `make lint` installs beside the Python that runs this.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
VERSION: Final = re.compile(r"(0|[1-9]\d{0,4})\.(0|[1-9]\d{0,4})\.(0|[1-9]\d{0,4})", re.ASCII)
#: Where the version stands: a file, and what is around it. What is made from these by `make generate` and scripts/chart.py follows.
PLACES: Final = (
    ("client/mrelease/_version.py", '^VERSION = "', '"$'),
    ("deploy/helm/mrelease/Chart.yaml", "^version: ", "$"),
    ("deploy/helm/mrelease/Chart.yaml", "^appVersion: ", "$"),
    ("Dockerfile", "^ARG VERSION=", "$"),
)
CHANGELOG: Final = "CHANGELOG.md"
#: The contract of the last release, named by its version: a buf image, which is a google.protobuf.FileDescriptorSet.
RELEASED: Final = "proto/released"
_UNRELEASED: Final = re.compile(r"^## \[Unreleased\].*\n", re.MULTILINE)


class ReleaseError(Exception):
    """The release cannot be prepared; str() says why, and what to do."""


def places(root: Path) -> Mapping[str, str]:
    """The version at each place. Raises ReleaseError where one has none."""
    found: dict[str, str] = {}
    for file, before, after in PLACES:
        match = re.search(f"{before}({VERSION.pattern}){after}", (root / file).read_text(), re.MULTILINE)
        if match is None:
            raise ReleaseError(f"{file} has no line {before}...{after}: mend it, or PLACES in scripts/release.py")
        found[f"{file} ({before.strip('^ ')})"] = match[1]
    return found


def released(root: Path) -> Path:
    """The contract of the last release. Raises ReleaseError unless there is exactly one."""
    images = sorted((root / RELEASED).glob("*.binpb"))
    if len(images) != 1 or VERSION.fullmatch(images[0].stem) is None:
        raise ReleaseError(f"{RELEASED} has {len(images)} contracts, not one named like 0.1.0.binpb: take the last release's from git")
    return images[0]


def check(root: Path) -> str:
    """The one version of the tree. Raises ReleaseError where places differ, or the contract is of a later version."""
    found = places(root)
    if len(set(found.values())) != 1:
        raise ReleaseError("the version differs: " + ", ".join(f"{version} in {place}" for place, version in found.items()))
    version = next(iter(found.values()))
    if order(released(root).stem) > order(version):
        raise ReleaseError(f"{released(root).name} is of a later version than the tree, {version}")
    return version


def order(version: str) -> tuple[int, ...]:
    """By what versions are sorted."""
    return tuple(map(int, version.split(".")))


def prepare(root: Path, version: str, day: date) -> None:
    """Write the release. Raises ReleaseError before anything is written."""
    if VERSION.fullmatch(version) is None:
        raise ReleaseError(f"{version} is no version: write three numbers such as 0.2.0")
    if order(version) < order(check(root)):
        raise ReleaseError(f"{version} is before {check(root)}, which the tree has: releases go forward")
    changelog = _changelog((root / CHANGELOG).read_text(), version, day)
    old, new = released(root), root / RELEASED / f"{version}.binpb"
    broken = _buf(root, "breaking", "--against", str(old.relative_to(root / "proto")))
    if broken:
        raise ReleaseError(
            f"the contract breaks that of {old.stem}; what must change belongs into a package mrelease.v2 beside it:\n{broken}"
        )
    for file, before, after in PLACES:
        text = re.sub(f"({before}){VERSION.pattern}({after})", rf"\g<1>{version}\g<5>", (root / file).read_text(), flags=re.MULTILINE)
        (root / file).write_text(text)
    (root / CHANGELOG).write_text(changelog)
    old.unlink()
    failed = _buf(root, "build", "--exclude-source-info", "-o", str(new.relative_to(root / "proto")))
    if failed:
        raise ReleaseError(f"the contract does not build:\n{failed}")


def _changelog(text: str, version: str, day: date) -> str:
    heading = _UNRELEASED.search(text)
    if heading is None or f"\n## [{version}] - " in text:
        raise ReleaseError(f"{CHANGELOG} has no heading [Unreleased], or has {version} already: nothing is there to release")
    if not re.match(r"\s*(###[^\n]*\n+)?- ", text[heading.end() :]):
        raise ReleaseError(f"{CHANGELOG} says nothing below [Unreleased]: say what has changed")
    return f"{text[: heading.start()]}## [Unreleased]\n\n## [{version}] - {day.isoformat()}\n{text[heading.end() :]}"


def _buf(root: Path, *arguments: str) -> str:
    """What buf complains of; empty where it is content. Raises ReleaseError where there is no buf."""
    try:
        done = subprocess.run(
            [Path(sys.executable).parent / "buf", *arguments], cwd=root / "proto", capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise ReleaseError("buf is not beside this Python: run this as .venv/bin/python scripts/release.py, after make lint") from None
    return (done.stdout + done.stderr or f"exit status {done.returncode}") if done.returncode else ""


def main() -> int:
    """Exit status: 0 done, or all agree; 1 not."""
    parser = argparse.ArgumentParser(description="Prepare a release in the working tree: docs/releasing.md.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("version", nargs="?", help="the version to release, such as 0.2.0")
    what.add_argument("--check", action="store_true", help="say whether all places agree, and write nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help="another tree than this one")
    arguments = parser.parse_args()
    try:
        if not arguments.check:
            prepare(arguments.root, arguments.version, datetime.now(timezone.utc).date())
        sys.stdout.write(f"{check(arguments.root)}, contract of {released(arguments.root).stem}\n")
    except ReleaseError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
