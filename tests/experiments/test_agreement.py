"""Our curves against the published ones, in the short versions of the three settings."""

import numpy as np
import pytest

from experiments import common, known_codes, known_dictionary, unknown_dictionary


@pytest.mark.full_effort  # runs longer than it compiles
@pytest.mark.parametrize(
    ("experiment", "checks"), [(known_codes, 6), (known_dictionary, 10), (unknown_dictionary, 8)]
)
def test_short_version_agrees_with_the_published_curves(experiment, checks, tmp_path, capsys):
    assert experiment.main(experiment.QUICK, tmp_path)
    printed = capsys.readouterr().out
    assert printed.count(" yes\n") == checks
    assert " NO\n" not in printed
    assert not (tmp_path / "partial").exists()


def test_agreement_says_no():
    table, agree = common.agreement([("x", 1, 0.5, 0.6, 0.05), ("y", 2, 0.5, 0.51, 0.05)])
    assert not agree
    assert table.splitlines()[2].endswith("NO")
    assert table.splitlines()[3].endswith("yes")


def test_agreement_says_no_to_nan():
    assert not common.agreement([("x", 1, np.nan, 0.6, 0.05)])[1]
