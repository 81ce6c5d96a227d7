#!/usr/bin/env python3
"""Build the documentation's site into build/site: strict, whole in itself, nothing from another host."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from website_diagrams import UndrawnError, draw
from website_pages import ROOT, UnplacedError, files, navigation, sources, staged

BUILD = ROOT / "build"
THEME = Path(__file__).resolve().parent / "website_theme"


def stage(root: Path, folder: Path) -> None:
    """Write what Sphinx reads into a folder. Raises ``UnplacedError`` and ``UndrawnError``."""
    sections = navigation(root)
    diagrams = sources(root, sections)
    drawn = dict(zip(diagrams, draw(diagrams), strict=True))
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in staged(root, sections, drawn).items():
        page = folder / name
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text)
    for name, file in files(root, sections).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)


def main() -> int:
    """Build it; returns 1 where a page, a link or a diagram is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BUILD / "site", help="the folder of the site, written anew (%(default)s)")
    parser.add_argument("--check", action="store_true", help="only see whether the navigation leads to every page; needs no other tool")
    args = parser.parse_args()
    out: Path = args.out
    pages = BUILD / "site-pages"
    try:
        if args.check:
            navigation(ROOT)
            return 0
        stage(ROOT, pages)
    except (UnplacedError, UndrawnError) as why:
        print(why, file=sys.stderr)
        return 1
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--nitpicky", "--quiet", "--jobs", "auto", "--fresh-env",
               "--conf-dir", str(THEME), "--doctree-dir", str(BUILD / "site-doctrees"), str(pages), str(out)]  # fmt: skip
    status = subprocess.run(command, check=False).returncode
    if status == 0:
        print(f"{out}/index.html: {sum(1 for _ in out.rglob('*.html'))} pages")
    return status


if __name__ == "__main__":
    sys.exit(main())
