"""Draw the diagrams of the documentation, as Mermaid in a browser would, while the site is built: its pages then need no script for them.

Mermaid is the pinned package of npm, in ~/.cache/mrelease-site from the first time on; the browser is chromium.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "mermaid@12.3.0"
INTEGRITY = "sha512-4113TdXeLAsMruJ79OpFL5O8+LTFXhQqZ260rF3tgUmiNAtRm4Uume04I+65PRN6yZ69J4f8rVYWW8zRk65UYw=="
#: Mermaid's themes for readers of dark on light and of light on dark, and furo's names for the two.
THEMES = {"only-light": "neutral", "only-dark": "dark"}
#: Wide enough nearly everywhere: the boxes are as wide as this text is here.
FONT = "Arial, Helvetica, 'Liberation Sans', sans-serif"
_PATIENCE = 120
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mrelease-site"
_ANSWER = re.compile(r'<pre id="answer">(.*?)</pre>', re.S)
_WIDTH = re.compile(r"max-width: ([\d.]+)px;")
_PAGE = """<!doctype html><meta charset="utf-8"><body><script src="mermaid.js"></script><script>
const [sources, themes, font] = %s;
(async () => {
  const drawn = [];
  for (const [at, source] of sources.entries()) {
    const each = {};
    for (const [name, theme] of Object.entries(themes)) {
      const themeVariables = theme === "dark" ? {edgeLabelBackground: "#131416"} : {};
      mermaid.initialize({startOnLoad: false, theme, themeVariables, fontFamily: font, htmlLabels: false,
                          flowchart: {htmlLabels: false, wrappingWidth: 260}});
      each[name] = (await mermaid.render(`diagram-${at}-${name}`, source)).svg;
    }
    drawn.push(each);
  }
  return {drawn};
})().catch((error) => ({error: String(error)})).then((answer) => {
  const told = document.createElement("pre");
  told.id = "answer";
  told.textContent = JSON.stringify(answer);
  document.body.replaceChildren(told);
});
</script>"""


class UndrawnError(Exception):
    """A diagram could not be drawn: the message says why."""


def draw(sources: list[str]) -> list[str]:
    """HTML for each source: the picture for light and for dark pages, of which the site's theme shows one. Raises ``UndrawnError``."""
    browser = shutil.which("chromium")
    if browser is None:
        raise UndrawnError("diagrams are drawn by chromium, which is not here: apt install chromium")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        shutil.copy(_mermaid(), Path(folder, "mermaid.js"))
        # A closing tag in a source would end the script.
        page.write_text(_PAGE % json.dumps([sources, THEMES, FONT]).replace("</", "<\\/"))
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder}/profile",
                   "--virtual-time-budget=60000", "--dump-dom", page.as_uri()]  # fmt: skip
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    found = _ANSWER.search(ran.stdout)
    if found is None:
        raise UndrawnError(f"chromium ended with {ran.returncode} and drew nothing: {ran.stderr[-1000:]}")
    answer = json.loads(html.unescape(found[1]))
    if "error" in answer:
        raise UndrawnError(f"mermaid: {answer['error']}")
    return [_figure(each) for each in answer["drawn"]]


def _figure(drawn: dict[str, str]) -> str:
    # On a telephone a wide picture scrolls: shrunk to fit it could not be read.
    legible = (_WIDTH.sub(r"\g<0> min-width: min(\1px, 56rem);", svg, count=1) for svg in drawn.values())
    parts = (f'<div class="diagram {name}">{" ".join(svg.split())}</div>' for name, svg in zip(drawn, legible, strict=True))
    return "\n".join(parts)


def _mermaid() -> Path:
    """The script, fetched once."""
    script = _CACHE / f"{PACKAGE}.js"
    if not script.exists():
        _fetch(script)
    return script


def _fetch(script: Path) -> None:
    if shutil.which("npm") is None:
        raise UndrawnError("diagrams are drawn by mermaid, which npm fetches, and npm is not here: apt install npm")
    with tempfile.TemporaryDirectory() as folder:
        ran = subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, capture_output=True, text=True, check=False)
        [*packed] = Path(folder).glob("*.tgz")
        if ran.returncode or len(packed) != 1:
            raise UndrawnError(f"npm pack {PACKAGE} failed: {ran.stderr[-1000:]}")
        digest = base64.b64encode(hashlib.sha512(packed[0].read_bytes()).digest()).decode()
        if f"sha512-{digest}" != INTEGRITY:
            raise UndrawnError(f"{PACKAGE} is not what it was when it was pinned: sha512-{digest}")
        with tarfile.open(packed[0]) as package:
            content = package.extractfile("package/dist/mermaid.min.js")
            assert content, "every version of mermaid has it"
            script.parent.mkdir(parents=True, exist_ok=True)
            # Renamed when it is whole: another build may be looking.
            part = script.with_name(f"{script.name}.{os.getpid()}")
            part.write_bytes(content.read())
        part.replace(script)
