"""docs/performance.md is that of the committed numbers, with a section for each of them, and says which goals are missed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from bench.markdown import anchor
from bench.results import load, save
from support.markdown import ROOT, links

pytest.importorskip("matplotlib")
page = pytest.importorskip("bench.page")

DOCS = ROOT / "docs"
NUMBERS = [
    "performance.json",
    "fleet-performance.json",
    "kubernetes-performance.json",
    "kubernetes-scale.json",
    "examples-performance.json",
    "plugins/performance.json",
]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """The numbers and the pictures of docs/, to be changed."""
    (tmp_path / "plugins").mkdir()
    for name in NUMBERS:
        shutil.copy(DOCS / name, tmp_path / name)
    shutil.copytree(DOCS / "img", tmp_path / "img")
    return tmp_path


def headings(text: str) -> list[str]:
    return [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]


def test_the_committed_page_is_that_of_the_committed_numbers() -> None:
    assert (DOCS / "performance.md").read_text() == page.render(DOCS), "`make bench` writes it, or PYTHONPATH=tests python -m bench.page"


def test_every_number_has_its_section_and_every_picture_is_shown() -> None:
    text = page.render(DOCS)
    targets = set(links(DOCS / "performance.md"))
    assert set(NUMBERS) <= targets
    pictures = {f"img/{file.name}" for file in (DOCS / "img").glob("*.svg") if re.match(r"bench-|kubernetes-|fleet|plugins", file.name)}
    assert pictures <= set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", text))


def test_what_the_page_links_to_in_itself_is_there() -> None:
    text = page.render(DOCS)
    there = {anchor(line.lstrip("# ")) for line in text.splitlines() if line.startswith("#")}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= there


@pytest.mark.parametrize("name", NUMBERS)
def test_what_was_not_measured_has_no_section(docs: Path, name: str) -> None:
    whole = headings(page.render(docs))
    (docs / name).unlink()
    less = headings(page.render(docs))
    assert len(less) == len(whole) - 1
    assert [heading for heading in whole if heading in less] == less


def test_a_bench_changes_its_own_section_and_its_goals_alone(docs: Path) -> None:
    before = page.render(docs).split("\n## ")
    numbers = docs / "fleet-performance.json"
    found = json.loads(numbers.read_text())
    for size in found["sizes"]:
        size["first"]["most_seconds"] = 7.5
    numbers.write_text(json.dumps(found))
    after = page.render(docs).split("\n## ")
    changed = [new.partition("\n")[0] for old, new in zip(before, after, strict=True) if old != new]
    assert changed == ["Goals", "A fleet"]


def test_goals_that_are_missed_are_counted_and_marked(docs: Path) -> None:
    found = load(docs / "performance.json")
    assert found.footprint is not None
    before = page.render(docs).count("**no**")
    found.footprint.rss_bytes = 99 << 20
    save(found, docs / "performance.json")
    text = page.render(docs)
    assert text.count("**no**") == before + 1
    assert f"{before + 1} {'is' if not before else 'are'} missed." in text
    assert "| idle agent, resident memory | <= 45 MiB | 99.0 MiB | **no** |" in text
