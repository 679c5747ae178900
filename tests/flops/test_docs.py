"""The Python blocks of the documentation run as they stand."""

import re
from pathlib import Path

import pytest

from benchmarks import flop_repros
from sparsecode_jax.flops import CLASSES, FlopCount, eval_flops, rules

PAGE = (Path(__file__).parents[2] / "docs" / "flops.md").read_text(encoding="utf-8")


def test_python_blocks_run(monkeypatch):
    monkeypatch.setattr(rules, "_registry", {})
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) >= 6 and sum(block.count("assert") for block in blocks) >= 12
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/flops.md", "exec"), names)
    assert set(rules._registry) == {"my_kernel", "my_softplus", "my_halving"}


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_in_the_convention_table(name):
    assert re.search(rf"^\|.*`{name}`.*\|", PAGE, flags=re.MULTILINE)


def test_every_public_method_is_on_the_page():
    methods = [name for name in vars(FlopCount) if not name.startswith("_")]
    missing = [name for name in methods if f".{name}(" not in PAGE]
    assert set(missing) == {"counters", "table"}


def test_counts_of_programs_of_public_reports():
    cases = flop_repros.cases()
    assert len(cases) >= 15
    page = flop_repros.PAGE.read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| \[(\S+)\]\(\S+\) \| (.*?) \| ([\d,]+) \| ([\d,]+) \|", page, re.MULTILINE
    )
    for case, row in zip(cases, rows, strict=True):
        count = eval_flops(case.fn, *case.args).total(case.convention)
        assert count == case.truth, case.program
        assert row == (case.issue, case.program, f"{case.truth:,}", f"{count:,}")
