"""The pages and the API reference build, and formulas and sections of docstrings come out right."""

import html
import importlib.util
import pathlib
import pkgutil
import re
import sys

import pytest

import sparsecode_jax

from . import site_pages

ROOT = pathlib.Path(__file__).parents[1]
MODULES = [  # those that list public names
    name
    for name in ("sparsecode_jax", *(m.name for m in pkgutil.walk_packages(
        sparsecode_jax.__path__, prefix="sparsecode_jax.")))
    if hasattr(sys.modules.get(name), "__all__")
]  # fmt: skip

needed = pytest.mark.skipif(
    importlib.util.find_spec("sphinx_gallery") is None, reason='install ".[docs]"'
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    return site_pages.build(tmp_path_factory.mktemp("pages"), whole=False)


def api(pages):
    prefix = "generated/api/"
    return {
        name.removeprefix(prefix).removesuffix(".html"): page
        for name, page in pages.items()
        if name.startswith(prefix)
    }


def plain(page):
    return html.unescape(re.sub(r"<[^>]+>", "", page))


def test_every_public_module_is_listed():
    """Modules that another one exports as a part, and the package itself."""
    listed = set(re.findall(r"^   (sparsecode_jax\S*)$", (ROOT / "docs/api.md").read_text(), re.M))
    exported = {"sparsecode_jax"}
    for name in MODULES:
        module = sys.modules[name]
        parts = (getattr(module, part) for part in module.__all__)
        exported |= {p.__name__ for p in parts if type(p) is type(sys) and "._" not in name}
    assert listed == exported | {"sparsecode_jax.types"}


@needed
def test_every_public_name_is_there(pages):
    for module, page in api(pages).items():
        for name in sys.modules[module].__all__:
            value = getattr(sys.modules[module], name)
            if getattr(value, "__module__", "").startswith("sparsecode_jax"):
                assert f'id="{module}.{name}"' in page, (module, name)


@needed
def test_formulas_are_mathml(pages):
    for name in ("prox", "metrics", "solvers"):
        page = api(pages)[f"sparsecode_jax.{name}"]
        assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">' in page
    page = api(pages)["sparsecode_jax.prox"]
    written = (ROOT / "sparsecode_jax" / "prox.py").read_text().count(".. math::")
    assert page.count('display="block"') >= written > 0
    assert "<mo>arg</mo><munder><mo>min</mo>" in page
    assert not re.search(r"mathjax|katex", "".join(pages.values()), re.IGNORECASE)


@needed
def test_nothing_of_the_markup_is_left(pages):
    for name, page in api(pages).items():
        text = plain(page)
        for raw in (":class:", ":func:", ":math:", ":mod:", "math::", "~sparsecode_jax", "``"):
            assert raw not in text, (name, raw)
        assert "ForwardRef" not in text and "Alias for field" not in text, name


@needed
def test_sections_become_headings_and_lists(pages):
    page = api(pages)["sparsecode_jax.solvers"]
    start = page.index('id="sparsecode_jax.solvers.sparse_encode"')
    part = page[start : page.index('<dt class="sig', start + 1)]
    text = plain(part)
    for heading in ("Parameters:", "Returns:", "Raises:", "Example"):
        assert heading in text
    arguments = re.findall(r"<li><p><strong>(\w+)</strong>", part)
    assert arguments[:3] == ["signals", "dictionary", "penalty"] and "step_size" in arguments
    assert "signals: ArrayLike" in text and "ArrayLike | None = None" in text
    assert 'href="#sparsecode_jax.solvers.solve_to_tolerance"' in part and ">>> " in text
