"""Examples run, and the whole site builds, links to what is there and needs no network."""

import importlib.util
import pathlib
import runpy
import urllib.parse

import pytest

from . import site_pages

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))


def test_examples_are_short():
    assert len(EXAMPLES) >= 6 and len(TUTORIALS) >= 7
    for path in EXAMPLES:
        assert path.read_text().count("\n") <= 60, path.name


@pytest.mark.parametrize(
    "path", [p for p in EXAMPLES if p.stem != "many_hosts"], ids=lambda path: path.stem
)
def test_example_runs_and_draws(path, monkeypatch, capsys):
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "show", lambda: None)
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out
    (number,) = plt.get_fignums()
    assert plt.figure(number).axes
    plt.close("all")


def test_every_page_is_in_a_table_of_contents():
    index = (ROOT / "docs" / "index.md").read_text().split()
    for path in (ROOT / "docs").rglob("*.md"):
        name = path.relative_to(ROOT / "docs").with_suffix("").as_posix()
        assert name in index or name == "index" or "generated" in name, name


def test_make_builds_the_site():
    makefile = (ROOT / "Makefile").read_text()
    assert "\ndocs: $(VENV)/docs.stamp\n\t$(BIN)/python -m sphinx -W " in makefile


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sphinx_gallery") is None, reason='install ".[docs]"')
def test_the_site(tmp_path):
    """Tutorials and the gallery are executed; an error in one of them fails the build."""
    pages = site_pages.build(tmp_path, whole=True)
    site = tmp_path / "site"
    for path in (*EXAMPLES, *TUTORIALS):
        folder = "tutorials" if path in TUTORIALS else "gallery"
        page = pages[f"generated/{folder}/{path.stem}.html"]
        assert path.stem == "many_hosts" or "sphx-glr-script-out" in page, path.name
    for name, page in pages.items():
        for url in site_pages.fetched(page):
            assert not urllib.parse.urlsplit(url).netloc, (name, url)
        for url in site_pages.links(page):
            parts = urllib.parse.urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            path = urllib.parse.unquote(parts.path)
            target = (site / name).parent / path if path else site / name
            assert target.exists(), (name, url)
            if parts.fragment and target.suffix == ".html":
                key = target.resolve().relative_to(site.resolve()).as_posix()
                anchor = urllib.parse.unquote(parts.fragment)
                assert f'id="{anchor}"' in pages[key], (name, url)
    for path in site.rglob("*.css"):
        assert "url(http" not in path.read_text().replace('"', "").replace("'", ""), path.name
