"""Better codes for a dictionary: scores, costs and choices recomputed, and what is refused."""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import encoders, metrics, solvers

M, N, K, S, CHOICE = 10, 24, 3, 230, 60
KEYS = jax.random.split(jax.random.key(0), 5)
SIGNALS = np.asarray(
    sc.synthetic.sample_problem(
        KEYS[0], K, num_samples=S, num_measurements=M, num_atoms=N
    ).signals
) + np.float32(0.3)  # fmt: skip


@functools.cache
def autoencoder(kind="topk"):
    """Return an encoder that reads signals badly, and atoms of different norms."""
    atoms = sc.dictionaries.random(KEYS[1], num_atoms=N, num_measurements=M)
    norms = 0.5 + jax.random.uniform(KEYS[2], (N, 1))
    bias = jnp.full(M, 0.3)
    if kind == "topk":
        encoder = encoders.top_k(M, N, num_active=K)
    elif kind == "abstopk":
        encoder = encoders.abs_top_k(M, N, num_active=K)
    else:
        encoder = encoders.linear(M, N)
    params = encoders.LinearParams(atoms, -atoms @ bias - (0.2 if kind == "linear" else 0.0))
    return sc.io.as_sae(encoder, params, atoms * norms, bias)


def improve(sae, signals=SIGNALS, **options):
    options = {"num_choice": CHOICE, "batch_size": 64, "num_steps": [4], **options}
    return sc.improve(sae, signals, progress=None, **options)


@pytest.fixture(scope="module")
def found():
    return improve(autoencoder())


NAMES = (
    "encoder", "encoder, refit", "encoder, ISTA 4, refit", "encoder, FISTA 4, refit",
    "encoder, SpaRSA 4, refit", "OMP", "OLS", "gradient pursuit, refit",
    "OMP 5, leave-one-out, refit",
)  # fmt: skip


def test_scores_are_those_of_the_codes_of_signals_that_were_not_chosen_on(found):
    sae, scored = autoencoder(), SIGNALS[CHOICE:]
    assert found.names == NAMES
    assert found.num_signals == S - CHOICE and found.num_active == K
    for row, infer in enumerate(found.inferences):
        codes = infer(scored)
        assert codes.shape == (S - CHOICE, N)
        again = sae.decode(codes)
        np.testing.assert_allclose(found.r2[row], metrics.r2(scored, again), atol=2e-6)
        assert found.l0[row] == pytest.approx(float(metrics.l0(codes)))
        assert found.dead_fraction[row] == pytest.approx(float(metrics.dead_fraction(codes)))
        most = int(jnp.max(jnp.sum(codes != 0, axis=1)))
        assert most <= (5 if "leave" in found.names[row] else K)
    assert found.l0[-1] == pytest.approx(K, abs=0.3)


