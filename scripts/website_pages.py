"""The pages of the documentation's site, from the Markdown that GitHub shows too: where each goes, in which order, with links that fit.

docs/README.md is the index of both, and the navigation: a bullet below a heading is an entry. The other pages of a folder belong to the
index of the folder, in the order in which it links to them: plugins/, runbooks/. Pages outside of docs/ belong to the first page that
links to them.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INDEX = "docs/README.md"
#: Folders that have no page of their own, and the page that says what is in them.
INSTEAD = {"proto/mrelease/v1": "docs/reference/api.md"}
_HEADING = re.compile(r"^##+ (.+)$")
_BULLET = re.compile(r"^- \[(?P<title>[^\]]+)\]\((?P<target>[^)#\s]+)\)")
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
_ELSEWHERE = re.compile(r"[a-z]+:|#")
_FENCE = re.compile(r"^(?P<fence>```+)(?P<language>\w*)$")
_MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.M | re.S)
_CODE = re.compile(r"(?<!`)(`+)(?!`)(?:(?!\n\n).)+?(?<!`)\1(?!`)", re.S)
_ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')


class UnplacedError(Exception):
    """Pages that nobody would find: the message names them, and what to do."""


@dataclass(slots=True)
class Entry:
    """A page in the navigation. ``page``: its path in the repository; ``title``: what the navigation calls it, None: its own heading."""

    page: str
    title: str | None
    children: list[Entry] = field(default_factory=list["Entry"])


@dataclass(frozen=True, slots=True)
class Section:
    """Entries below one heading of the index."""

    caption: str
    entries: list[Entry]


def navigation(root: Path = ROOT) -> list[Section]:
    """Every page of docs/, and those elsewhere that the index names, in order. Raises ``UnplacedError``."""
    sections: list[Section] = []
    for line in (root / INDEX).read_text().splitlines():
        if found := _HEADING.match(line):
            sections.append(Section(found[1], []))
        elif (found := _BULLET.match(line)) and sections:
            sections[-1].entries.append(Entry(_resolve(INDEX, found["target"]), found["title"]))
    named = [entry for section in sections for entry in section.entries]
    placed = {entry.page for entry in named} | {INDEX}
    left = [page for page in _pages(root) if page not in placed]
    for entry in named:
        linked = [target for target in _targets(root, entry.page) if target.endswith(".md") and target not in placed]
        beside = [page for page in left if _is_index_of(entry.page, page)]
        for target in dict.fromkeys([*linked, *beside]):
            if target in beside or (not target.startswith("docs/") and _is_page(root / target)):
                left = [page for page in left if page != target]
                placed.add(target)
                entry.children.append(Entry(target, None))
                named.append(entry.children[-1])
    if left:
        raise UnplacedError(f"no page of the site leads to {', '.join(left)}: give each a bullet in {INDEX}")
    return [section for section in sections if section.entries]


def everything(sections: list[Section]) -> Iterator[str]:
    """Every page of the navigation, in its order, the index first."""
    yield INDEX

    def inside(entries: list[Entry]) -> Iterator[str]:
        for entry in entries:
            yield entry.page
            yield from inside(entry.children)

    for section in sections:
        yield from inside(section.entries)


def place(page: str) -> str:
    """Where a page of the repository is in the site: below docs/ as it is there, README.md of a folder as its index."""
    folder, name = posixpath.split(page.removeprefix("docs/"))
    is_index = name == "README.md" and page != "README.md"
    return posixpath.join(folder, "index.md" if is_index else name)


def sources(root: Path, sections: list[Section]) -> list[str]:
    """The diagrams of all pages, as Mermaid."""
    return [found[1].strip() for page in everything(sections) for found in _MERMAID.finditer((root / page).read_text())]


def staged(root: Path, sections: list[Section], drawn: Mapping[str, str]) -> dict[str, str]:
    """The text of each page by its place in the site. ``drawn``: HTML of each diagram of ``sources``."""
    known = set(everything(sections))
    texts: dict[str, str] = {}
    for page in known:
        text = _fit(root, page, known, drawn)
        if page == INDEX:
            text += "".join(_toctree(section.entries, section.caption, INDEX) for section in sections)
        texts[place(page)] = text
    for section in sections:
        for entry in section.entries:
            _add_children(texts, entry)
    return texts


def _add_children(texts: dict[str, str], entry: Entry) -> None:
    if entry.children:
        texts[place(entry.page)] += _toctree(entry.children, "", entry.page)
    for child in entry.children:
        _add_children(texts, child)


def _toctree(entries: list[Entry], caption: str, page: str) -> str:
    here = posixpath.dirname(place(page)) or "."
    lines = ["", "```{toctree}", ":hidden:"] + ([f":caption: {caption}"] if caption else []) + [""]
    for entry in entries:
        name = posixpath.relpath(place(entry.page), here).removesuffix(".md")
        lines.append(f"{entry.title} <{name}>" if entry.title else name)
    return "\n".join([*lines, "```", ""])


def _fit(root: Path, page: str, known: set[str], drawn: Mapping[str, str]) -> str:
    """The text of a page with diagrams drawn and links that lead to where the site has their pages."""
    out: list[str] = []
    prose: list[str] = []

    def end_of_prose() -> None:
        out.append(_outside_code("".join(prose), lambda text: _fit_links(text, root, page, known)))
        prose.clear()

    lines = iter((root / page).read_text().splitlines(keepends=True))
    for line in lines:
        fence = _FENCE.match(line)
        if not fence:
            prose.append(line)
            continue
        end_of_prose()
        block = "".join(_until(lines, fence["fence"]))
        if fence["language"] == "mermaid":
            out.append(f"````{{raw}} html\n{drawn[block.strip()]}\n````\n")
        else:
            out.append(f"{line}{block}{fence['fence']}\n")
    end_of_prose()
    return "".join(out)


def _until(lines: Iterator[str], end: str) -> Iterator[str]:
    """The lines of a block, of whose end nothing is left over."""
    for line in lines:
        if line.rstrip() == end:
            return
        yield line


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """A text changed but for its code spans; a link whose text is code is one link."""
    spans: list[str] = []

    def hide(found: re.Match[str]) -> str:
        spans.append(found[0])
        return f"\0{len(spans) - 1}\0"

    return re.sub(r"\0(\d+)\0", lambda found: spans[int(found[1])], change(_CODE.sub(hide, text)))


def _fit_links(text: str, root: Path, page: str, known: set[str]) -> str:
    here = posixpath.dirname(place(page)) or "."

    def link(found: re.Match[str]) -> str:
        target, anchor, name = found["target"].partition("#")
        if _ELSEWHERE.match(found["target"]):
            return found[0]
        path = _resolve(page, target)
        path = INSTEAD.get(path, path)
        if path in known:
            return f"{found['image']}[{found['text']}]({posixpath.relpath(place(path), here)}{anchor}{name})"
        if (root / path).is_file():
            return f"{found['image']}[{found['text']}]({posixpath.relpath(_file_place(path), here)})"
        return found["text"]

    return _ANCHOR.sub(r"[]{#\1}", _LINK.sub(link, text))


def files(root: Path, sections: list[Section]) -> dict[str, Path]:
    """What pages show or offer that is no page: pictures, schemas, sources. By its place in the site."""
    known = set(everything(sections))
    found = {target for page in known for target in _targets(root, page) if target not in known and (root / target).is_file()}
    return {_file_place(path): root / path for path in sorted(found)}


def _file_place(path: str) -> str:
    return path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}"


def _pages(root: Path) -> list[str]:
    return sorted(page.relative_to(root).as_posix() for page in root.glob("docs/**/*.md"))


def _targets(root: Path, page: str) -> Iterator[str]:
    """What the links of a page lead to, as paths in the repository, in order."""
    for found in _LINK.finditer((root / page).read_text()):
        if not _ELSEWHERE.match(found["target"]):
            yield _resolve(page, found["target"].partition("#")[0])


def _resolve(page: str, target: str) -> str:
    return os.path.normpath(posixpath.join(posixpath.dirname(page), target))


def _is_page(file: Path) -> bool:
    """Whether this is a page at all: what has no title is a note beside files."""
    return file.is_file() and file.read_text().startswith("# ")


def _is_index_of(index: str, page: str) -> bool:
    """Whether the other pages of the index's folder are its children; those of docs/ itself have a bullet each."""
    folder, name = posixpath.split(index)
    return name in ("README.md", "index.md") and folder != "docs" and posixpath.dirname(page) == folder
