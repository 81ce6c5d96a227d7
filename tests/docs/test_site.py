"""The documentation as a site, opened in a real browser on a telephone and on a desk. `make site` builds it and runs these."""

from __future__ import annotations

import functools
import http.server
import re
import threading
from collections.abc import Generator
from typing import NamedTuple
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

from mrelease import __version__
from support import lab, patience
from support.browser import Tab, browsing
from support.lab import Unavailable
from support.markdown import ROOT

pytestmark = [pytest.mark.site, pytest.mark.timeout(600)]
SITE = ROOT / "build" / "site"
WIDTHS = [390, 1280]
PATIENCE = 60 * patience.FACTOR
#: What a page says of itself: how wide it is, what is wider than it and not in something that scrolls, its links, its anchors.
SURVEY = """(() => {
  const seen = document.documentElement.clientWidth;
  // A table or a block may scroll. The article as a whole, which the theme lets scroll on a telephone, may not.
  const scrolls = (element) => element.tagName !== "ARTICLE"
    && (/auto|scroll/.test(getComputedStyle(element).overflowX) || scrolls(element.parentElement));
  return {
    width: seen,
    needs: document.documentElement.scrollWidth,
    wide: [...document.querySelectorAll("article *")].filter((each) => each.getBoundingClientRect().right > seen + 1
      && each.getBoundingClientRect().width && !scrolls(each.parentElement)).map((each) => each.outerHTML.slice(0, 120)),
    links: [...document.querySelectorAll("a[href]")].map((each) => each.href),
    anchors: [...document.querySelectorAll("[id]")].map((each) => each.id),
    broken: [...document.images].filter((each) => each.complete && !each.naturalWidth).map((each) => each.src),
  };
})()"""


class Seen(NamedTuple):
    """What a page was found to be."""

    links: list[str]
    anchors: list[str]
    wrong: list[str]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the site as hosts of static files do: what is not there is answered by 404.html."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        del message, explain
        content = (SITE / "404.html").read_bytes()
        self.send_response(code)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture(scope="module")
def tab() -> Generator[Tab, None, None]:
    # A fixture does not pass through the hook that makes skips of what this machine has not.
    try:
        if not (SITE / "index.html").is_file():
            raise Unavailable("the site is not built: make site")
        with browsing() as found:
            yield found
    except Unavailable as why:
        pytest.skip(str(why))


@pytest.fixture(scope="module")
def origin() -> Generator[str, None, None]:
    """The address of the site."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def seen(tab: Tab, origin: str) -> dict[int, dict[str, Seen]]:
    """Every page at every width, by its path."""
    return {width: {page: look(tab, origin, page, width) for page in pages()} for width in WIDTHS}


def pages() -> list[str]:
    return sorted(file.relative_to(SITE).as_posix() for file in SITE.rglob("*.html") if file.name != "404.html")


def look(tab: Tab, origin: str, page: str, width: int) -> Seen:
    tab.resize(width)
    status = tab.open(f"{origin}{page}")
    found = tab.evaluate(SURVEY)
    wrong = [] if status in (200, 404) else [f"HTTP {status}"]
    if found["needs"] > found["width"]:
        wrong.append(f"it is {found['needs']} wide, not {found['width']}")
    wrong += [*found["wide"], *(f"no picture: {source}" for source in found["broken"]), *tab.problems]
    wrong += [f"asks {request}" for request in tab.requests if not request.startswith((origin, "data:"))]
    return Seen(found["links"], found["anchors"], wrong)


def test_every_page_is_in_it(tab: Tab) -> None:
    del tab
    assert len(pages()) >= len(list(ROOT.glob("docs/**/*.md")))


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_fits_and_complains_of_nothing_and_asks_nobody_else(seen: dict[int, dict[str, Seen]], width: int) -> None:
    assert {page: found.wrong for page, found in seen[width].items() if found.wrong} == {}


def test_every_link_and_anchor_leads_somewhere(seen: dict[int, dict[str, Seen]], origin: str) -> None:
    found = seen[WIDTHS[-1]]
    dead: list[str] = []
    for page, what in found.items():
        for link in what.links:
            address, anchor = urldefrag(link)
            if not address.startswith(origin):
                continue
            path = unquote(urlsplit(address).path).lstrip("/") or "index.html"
            if not (SITE / path).is_file() or (anchor and path in found and unquote(anchor) not in found[path].anchors):
                dead.append(f"{page}: {link}")
    assert dead == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", ["no-such-page.html", "plugins/no/such/page"])
def test_what_is_not_there_is_answered_with_a_way_on(tab: Tab, origin: str, path: str, width: int) -> None:
    found = look(tab, origin, path, width)
    assert found.wrong == []
    assert "No such page" in tab.evaluate("document.querySelector('h1').textContent")
    assert f"{origin}index.html" in found.links
    assert f"{origin}search.html" in found.links


def found_by_search(tab: Tab) -> bool:
    return "reference/outcomes.html" in tab.evaluate("[...document.querySelectorAll('#search-results a')].map((a) => a.href).join()")


def test_the_search_finds_what_is_written(tab: Tab, origin: str) -> None:
    tab.open(f"{origin}search.html?q=process_mrelease")
    lab.until(lambda: found_by_search(tab), "a result of the search", PATIENCE)
    assert tab.problems == []


def test_the_search_finds_it_without_a_server_too(tab: Tab) -> None:
    # Only the lines around what was found are missing: a browser does not let a file read another one.
    tab.open(f"{(SITE / 'search.html').as_uri()}?q=process_mrelease")
    lab.until(lambda: found_by_search(tab), "a result of the search", PATIENCE)


@pytest.mark.parametrize(("scheme", "other"), [("light", "dark"), ("dark", "light")])
def test_diagrams_are_drawn_for_light_and_for_dark_pages(tab: Tab, origin: str, scheme: str, other: str) -> None:
    tab.prefer(scheme)
    tab.open(f"{origin}explanation/how-it-works.html")
    heights = "[...document.querySelectorAll('.diagram.only-%s svg')].map((svg) => svg.getBoundingClientRect().height)"
    assert min(tab.evaluate(heights % scheme)) > 50
    assert max(tab.evaluate(heights % other)) == 0


def test_its_version_is_shown(tab: Tab, origin: str) -> None:
    tab.open(origin)
    assert __version__ in tab.evaluate("document.querySelector('.sidebar-drawer').textContent")


def test_no_file_of_it_names_another_host_to_load_from(tab: Tab) -> None:
    del tab
    loads = re.compile(
        r"""(?:<(?:script|img|iframe|source|video|audio|embed)[^>]*\ssrc=|<link[^>]*\shref=|@import\s|url\()\s*["']?(?:https?:)?//"""
    )
    files = [file for file in SITE.rglob("*") if file.suffix in (".html", ".css", ".svg")]
    assert [str(file.relative_to(SITE)) for file in files if loads.search(file.read_text())] == []
