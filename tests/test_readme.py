"""The README's Python runs as it stands, and what it states about results is in the repository."""

import pathlib
import re

import pytest

from .test_layers import LAYERS

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
PAGES = {  # and the most lines
    "README.md": 100,
    "ARCHITECTURE.md": 150,
    "CONTRIBUTING.md": 150,
    "docs/results/README.md": None,
    "docs/reviewers.md": None,
}


def test_python_block_runs_and_gives_what_it_says():
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) == 1
    names: dict = {}
    exec(blocks[0], names)
    assert names["codes"].shape == (1024, 32)
    assert f"# {names['score']:.4f}\n" in blocks[0]
    assert names["flops"] > 0
    objective = names["sc"].objectives.lasso
    signals, atoms = names["problem"].signals, names["trained"].params.dictionary
    before, after = (objective(signals, atoms, names[z], 0.02) for z in ("start", "refined"))
    assert after.mean() < 0.9 * before.mean()


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_exist_and_the_page_is_short(page):
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert ((ROOT / page).parent / link).exists(), link
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`]+)`", prose)
    for name in " ".join(spans).split():
        if re.fullmatch(r"[\w./]+\.(md|py|txt|toml|yaml)", name):
            places = (ROOT, (ROOT / page).parent, ROOT / "sparsecode_jax")
            assert any((place / name).exists() for place in places), name
    assert PAGES[page] is None or text.count("\n") <= PAGES[page]


def test_the_layers_are_those_that_the_tests_hold():
    section = (ROOT / "ARCHITECTURE.md").read_text().split("## Layers")[1].split("##")[0]
    rows = re.findall(r"^\|[^|]+\|([^|]+)\|$", section, flags=re.MULTILINE)[2:]
    assert [set(re.findall(r"`([\w.]+)`", row)) for row in rows] == [set(names) for names in LAYERS]


def test_every_result_is_listed():
    text = (ROOT / "docs" / "results" / "README.md").read_text()
    for path in (ROOT / "docs" / "results").iterdir():
        assert path.name == "README.md" or f"]({path.name})" in text, path.name


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make ([a-z-]+)", (ROOT / page).read_text())):
        assert f"\n{target}:" in makefile, target
