"""Our curves against the published ones, in the short versions of the three settings."""

import numpy as np
import pytest
import scipy.stats

from experiments import common, known_codes, known_dictionary, paper, settings, unknown_dictionary


@pytest.mark.full_effort  # runs longer than it compiles
@pytest.mark.parametrize(
    ("experiment", "checks"), [(known_codes, 6), (known_dictionary, 10), (unknown_dictionary, 20)]
)
def test_short_version_agrees_with_the_published_curves(experiment, checks, tmp_path, capsys):
    assert experiment.main(experiment.QUICK, tmp_path)
    printed = capsys.readouterr().out
    assert printed.count(" yes\n") == checks
    assert " NO\n" not in printed
    assert not (tmp_path / "partial").exists()


@pytest.mark.parametrize("experiment", [known_dictionary, unknown_dictionary])
def test_every_published_method_is_compared_to_its_last_step(experiment):
    """The published curves in place of ours: they agree, and not if the last step is changed."""
    for method, curves in paper.published(experiment.SETTING).items():
        columns = [column for column in ("mcc_test", "dict_mcc") if column in curves]
        logged = curves["step"].astype(int).tolist()
        scores = [curves[column][:, None].copy() for column in columns]
        rows = experiment.agreement(method, logged, *scores)
        assert common.agreement(rows)[1]
        assert [row[1] for row in rows[-len(columns) :]] == [logged[-1]] * len(columns)
        late = f"{method}, " + ("latent MCC" if len(columns) == 1 else "dictionary MCC")
        allowed = experiment.TOLERANCE
        if method not in ("ito", "sparse_coding"):
            late, allowed = f"{late}, 2 sd", 2 * curves[f"{columns[-1]}_std"][-1]
        assert (rows[-1][0], rows[-1][-1]) == (late, allowed)
        scores[-1][-1] += 1.1 * allowed
        changed = experiment.agreement(method, logged, *scores)
        assert not common.agreement(changed[-1:])[1] and common.agreement(changed[:-1])[1]


def test_neighbors_of_true_atoms_are_as_near_as_those_of_random_ones():
    truth = settings.data("unknown_dictionary").dictionary
    arrays = {"sae_neighbors": np.full(5, 0.25), "sae_ito_neighbors": np.full(5, 0.25)}
    lines = unknown_dictionary.neighbors(("sae", "sae_ito"), truth, arrays).splitlines()
    low, high = map(float, lines[3].removeprefix("random").split(" to "))
    assert 0.45 < low < float(lines[2].split()[1]) < high < 0.75
    assert lines[4].split() == ["sae", "0.250±0.000"] and lines[5] == ""


def test_agreement_says_no():
    table, agree = common.agreement([("x", 1, 0.5, 0.6, 0.05), ("y", 2, 0.5, 0.51, 0.05)])
    assert not agree
    assert table.splitlines()[2].endswith("NO")
    assert table.splitlines()[3].endswith("yes")


def test_agreement_says_no_to_nan():
    assert not common.agreement([("x", 1, np.nan, 0.6, 0.05)])[1]


def test_sparse_coding_is_compared_with_the_others_at_the_last_record():
    config = unknown_dictionary.Config(methods=("sae", "sparse_coding"))
    runs = {"sae": [0.5, 0.6, 0.55], "sparse_coding": [0.7, 0.8, 0.81]}
    arrays = {f"{name}_mcc": np.asarray([[0.1] * 3, values]) for name, values in runs.items()}
    p = scipy.stats.ttest_ind(runs["sparse_coding"], runs["sae"], equal_var=False).pvalue
    row = unknown_dictionary.compared(config, arrays).splitlines()[-1].split()
    assert row[:2] == ["sae", "+0.220"] and row[-2:] == [f"{p:.2g}"] * 2
    assert not unknown_dictionary.compared(unknown_dictionary.Config(methods=("sae",)), arrays)
