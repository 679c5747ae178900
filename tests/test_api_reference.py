"""The API reference builds from the docstrings, and their formulas and sections come out right."""

import html
import importlib.util
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import sparsecode_jax

ROOT = pathlib.Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pdoc") is None, reason='pdoc is not installed (pip install ".[docs]")'
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, str(ROOT / "docs" / "build_api.py"), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0 and "Warn" not in run.stderr, run.stderr
    texts = {}
    for path in (folder / "sparsecode_jax.html", *(folder / "sparsecode_jax").glob("*.html")):
        text = re.sub(r"<style.*?</style>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        texts[path.stem] = text
    return texts


def plain(page):
    return html.unescape(re.sub(r"<[^>]+>", "", page))


def test_every_public_module_has_a_page(pages):
    modules = {
        name.removeprefix("sparsecode_jax.")
        for name, module in sys.modules.items()
        if name.startswith("sparsecode_jax.") and name.split(".")[1] in sparsecode_jax.__all__
    }
    assert set(pages) == {name for name in modules if "." not in name} | {"sparsecode_jax"}


def test_formulas_are_left_to_mathjax(pages):
    assert "mathjax" in pages["solvers"].lower()
    text = plain(pages["solvers"])
    assert r"\[ z \leftarrow \mathrm{prox}_{s\lambda}\big(z - s\,(zD - x)D^\top\big) \]" in text
    assert r"\qquad z = \mathrm{prox}_\lambda(u) \]" in text  # across two lines
    assert r"\( L\|z_0 - z^*\|^2 / 2k \)" in text
    for name, page in pages.items():
        text = plain(page)
        assert text.count(r"\[ ") == text.count(r" \]"), name


def test_every_formula_of_the_docstrings_is_there(pages):
    sources = {name: sys.modules[f"sparsecode_jax.{name}"] for name in ("prox", "metrics")}
    for name, module in sources.items():
        written = pathlib.Path(module.__file__).read_text().count(".. math::")
        assert plain(pages[name]).count(r"\[ ") == written > 0


def test_nothing_of_the_markup_is_left(pages):
    for name, page in pages.items():
        text = plain(page)
        for raw in (":class:", ":func:", ":math:", ":mod:", "math::", "~sparsecode_jax", "``"):
            assert raw not in text, (name, raw)
        assert "ForwardRef" not in text and "_jax.Array" not in text, name


def test_sections_become_headings_and_lists(pages):
    page = pages["solvers"]
    start = page.index('id="sparse_encode"')
    part = page[start : page.index("</section>", start)]
    headings = re.findall(r"<h6[^>]*>(.*?)</h6>", part)
    assert headings == ["Arguments:", "Returns:", "Raises:", "Example:"]
    arguments = re.findall(r"<li><strong>(\w+):</strong>", part)
    assert arguments[:3] == ["signals", "dictionary", "penalty"] and "step_size" in arguments
    assert "signals: ArrayLike" in plain(part) and "ArrayLike | None = None" in plain(part)
    assert '<a href="#solve_to_tolerance">' in part
    prompts = inspect.getdoc(sparsecode_jax.solvers.sparse_encode).count(">>> ")
    assert plain(part).count(">>> ") == prompts and "... " in plain(part)