def test_codes_are_those_of_the_algorithms_that_they_are_named_after(found):
    sae, scored = autoencoder(), SIGNALS[CHOICE:]
    norms = jnp.linalg.norm(sae.dictionary, axis=1)
    atoms, centered = sae.dictionary / norms[:, None], scored - np.asarray(sae.bias)
    own = sae.encode(scored)
    expected = {
        "encoder": own,
        "encoder, refit": solvers.refit(own, centered, sae.dictionary, num_active=K),
        "OLS": sc.sparse_encode(centered, atoms, num_active=K) / norms,
    }
    for name, build in (("ISTA", solvers.ista), ("FISTA", solvers.fista)):
        row = NAMES.index(f"encoder, {name} 4, refit")
        warm = sc.sparse_encode(
            centered, atoms, found.numbers[row], solver=build(), num_steps=4, codes0=own * norms
        )
        expected[NAMES[row]] = solvers.refit(warm, centered, atoms, num_active=K) / norms
    for name, codes in expected.items():
        got = found.inferences[NAMES.index(name)](scored)
        np.testing.assert_allclose(got, codes, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("number", [2, 5])
def test_inferences_are_traced_too(found, number):
    infer = found.inferences[number]
    reader = infer.func.__self__  # as after a run that was resumed
    reader.steps.clear()
    reader.gram = None
    codes = jax.jit(infer)(SIGNALS[:64])
    np.testing.assert_allclose(infer(SIGNALS[:64]), codes, atol=1e-5)


def test_better_codes_explain_more():
    found = improve(autoencoder())
    r2 = dict(zip(found.names, found.r2, strict=True))
    assert r2["encoder"] < r2["encoder, refit"] < r2["encoder, FISTA 4, refit"] < r2["OMP"]
    assert r2["OMP"] < max(r2["OLS"], r2["OMP 5, leave-one-out, refit"])
    assert np.isnan(found.numbers[[0, 1, 5, 6, 7]]).all() and (found.numbers[2:5] > 0).all()


def test_operations_are_those_of_each_signal_and_those_of_the_dictionary(found):
    count = sc.flops.count_flops
    assert found.flops[0] == 2 * M * N + N + K  # a product, the bias, and putting K in place
    whole = {size: count(found.inferences[5])(SIGNALS[:size]).total() for size in (1, 30)}
    assert found.flops[5] == pytest.approx((whole[30] - whole[1]) / 29)
    products = 2 * M * N * N  # of all atoms, made once; an inference is given them
    assert found.flops_once[5] == pytest.approx(whole[1] - found.flops[5] + products)
    step = count(sc.dictionaries.step_size)(autoencoder().dictionary).total()
    refit = products + 5 * M * N  # and atoms scaled to unit norm
    both = step + refit
    assert found.flops_once[:4].tolist() == [0, refit, both, both]
    assert (found.seconds > 0).all()


def test_the_recommendation_is_the_best_within_the_budget(found):
    budget = (found.flops[0] + found.flops[1]) / 2
    assert improve(autoencoder(), max_flops=budget).best == 0
    assert found.best == int(np.argmax(found.r2))
    dominated = [
        any((found.flops <= flops) & (found.r2 > r2))
        for flops, r2 in zip(found.flops, found.r2, strict=True)
    ]
    assert found.efficient.tolist() == [not better for better in dominated]
    tied = sys.modules["sparsecode_jax._improve"]._efficient
    assert tied(np.array([1, 2, 2.0, 3]), np.array([0.5, 0.5, np.nan, 0.6])).tolist() == [
        True, False, False, True,
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"max_flops is 10 per signal, .* encoder, takes 507"):
        improve(autoencoder(), max_flops=10)


def test_nothing_is_chosen_on_the_signals_that_are_scored(found):
    others = np.concatenate([SIGNALS[:CHOICE], SIGNALS[CHOICE:][::-1] * 3 - 1])
    again = improve(autoencoder(), others)
    np.testing.assert_array_equal(again.numbers, found.numbers)
    assert again.best == found.best and not np.allclose(again.r2, found.r2)


def test_batch_size_changes_no_score(found):
    again = improve(autoencoder(), batch_size=200)
    np.testing.assert_allclose(again.r2, found.r2, atol=1e-5)
    np.testing.assert_allclose(again.l0, found.l0, atol=0.02)
    fixed = [0, 1, 2, 3, 5, 6, 7, 8]  # what SpaRSA does depends on the signals beside
    np.testing.assert_allclose(again.flops[fixed], found.flops[fixed], rtol=1e-3)


def test_signed_codes_where_the_autoencoder_has_them():
    found = improve(autoencoder("abstopk"), num_steps=[])
    assert all((infer(SIGNALS) < 0).any() for infer in found.inferences)
    assert found.r2[found.names.index("OMP")] > found.r2[0]


def test_k_is_the_mean_of_an_encoder_without_one():
    sae = autoencoder("linear")
    found = improve(sae, num_steps=[])
    l0 = float(metrics.l0(sae.encode(SIGNALS[:CHOICE])))
    assert found.num_active == round(l0) and l0 % 1 != 0
    assert improve(sae, num_steps=[], num_active=2).num_active == 2


def test_atoms_that_are_zero_stay_out():
    sae = autoencoder()
    atoms = sae.dictionary.at[jnp.array([2, 7])].set(0)
    sae = sc.io.as_sae(encoders.top_k(M, N, num_active=K), sae.params, atoms, sae.bias)
    found = improve(sae, num_steps=[])
    for infer in found.inferences[1:]:
        codes = infer(SIGNALS)
        assert codes.shape == (S, N) and not codes[:, [2, 7]].any()
    assert found.r2[found.names.index("OMP")] > found.r2[0]


@pytest.mark.parametrize("how", ["layer_norm", "constant_norm_rescale"])
def test_normalized_signals_are_scored_on_their_own_scale(how):
    sae = autoencoder()
    config = {**sae.config, "normalize_activations": how}
    sae = sc.io.saes.of_tensors(config, {k: np.asarray(v) for k, v in sae.tensors.items()})
    found = improve(sae, num_steps=[])
    scored = SIGNALS[CHOICE:]
    np.testing.assert_allclose(found.r2[0], metrics.r2(scored, sae.forward(scored)), atol=1e-5)
    assert found.r2[found.names.index("OMP")] > found.r2[0]


def test_heads_are_put_together():
    sae = autoencoder()
    config = {**sae.config, "reshape_activations": "hook_z"}
    heads = sc.io.saes.of_tensors(config, {k: np.asarray(v) for k, v in sae.tensors.items()})
    flat = improve(sae, num_steps=[])
    found = improve(heads, SIGNALS.reshape(S, 2, M // 2), num_steps=[])
    np.testing.assert_allclose(found.r2, flat.r2, atol=1e-6)
    assert found.inferences[0](SIGNALS.reshape(S, 2, M // 2)).shape == (S, N)


def test_a_model_judges_the_reconstructions():
    sae, seen = autoencoder(), []

    def loss_recovered(reconstruct):
        seen.append(np.asarray(reconstruct(SIGNALS.reshape(23, 10, M))))
        return float(len(seen))

    found = improve(sae, num_steps=[], loss_recovered=loss_recovered)
    assert found.loss_recovered.tolist() == [1, 2, 3, 4, 5, 6]
    for infer, again in zip(found.inferences, seen, strict=True):
        expected = sae.decode(infer(SIGNALS)).reshape(23, 10, M)
        np.testing.assert_allclose(again, expected, atol=1e-5)


def test_an_interrupted_run_goes_on(tmp_path):
    calls = []

    def stops(reconstruct):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 0.5

    options = {"num_steps": [], "checkpoint": tmp_path / "run.npz", "loss_recovered": stops}
    with pytest.raises(KeyboardInterrupt):
        improve(autoencoder(), **options)
    found = improve(autoencoder(), **options)
    assert len(calls) == 3 + 4  # the third, and the three after it
    whole = improve(autoencoder(), num_steps=[])
    np.testing.assert_array_equal(found.r2, whole.r2)
    improve(autoencoder(), **options)
    assert len(calls) == 7
    with pytest.raises(ValueError, match=r"another run \(.*num_active"):
        improve(autoencoder(), **options, num_active=2)
    with pytest.raises(ValueError, match=r"another run \(.*signals"):
        improve(autoencoder(), SIGNALS + 1, **options)


def test_the_table_has_a_row_for_each(found):
    lines = str(found).splitlines()
    assert len(lines) == 1 + len(NAMES)
    assert [line[3:].split("  ")[0] for line in lines[1:]] == list(NAMES)
    assert [line.startswith(">") for line in lines[1:]].index(True) == found.best
    assert f"{found.r2[5]:.4f}" in lines[6]


def test_what_needs_an_array_of_atoms_by_atoms_is_left_out(monkeypatch):
    monkeypatch.setattr(sys.modules["sparsecode_jax._improve"], "_WITH_GRAM", 20)
    found = improve(autoencoder(), num_steps=[])
    assert "gradient pursuit, refit" not in found.names
    assert found.skipped == (
        ("gradient pursuit, refit", "its array of 24 x 24 is left out above 20"),
    )
    assert "not run: its array" in str(found)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x: x[:, :9], r"shape \(230, 9\); \(S, 10\) is expected"),
        (lambda x: x[0], r"shape \(10,\)"),
        (lambda x: x[:9], "9 signals; at least 10"),
        (lambda x: np.where(np.arange(S)[:, None] == 200, np.nan, x), "signal 200 is not finite"),
        (lambda x: np.where(np.arange(S)[:, None] == 3, np.inf, x), "signal 3 is not finite"),
        (lambda x: x * np.float32(1e-20), r"largest magnitude .* is .*e-20; 1e-16 to 2e\+16"),
        (lambda x: x * np.float32(1e20), "largest magnitude"),
        (lambda x: x * 0, "all the same"),
        (lambda x: np.concatenate([x[:40], x[:1].repeat(190, 0)]), "all the same"),
    ],
)
def test_signals_that_are_none_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        improve(autoencoder(), change(SIGNALS))


def test_weights_that_are_not_finite_are_never_recommended():
    sae = autoencoder()
    bad = sae.params._replace(weight=sae.params.weight.at[0, 0].set(jnp.nan))
    sae = sc.io.as_sae(encoders.top_k(M, N, num_active=K), bad, sae.dictionary, sae.bias)
    found = improve(sae, num_steps=[], num_active=K)
    assert np.isnan(found.r2[0]) and not found.efficient[0]
    assert found.best > 1 and found.r2[found.best] > 0.5


def test_a_zero_signal_is_refused_where_its_norm_is_divided_by():
    sae = autoencoder()
    config = {**sae.config, "normalize_activations": "constant_norm_rescale"}
    sae = sc.io.saes.of_tensors(config, {k: np.asarray(v) for k, v in sae.tensors.items()})
    with pytest.raises(ValueError, match="signal 100 is all zeros"):
        improve(sae, np.where(np.arange(S)[:, None] == 100, 0, SIGNALS))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_flops": "100"}, "real numbers"),
        ({"max_flops": np.nan}, "max_flops is nan"),
        ({"max_flops": -1}, "max_flops is -1; a number > 0"),
        ({"num_steps": 5}, "num_steps is 5; a list of different integers"),
        ({"num_steps": [3, 3]}, "different integers"),
        ({"num_steps": [0]}, "num_steps is 0"),
        ({"num_active": 0}, "num_active is 0; an integer >= 1"),
        ({"num_active": 2.0}, "num_active is 2.0; an integer >= 1"),
        ({"num_active": N + 1}, "num_active is 25; at most 24"),
        ({"num_choice": S}, "num_choice is 230; at most 228"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"loss_recovered": 3}, "loss_recovered is 3; a function"),
    ],
)
def test_options_that_are_none_are_refused(options, match):
    with pytest.raises((TypeError, ValueError), match=f"improve: .*{match}"):
        improve(autoencoder(), **options)


def test_others_are_refused():
    with pytest.raises(TypeError, match="improve: the autoencoder is a tuple; a Sae is expected"):
        improve((1, 2))
    sae = autoencoder()
    config = {**sae.config, "architecture": "transcoder"}
    for key in ("transcode", "skip_connection"):
        with pytest.raises(ValueError, match="transcoder|skip connection"):
            improve(sae._replace(config={**sae.config, key: True}))
    with pytest.raises(ValueError, match="a transcoder, whose dictionary"):
        improve(sae._replace(config=config))
    with pytest.raises(ValueError, match="improve: the bias is not the one of the tensors"):
        improve(sae._replace(bias=sae.bias + 1))


def test_memory_maps_are_read_in_blocks(tmp_path, found):
    np.save(tmp_path / "x.npy", SIGNALS)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    again = improve(autoencoder(), mapped)
    np.testing.assert_array_equal(again.r2, found.r2)
    assert pathlib.Path(tmp_path / "x.npy").exists()


def test_no_rank_is_promoted(found):
    with jax.numpy_rank_promotion("raise"):
        again = improve(autoencoder(), SIGNALS[: CHOICE + 64])
    assert again.names == found.names
