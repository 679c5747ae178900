"""Build the site from a copy of its sources, so that no test writes into the working tree."""

import html
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]


def build(folder, *, whole):
    """Return the text of every page by its path; without ``whole`` nothing is executed."""
    for name in ("docs", "examples"):
        ignored = shutil.ignore_patterns("generated", "__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for path in ROOT.glob("*.md"):
        shutil.copy(path, folder)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    if not whole:  # pages and the API alone, without galleries and listings
        settings = (f"extensions={','.join(PAGES)}", "suppress_warnings=toc.not_readable")
        command += [word for setting in settings for word in ("-D", setting)]
    command += [str(folder / "docs"), str(folder / "site")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    site = folder / "site"
    return {p.relative_to(site).as_posix(): p.read_text("utf-8") for p in site.rglob("*.html")}


def fetched(page):
    """Return what a browser fetches to show a page: scripts, styles, fonts, images."""
    tags = re.findall(r"<(?:script|link|img|iframe|source|video|audio|object|embed)\b[^>]*>", page)
    return [url for tag in tags for url in re.findall(r'\b(?:src|href|srcset|data)="([^"]*)"', tag)]


def links(page):
    """Return where a page's links and everything else that it names lead."""
    return [html.unescape(url) for url in re.findall(r'\b(?:src|href)="([^"]*)"', page)]
