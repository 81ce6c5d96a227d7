"""Sphinx's settings for the documentation's site; scripts/website.py runs it.

Sphinx with MyST, because the pages are Markdown that GitHub shows as well, every missing page, anchor and orphan is an error in its strict
mode, and its search works without a server. The theme is furo: system fonts, dark and light, nothing from another host.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

project = "mrelease"
# The version alone, without importing the package: nothing of it has to be installed.
release = (ROOT / "client" / "mrelease" / "_version.py").read_text().rsplit('"', 2)[1]
author = "the authors of mrelease"
language = "en"

extensions = ["myst_parser"]
exclude_patterns = ["source/**"]
root_doc = "index"
nitpicky = True

# Anchors as GitHub makes them from headings; []{#names} for those that tables have.
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]

html_theme = "furo"
html_title = f"mrelease {release}"
html_favicon = "static/favicon.svg"
html_logo = "static/favicon.svg"
html_static_path = ["static"]
html_css_files = ["site.css"]
templates_path = ["templates"]
html_additional_pages = {"404": "404.html"}
# Where the site is on its host: the page of errors is served in any folder and has to find the others.
html_context = {"site_base": os.environ.get("SITE_BASE", "/")}
html_copy_source = False
html_use_index = False
html_show_sourcelink = False
html_show_copyright = False
html_show_sphinx = False
html_last_updated_fmt = None
html_theme_options: dict[str, object] = {"navigation_with_keys": True, "top_of_page_buttons": []}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
