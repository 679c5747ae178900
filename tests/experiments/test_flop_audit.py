"""The audit's statements about the paper's formulas."""

from experiments import flop_audit, paper


def test_sparse_coding_is_published_25_and_59_times_too_dear():
    published = paper.sparse_coding_step(8, 16, 1024, learned=True)
    once = flop_audit.corrected_sparse_coding_step(normalize_once=False)
    both = flop_audit.corrected_sparse_coding_step(normalize_once=True)
    assert (once, both) == (2_064_512, 886_016)
    assert round(published / once) == 25
    assert round(published / both) == 59


def test_every_formula_is_audited_and_differences_are_as_stated():
    ratios = {row.name: row.published / row.measured.total() for row in flop_audit.rows()}
    assert len(ratios) == 9
    assert 44.5 < ratios["sparse coding, step"] < 45.5
    assert all(0.8 < r < 2.0 for name, r in ratios.items() if name != "sparse coding, step")
    # The published inference holds the decoding (2MN), which is the whole difference.
    audited = {row.name: row for row in flop_audit.rows()}
    row = audited["SAE inference"]
    assert row.published - row.measured.total() == 1024 * 2 * 8 * 16


def test_report_breaks_totals_down_completely():
    for row in flop_audit.rows():
        assert sum(row.measured.by("class").values()) == row.measured.total()
    assert "59 times less" in flop_audit.report()
