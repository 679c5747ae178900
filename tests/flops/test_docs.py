"""The Python blocks of the documentation run as they stand."""

import re
from pathlib import Path

import pytest

from benchmarks import flop_repros
from sparsecode_jax.flops import CLASSES, PEAK_FLOPS, FlopCount, eval_flops, rules

PAGE = (Path(__file__).parents[2] / "docs" / "flops.md").read_text(encoding="utf-8")


def test_python_blocks_run(monkeypatch):
    monkeypatch.setattr(rules, "_registry", {})
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) >= 6 and sum(block.count("assert") for block in blocks) >= 12
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/flops.md", "exec"), names)
    registered = {getattr(key, "name", key) for key in rules._registry}
    assert registered == {"my_kernel", "my_softplus", "my_halving", "banded_product"}


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_in_the_convention_table(name):
    assert re.search(rf"^\|.*`{name}`.*\|", PAGE, flags=re.MULTILINE)


def test_the_table_of_peaks_is_that_of_the_package():
    header, *rows = re.findall(r"^\|(?: chip| \[)(.*)\|$", PAGE, flags=re.MULTILINE)
    dtypes = [name.strip() for name in header.split("|")[1:]]
    table = {}
    for row in rows:
        chip, *peaks = (cell.strip() for cell in row.split("|"))
        table[chip.partition("]")[0]] = {
            dtype: 1e12 * float(peak) for dtype, peak in zip(dtypes, peaks, strict=True) if peak
        }
    for chip, peaks in PEAK_FLOPS.items():
        named = {re.sub("8_.*", "8", dtype): peak for dtype, peak in peaks.items()}
        assert table[chip] == pytest.approx(named), chip
    assert set(table) == set(PEAK_FLOPS)


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
