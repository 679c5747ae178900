"""The paper's phase diagram: its settings, what is kept, the table, the finer grid."""

import dataclasses
import re

import numpy as np
import pytest

import sparsecode_jax as sc
from experiments import paper, phase_diagram, plots, variants
from experiments.phase_diagram import FIRST_SEED, LEARNED


def test_published_numbers_of_every_cell():
    before = phase_diagram.published()
    assert {method: len(cells) for method, cells in before.items()} == {
        "sae": 24, "mlp32": 24, "sparse_coding": 24, LEARNED: 0,
    }  # fmt: skip
    assert abs(before["sparse_coding"][16, 8, 3]["latent_mcc"] - 0.7325) < 1e-3
    assert abs(before["sae"][128, 32, 9]["dict_mcc"] - 0.538) < 1e-3


@pytest.mark.parametrize(
    ("method", "rate"), [("sae", 1e-3), ("mlp32", 1e-3), ("sparse_coding", 3e-3)]
)
def test_methods_are_trained_as_published(method, rate, monkeypatch):
    asked = []

    def keep(stages, part, method, given, **options):
        asked.append((part, method, given, options))

    monkeypatch.setattr(variants, "measure", keep)
    for cell in ((16, 8, 3), (32, 16, 15)):
        phase_diagram.measure(None, phase_diagram.Config(), method, cell)
    for (part, name, given, options), cell, steps in zip(
        asked, ("16-8-3", "32-16-15"), (50_000, 25_000), strict=True
    ):
        assert (part, name) == (f"{method}-{cell}", method)
        assert options == {
            "num_steps": steps, "learning_rate": rate, "test_steps": 10_000, "test_rate": 1e-3,
            "use_bias": True, "score": phase_diagram.scores,
        }  # fmt: skip
        assert given.seeds == tuple(FIRST_SEED + run for run in range(3))
        np.testing.assert_array_equal(given.penalties, np.float32(paper.PENALTY))
        n, m, k = map(int, cell.split("-"))
        assert given.data.dictionary.shape == (3, n, m)
        assert ((given.data.train_codes != 0).sum(axis=-1) == k).all()
        assert not np.allclose(given.data.dictionary[0], given.data.dictionary[1])


def test_test_codes_are_optimized_at_the_rate_that_is_given(tmp_path):
    given = variants.runs((1,), (1,), (0.01,))
    training = {"num_steps": 2, "learning_rate": 1e-3}
    with sc.io.Run(tmp_path / "kept", {}, name="test") as run:
        found = variants.measure(
            run, "part", variants.SPARSE_CODING, given, **training, test_steps=10, test_rate=0.2
        )
    params = variants.train(variants.SPARSE_CODING, given, **training).params
    slow, fast = (
        variants.infer_codes(
            variants.SPARSE_CODING, given, params, num_steps=10, learning_rate=rate
        ).mean()
        for rate in (3e-3, 0.2)
    )
    assert fast > 1.2 * slow
    np.testing.assert_allclose(found["mean_abs_code"], fast, rtol=1e-3)


def test_chance_is_that_of_unrelated_codes_and_atoms():
    seeds = FIRST_SEED, FIRST_SEED + 1
    given = variants.runs(seeds, seeds, (0.01,) * 2)
    codes = given.data.test_codes.copy()
    found = phase_diagram.scores(given, given.data.dictionary, codes)
    np.testing.assert_allclose(found["latent_mcc"], 1, atol=1e-5)
    np.testing.assert_allclose(found["latent_chance"], 0.058, atol=0.008)
    np.testing.assert_allclose(found["dict_chance"], 0.67, atol=0.03)
    fewer = phase_diagram.scores(given, given.data.dictionary, codes * (np.arange(16) < 8))
    np.testing.assert_allclose(fewer["latent_chance"], found["latent_chance"] / 2, atol=0.012)
    codes[1, 0] = np.nan
    failed = phase_diagram.scores(given, given.data.dictionary, codes)
    assert failed["latent_chance"][0] == found["latent_chance"][0]
    assert np.isnan(failed["latent_chance"][1])


def test_what_is_learned_is_kept_and_goes_on(tmp_path, capsys, monkeypatch):
    config = dataclasses.replace(phase_diagram.QUICK, methods=(LEARNED,))
    learn, ran = phase_diagram.learn, []

    def stop(config, given):
        ran.append(int((given.data.test_codes[0, 0] != 0).sum()))
        if len(ran) == 2:
            raise KeyboardInterrupt
        return learn(config, given)

    monkeypatch.setattr(phase_diagram, "learn", stop)
    with pytest.raises(KeyboardInterrupt):
        phase_diagram.main(config, tmp_path)
    assert [p.name for p in tmp_path.rglob("*.npz")] == ["learned-16-16-3.npz"]
    phase_diagram.main(config, tmp_path)
    assert ran == [3, 15, 15]  # nothing twice
    assert "alternating minimization  16  16   3" in capsys.readouterr().out
    assert not list(tmp_path.rglob("learned-*"))
    arrays, _ = sc.io.load_results(tmp_path / "phase_diagram")
    assert arrays["learned/latent_mcc"].shape == (2, 1, 1, 2)
    assert arrays["learned/latent_mcc"][0].min() > 0.97
    assert arrays["learned/true_dictionary"][0].min() > 0.97
    assert not (tmp_path / "phase_diagram_differences.png").exists()  # to nothing


def rows_of(text, label):
    return [
        re.split(r"\s{2,}", line) for line in text.splitlines() if re.match(rf"{label} +\d", line)
    ]


