"""Texts that a pip package brings, for language models without a network."""

from __future__ import annotations

import bz2
import html
import importlib.util
import pathlib
import re
import xml.etree.ElementTree as ElementTree

import numpy as np

DISTRIBUTION = "gensim"  # its tests' data; the package is not imported
NEWS = "lee_background.cor"  # 300 articles of a news service
WIKIPEDIA = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
SHORTEST = 500  # characters of a page that is kept
_NESTED = re.compile(r"\{\{[^{}]*\}\}|\{\|[^{}]*?\|\}", re.DOTALL)
_FILES = re.compile(
    r"\[\[(?:File|Image|Category|[a-z-]{2,12}):[^\[\]]*(?:\[\[[^\]]*\]\][^\[\]]*)*\]\]"
)
_PLAIN = (
    (re.compile(r"<!--.*?-->", re.DOTALL), ""),
    (re.compile(r"<(ref|math|gallery|timeline|source)\b[^>/]*>.*?</\1>", re.DOTALL), ""),
    (re.compile(r"<[^>]+>"), ""),
    (_FILES, ""),
    (re.compile(r"\[\[(?:[^\]|]*\|)?([^\]|]*)\]\]"), r"\1"),
    (re.compile(r"\[https?://\S+ ?([^\]]*)\]"), r"\1"),
    (re.compile(r"'{2,}"), ""),
    (re.compile(r"^[=*#:;|!].*$", re.MULTILINE), ""),
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r"\s*\n\s*"), "\n"),
)


def packaged(seed: int = 0) -> list[str]:
    """Return gensim's news and Wikipedia pages, 2.9 million characters, in an order of a seed."""
    found = importlib.util.find_spec(DISTRIBUTION)
    if found is None or found.origin is None:
        raise SystemExit(
            f"the texts are in the package {DISTRIBUTION}, which is not installed: run pip install "
            f"--no-deps {DISTRIBUTION}, or pass a UTF-8 file of yours by --text."
        )
    folder = pathlib.Path(found.origin).parent / "test" / "test_data"
    news = (folder / NEWS).read_text().splitlines()
    texts = [text for text in [*news, *_pages(folder / WIKIPEDIA)] if text.strip()]
    return [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))]


def _pages(path: pathlib.Path) -> list[str]:
    pages = []
    with bz2.open(path) as file:
        title = ""
        for _, element in ElementTree.iterparse(file):
            tag = element.tag.rpartition("}")[2]
            if tag == "title":
                title = element.text or ""
            if tag == "text" and ":" not in title:
                text = plain(element.text or "")
                if len(text) >= SHORTEST:
                    pages.append(text)
                element.clear()
    return pages


def plain(markup: str) -> str:
    """Return the prose of a page of Wikipedia: no templates, tables, references, lists, links."""
    text, before = html.unescape(markup), ""
    if text.lstrip().lower().startswith("#redirect"):
        return ""
    while text != before:  # innermost templates first
        text, before = _NESTED.sub("", text), text
    for pattern, new in _PLAIN:
        text = pattern.sub(new, text)
    return text.strip()
