"""The Python blocks of the documentation run as they stand."""

import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import flop_counters, flop_repros
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


def table_of_reports():
    """Return the page of public reports, and the cells of its table."""
    page = flop_repros.PAGE.read_text(encoding="utf-8")
    header, *rows = re.findall(r"^\| (.*) \|$", page, flags=re.MULTILINE)
    assert tuple(header.split(" | ")) == flop_repros.COLUMNS
    return page, [row.split(" | ") for row in rows]


def test_counts_of_programs_of_public_reports():
    cases = flop_repros.cases()
    assert len({case.issue for case in cases}) >= 16
    for case, row in zip(cases, table_of_reports()[1], strict=True):
        count = eval_flops(case.fn, *case.args).total(case.convention)
        assert count == case.truth, case.program
        cells = [flop_repros.link(case.issue), case.program, f"{case.truth:,}", f"{count:,}"]
        assert row[:4] == cells


def test_what_others_count_of_public_reports():
    page, rows = table_of_reports()
    for case, row in zip(flop_repros.cases(), rows, strict=True):
        for column, cell in zip(flop_repros.COLUMNS[4:], row[4:], strict=True):
            assert re.fullmatch(r"-?[\d,]+( / [\d,]+)?|-|raises", cell), row
            assert (cell == "raises") == (f"`, {column} of {case.issue}." in page), row
        assert (row[7] == "-") == (case.module is None) and row[8] != "-"
        if f"jax {jax.__version__}," in page:
            program = flop_counters.Program(case.program, case.fn, case.args, {})
            assert row[6] == flop_counters.roofline(program, "flops", "unfused_flops")


def test_a_module_that_raises_leaves_others_countable():
    def module(nnx, rngs, after=()):
        return nnx.Sequential(nnx.Linear(2, 3, rngs=rngs), *after)

    program = flop_counters.Program("", None, (jnp.ones((4, 2)),), {}, None, module)
    raising = program._replace(module=lambda *a: module(*a, after=[lambda x: x.no_such]))
    expected = f"{4 * 3 * (2 * 2 + 1):,}"  # with the bias
    for tried, count in ((program, expected), (raising, "AttributeError"), (program, expected)):
        assert flop_counters.nnx_tabulate(tried) == count


def test_without_torch_the_table_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match=r'the extra bench: pip install -e "\.\[bench\]"'):
        flop_repros.main(write=False)