def test_the_table_compares_counts_failures_and_leaves_out_what_was_not_published():
    config = phase_diagram.Config(num_atoms=(16, 32), num_measurements=(16,), num_active=(3, 15))
    rng = np.random.default_rng(0)
    arrays = {}
    for method, level in (("sae", 0.9), ("sparse_coding", 0.95), (LEARNED, 0.99)):
        for key in ("latent_mcc", "latent_chance", "dict_mcc", "dict_chance", "dead", "mse",
                    "flops", "true_dictionary"):  # fmt: skip
            arrays[f"{method}/{key}"] = level + 0.01 * rng.random((2, 1, 2, 3))
    arrays["sae/latent_mcc"][0, 0, 0] = [0.94, 0.96, 0.98]  # .958 was published
    arrays["sae/latent_mcc"][0, 0, 1, 2] = np.nan
    arrays["learned/latent_mcc"][0, 0, 1] = 0.945  # above the published .928, within the boundary
    text = phase_diagram.table(arrays, config)
    first, second, third, _ = rows_of(text, "SAE")[:4]
    assert first[1:4] == ["16", "16", "3"] and first[4:6] == ["0.960±0.050", "0.958"]
    assert second[4] == "1 of 3 failed" and second[5] == "0.577"
    assert third[3] == "15" and third[5].startswith("0.9")  # chance: nothing was published
    assert "SAE: the published mean latent MCC is inside our interval in 1 of 2 cells" in text
    assert "over all 8 comparisons, 1 of which have a run" in text  # 4 cells, 2 methods
    assert rows_of(text, "SAE")[-2][1:3] == ["3", "2"]
    assert "nan" not in text
    goals = [line.split() for line in text.splitlines() if re.match(r"\d", line)][-4:]
    assert [row[-1] for row in goals[:2]] == ["yes", "NO"]
    assert goals[1][-2] == "0.950" and len(goals[2]) == 6


def test_figures_draw_the_boundary_and_what_failed_is_left_out(tmp_path, monkeypatch):
    assert paper.recovery_boundary(32, 3) == pytest.approx(14.2027, abs=1e-4)
    drawn = {}
    monkeypatch.setattr(plots, "_write", lambda figure, path: drawn.update({path.stem: figure}))
    config = phase_diagram.Config(num_active=(3, 9))
    levels = {"sae": 0.5, "sparse_coding": 0.75}
    arrays = {f"{name}/latent_mcc": np.full((2, 3, 4, 3), x) for name, x in levels.items()}
    arrays["sae/latent_mcc"][0, 0, 0, 0] = np.nan
    phase_diagram.figures(arrays, config, tmp_path)
    both, difference = drawn["phase_diagram"].axes, drawn["phase_diagram_differences"].axes
    titles = [axis.get_title() for axis in both[:4]]
    assert titles == [f"{x}, K = {k}" for k in (3, 9) for x in ("SAE", "sparse coding")]
    for axis, k in zip((*both[:4], *difference[:2]), (3, 3, 9, 9, 3, 9), strict=True):
        n, m = axis.lines[0].get_data()
        np.testing.assert_allclose(m, 2 * k * np.log(n / k))
    assert [text.get_text() for text in both[0].texts] == ["nan"] + ["0.50"] * 11
    assert [text.get_text() for text in difference[1].texts] == ["-0.25"] * 12
    plots.fine_phases(np.ones((13, 20)), phase_diagram.Fine(), tmp_path / "fine.png")
    k, m = drawn["fine"].axes[0].lines[0].get_data()
    np.testing.assert_allclose(m, 2 * k * np.log(32 / k))


def test_active_atoms_on_an_axis_are_those_of_a_program_of_their_own():
    config = dataclasses.replace(phase_diagram.QUICK_FINE, penalties=(0.01, 100))
    together = phase_diagram.sweep_active(config, 28)
    np.testing.assert_allclose(together["penalty"], 0.01)  # with the other one all codes are 0
    for i, k in enumerate(config.num_active):
        alone = phase_diagram.sweep_active(dataclasses.replace(config, num_active=(k,)), 28)
        for key, values in alone.items():
            np.testing.assert_allclose(together[key][i], values[0], atol=1e-3, err_msg=key)
    assert (together["latent_mcc"][:2] > 0.97).all()
    assert (together["latent_chance"] < 0.25).all()
    fewer = phase_diagram.sweep_active(config, 8)["latent_mcc"].mean(axis=-1)
    assert fewer[0] > 0.95 and (np.diff(fewer) < -0.05).all()


def test_the_finer_table_says_up_to_where_atoms_are_recovered():
    config = phase_diagram.Fine(num_measurements=(8, 28), num_active=(1, 3, 5), num_runs=2)
    latent = np.stack([[[0.99] * 2, [0.94] * 2, [0.96] * 2], [[0.99] * 2] * 3])
    arrays = {"latent_mcc": latent, "latent_chance": 0.1 * latent}
    text = phase_diagram.fine_table(arrays, config)
    assert [line.split() for line in text.splitlines()[-2:]] == [["8", "1", "1"], ["28", "5", "5"]]
    assert "0.094 to 0.099" in text
    latent[0] = 0.5
    assert phase_diagram.fine_table(arrays, config).splitlines()[-2].split() == ["8", "none", "1"]


def test_the_short_version_writes_tables_figures_and_results(tmp_path):
    phase_diagram.main(phase_diagram.QUICK, tmp_path)
    phase_diagram.fine(phase_diagram.QUICK_FINE, tmp_path)
    names = {"phase_diagram", "phase_diagram_differences", "phase_diagram_fine"}
    assert {p.stem for p in tmp_path.glob("*.png")} == names
    for name in ("phase_diagram", "phase_diagram_fine"):
        arrays, _ = sc.io.load_results(tmp_path / name)
        assert all(np.isfinite(values).all() for values in arrays.values())
        assert "nan" not in (tmp_path / f"{name}.txt").read_text()
    assert not (tmp_path / "partial").exists()
