"""The README's Python runs as it stands, and what it states about results is in the repository."""

import pathlib
import re

import jax

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_python_blocks_run_in_order():
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) == 4
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert names["codes"].shape == (1024, 32)
    assert names["count"].total() > 0
    score = names["sc"].metrics.mcc(names["problem"].codes, names["start"])
    assert isinstance(score, jax.Array)


def test_linked_files_exist():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", TEXT)
    assert len(links) >= 4
    for link in links:
        assert (ROOT / link).exists(), link


def test_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", TEXT)):
        assert f"\n{target}:" in makefile, target
