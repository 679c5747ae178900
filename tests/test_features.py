"""Feature models: what is drawn has the law, against a slow draw of every feature in NumPy."""

import dataclasses
import functools
import itertools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import sparsecode_jax as sc
from sparsecode_jax import synthetic
from sparsecode_jax.synthetic import feature_model


def key(seed=0):
    return jax.random.key(seed)


def plain(num=24, num_measurements=8, **parts):
    atoms = sc.dictionaries.random(key(9), num_atoms=num, num_measurements=num_measurements)
    parts = {"probabilities": jnp.full(num, 0.2), "means": 1.0, "deviations": 0.0, **parts}
    return synthetic.FeatureModel(atoms, **parts)


def draw(model, num_samples=2000, max_active=None, seed=0):
    room = max_active or model.dictionary.shape[0]
    return synthetic.sample_features(key(seed), model, num_samples=num_samples, max_active=room)


def dense(batch):
    return np.asarray(batch.codes.dense())


def benchmark_of(num_features, num_roots, **options):
    options = {"num_measurements": 16, "num_orthogonalizing_steps": 0, **options}
    return synthetic.synth_sae_bench(
        key(3), num_features=num_features, num_roots=num_roots, **options
    )


def slow(rng, model, num_samples):
    """The law, feature by feature and level by level, as SynthSAEBench states it."""
    chances = np.asarray(model.probabilities, float)
    num = len(chances)
    loads = np.asarray(model.factors, float)
    own = 1 - (loads**2).sum(axis=1)
    common = rng.normal(size=(num_samples, loads.shape[1]))
    latent = common @ loads.T + np.sqrt(own) * rng.normal(size=(num_samples, num))
    magnitudes = np.maximum(
        np.asarray(model.means) + np.asarray(model.deviations) * rng.normal(size=latent.shape), 0
    )
    codes = np.where(latent > scipy.stats.norm.isf(chances), magnitudes, 0)
    parents, level = np.asarray(model.tree.parents()), np.zeros(num, int)
    for unit in np.flatnonzero(parents >= 0):
        level[unit] = level[parents[unit]] + 1
    for depth in range(1, level.max() + 1):
        units = np.flatnonzero(level == depth)
        above = codes[:, parents[units]]
        factor = above / np.asarray(model.means)[parents[units]] if model.tree.scaled else 1
        codes[:, units] = np.where(above > 0, codes[:, units] * factor, 0)
        for parent in np.unique(parents[units]):
            children = units[parents[units] == parent]
            active = codes[:, children] > 0
            chosen = np.argmax(np.where(active, rng.random(active.shape), -1), axis=1)
            codes[:, children] *= np.arange(len(children)) == chosen[:, None]
    return codes


def deviations_apart(one, other, num_samples):
    """How many standard deviations two rates of events are apart, each."""
    rate = (one + other) / 2
    spread = np.sqrt(np.maximum(2 * rate * (1 - rate) / num_samples, 1e-12))
    return np.abs(one - other) / spread


def compare(model, num_samples, rounds, pairs):
    """Draw by both, in rounds, and compare rates, co-firing, means and numbers of active ones."""
    rng = np.random.default_rng(0)
    moments = [[], []]
    for seed in range(rounds):
        batch = draw(model, num_samples, max_active=120, seed=seed)
        assert int(batch.num_dropped) == 0
        for side, codes in zip(moments, (dense(batch), slow(rng, model, num_samples)), strict=True):
            active = (codes > 0).astype(np.float64)
            counts = active.sum(axis=1)
            side.append(
                (active.mean(axis=0), active[:, :pairs].T @ active[:, :pairs] / num_samples,
                 codes.mean(axis=0), (codes.astype(float) ** 2).mean(axis=0),
                 counts.mean(), (counts**2).mean())
            )  # fmt: skip
    ours, theirs = ([np.mean(x, axis=0) for x in zip(*side, strict=True)] for side in moments)
    total = num_samples * rounds
    for one, other in zip(ours[:2], theirs[:2], strict=True):
        apart = deviations_apart(one, other, total)
        assert apart.max() < 5
        assert np.sqrt(np.mean(apart**2)) < 1.2
    noise = np.sqrt(2 * theirs[3] / total)
    assert (np.abs(ours[2] - theirs[2]) / np.maximum(noise, 1e-9)).max() < 5
    np.testing.assert_allclose(ours[4], theirs[4], rtol=6 / np.sqrt(total))
    np.testing.assert_allclose(ours[5], theirs[5], rtol=15 / np.sqrt(total))


@pytest.mark.parametrize("version", [1, 2])
def test_the_law_of_the_benchmark_is_that_of_a_slow_draw(version):
    compare(benchmark_of(1000, 10, version=version), 5000, 2, pairs=60)


@pytest.mark.slow
@pytest.mark.parametrize(("num_features", "num_roots"), [(900, 8), (1600, 16), (2600, 26)])
def test_the_law_of_the_benchmark_holds_in_a_million_samples(num_features, num_roots):
    compare(benchmark_of(num_features, num_roots), 20_000, 50, pairs=150)


def test_one_child_of_a_parent_at_most_is_active_and_none_without_it():
    model = benchmark_of(1000, 10)
    active = dense(draw(model, 5000, max_active=120)) > 0
    parents = np.asarray(model.tree.parents())
    children = np.flatnonzero(parents >= 0)
    assert not (active[:, children] & ~active[:, parents[children]]).any()
    family = np.zeros((5000, 1000), int)
    np.add.at(family.T, parents[children], active[:, children].T)
    assert family.max() == 1
    assert (family[:, 10:50].sum() > 0) and (family[:, 50:210].sum() > 0)  # at all three levels


def test_children_that_do_not_exclude_one_another_are_independent_given_the_parent():
    parents = np.array([-1, 0, 0, 0])
    for exclusive, expected in ((False, 0.25), (True, 0.0)):
        hierarchy = synthetic.tree(parents, exclusive=exclusive)
        active = dense(draw(plain(4, probabilities=jnp.full(4, 0.5), tree=hierarchy), 20_000)) > 0
        alive = active[active[:, 0]]
        np.testing.assert_allclose((alive[:, 1] & alive[:, 2]).mean(), expected, atol=0.02)
    # Of three that would each be active with 1/2, the survivor is as likely to be any of them.
    np.testing.assert_allclose(alive[:, 1:].mean(axis=0), 7 / 24, atol=0.02)
    mixed = synthetic.tree([-1, -1, 0, 0, 1, 1], exclusive=np.array([True] + [False] * 5))
    active = dense(draw(plain(6, probabilities=jnp.ones(6), tree=mixed), 100)) > 0
    assert set(active[:, 2:4].sum(axis=1)) == {1}
    assert set(active[:, 4:].sum(axis=1)) == {2}


def test_trees_of_different_sizes_need_no_balance():
    parents = [-1, -1, 0, 0, 0, 1, 2, 6, -1]
    hierarchy = synthetic.tree(parents, exclusive=False)
    assert (hierarchy.depth, hierarchy.branching) == (3, 3)
    np.testing.assert_array_equal(hierarchy.parents(), parents)
    np.testing.assert_array_equal(hierarchy.tops, [0, 1, 8])
    rates = (
        dense(draw(plain(9, probabilities=jnp.full(9, 0.5), tree=hierarchy), 40_000)) > 0
    ).mean(0)
    expected = [0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.125, 0.0625, 0.5]
    np.testing.assert_allclose(rates, expected, atol=0.015)


def test_a_tree_without_children_is_none():
    for num in (1, 6):
        alone = draw(plain(num, tree=synthetic.tree([-1] * num)), 50)
        chex.assert_trees_all_equal(alone, draw(plain(num), 50))


def test_a_chain_of_eleven_is_drawn_and_counted():
    chain = plain(11, probabilities=jnp.ones(11), tree=synthetic.tree(np.arange(11) - 1))
    np.testing.assert_array_equal(dense(draw(chain, 3)), 1)
    one = draw(chain, 3, max_active=1)
    assert int(one.num_dropped) == 3 * 10
    np.testing.assert_array_equal(one.codes.indices, 0)


def test_rates_and_pairs_are_those_of_the_normal_law():
    rates = jnp.array([0.5, 0.3, 0.05, 0.002])
    factors = jnp.array([[0.8, 0.0], [0.6, 0.3], [-0.5, 0.5], [0.2, 0.1]])
    model = plain(4, probabilities=rates, factors=factors)
    active = np.concatenate([dense(draw(model, 100_000, seed=s)) > 0 for s in range(2)])
    np.testing.assert_array_less(deviations_apart(active.mean(axis=0), rates, 4e5), 4.5)
    levels = scipy.stats.norm.isf(np.asarray(rates, float))
    for one, other in itertools.combinations(range(4), 2):
        rho = float(factors[one] @ factors[other])
        law = scipy.stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]])
        both = law.cdf([-levels[one], -levels[other]])
        found = (active[:, one] & active[:, other]).mean()
        assert abs(found - both) < 4.5 * np.sqrt(both / 2e5), (one, other)


def test_children_are_correlated_with_others_through_their_factors():
    model = plain(3, probabilities=jnp.array([1.0, 0.5, 0.3]), tree=synthetic.tree([-1, 0, -1]),
                  factors=jnp.array([[0.0], [0.9], [0.9]]))  # fmt: skip
    active = dense(draw(model, 20_000)) > 0
    assert active[:, 0].all()
    levels = scipy.stats.norm.isf([0.5, 0.3])
    law = scipy.stats.multivariate_normal([0, 0], [[1, 0.81], [0.81, 1]])
    both = (active[:, 1] & active[:, 2]).mean()
    np.testing.assert_allclose(both, law.cdf(-levels), atol=0.015)


def test_what_is_certain_happens(monkeypatch):
    last = jnp.uint32(2**32 - 1)
    monkeypatch.setattr(jax.random, "bits", lambda key, shape, dtype: jnp.full(shape, last))
    flags = feature_model._chance(key(), jnp.array([0.0, 0.5, 1.0]))
    assert flags.tolist() == [False, False, True]


def test_small_probabilities_are_kept():
    rate = 2.0**-27  # far below the steps of uniform numbers in float32
    model = plain(4, probabilities=jnp.array([rate, 0.0, 1.0, 1e-3]))
    table = feature_model._table(model)
    np.testing.assert_allclose(feature_model._probability(None, table.levels, None)[0], rate, 1e-3)
    active = dense(draw(model, 100_000)) > 0
    assert not active[:, 1].any()
    assert active[:, 2].all()
    flags = feature_model._chance(key(), jnp.full((2**22,), rate))
    assert int(flags.sum()) <= 3


def test_magnitudes_are_cut_normals_with_each_features_mean_and_deviation():
    model = plain(3, probabilities=jnp.ones(3), means=jnp.array([2.0, 0.5, 0.0]),
                  deviations=jnp.array([0.1, 1.0, 2.0]))  # fmt: skip
    codes = dense(draw(model, 20_000))
    for column, (mean, spread) in zip(codes.T, ((2, 0.1), (0.5, 1), (0, 2)), strict=True):
        law = scipy.stats.truncnorm(-mean / spread, np.inf, mean, spread)
        assert scipy.stats.kstest(column[column > 0], law.cdf).pvalue > 1e-3
        np.testing.assert_allclose(
            (column > 0).mean(), scipy.stats.norm.cdf(mean / spread), atol=0.02
        )


@pytest.mark.parametrize(
    ("magnitudes", "law"),
    [
        (synthetic.half_normal, scipy.stats.halfnorm),
        (synthetic.uniform, scipy.stats.uniform),
        (synthetic.log_normal, scipy.stats.lognorm(1)),
    ],
    ids=["half_normal", "uniform", "log_normal"],
)
def test_magnitudes_of_other_laws(magnitudes, law):
    codes = dense(draw(plain(means=0.0, deviations=1.0, magnitudes=magnitudes), 3000))
    assert scipy.stats.kstest(codes[codes != 0], law.cdf).pvalue > 1e-3


def test_a_scaled_child_is_multiplied_by_its_parent_over_the_parents_mean():
    hierarchy = synthetic.tree([-1, 0, 1], scaled=True)
    spread = jnp.array([0.5, 0.0, 0.0])
    model = plain(3, probabilities=jnp.ones(3), means=jnp.array([4.0, 3.0, 2.0]),
                  deviations=spread, tree=hierarchy)  # fmt: skip
    root, child, grandchild = dense(draw(model, 100)).T
    np.testing.assert_allclose(child, 3 * root / 4, rtol=1e-5)
    np.testing.assert_allclose(grandchild, 2 * child / 3, rtol=1e-5)
    assert root.std() > 0.3


def test_a_group_fires_together_with_a_point_of_the_sphere():
    sizes = np.array([1, 2, 3, 1, 5])
    model = plain(12, probabilities=jnp.full(5, 0.4), means=2.0, deviations=0.5,
                  groups=jnp.asarray(sizes))  # fmt: skip
    batch = draw(model, 20_000)
    assert int(batch.num_dropped) == 0
    codes = dense(batch)
    norms = []
    for start, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
        part = codes[:, start : start + size]
        fires = (part != 0).any(axis=1)
        np.testing.assert_allclose(fires.mean(), 0.4, atol=0.02)
        assert (part[fires] != 0).all()  # together
        norm = np.linalg.norm(part[fires], axis=1)
        assert scipy.stats.kstest(norm, scipy.stats.norm(2, 0.5).cdf).pvalue > 1e-4
        norms.append(fires)
        if size == 1:
            assert (part >= 0).all()
        if size == 2:
            angle = np.arctan2(*part[fires].T)
            assert (
                scipy.stats.kstest(angle, scipy.stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3
            )
        if size == 3:  # by Archimedes each coordinate of the sphere is uniform
            height = part[fires, 0] / norm
            assert scipy.stats.kstest(height, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-3
    np.testing.assert_allclose(np.corrcoef(norms) - np.eye(5), 0, atol=0.04)
    np.testing.assert_allclose(batch.signals, codes @ np.asarray(model.dictionary), atol=1e-4)


def test_what_finds_no_slot_is_counted():
    model = plain(200, probabilities=jnp.full(200, 0.2))
    whole, some = draw(model, 300), draw(model, 300, max_active=40)
    kept, all_active = (np.asarray(b.codes.values > 0).sum(axis=1) for b in (some, whole))
    assert int(whole.num_dropped) == 0
    np.testing.assert_array_equal(kept, np.minimum(all_active, 40))
    assert int(some.num_dropped) == (all_active - kept).sum() > 100
    np.testing.assert_allclose(
        some.signals, dense(some) @ np.asarray(model.dictionary), atol=1e-4
    )  # the signal is what the codes say
    groups = plain(60, probabilities=jnp.full(20, 0.5), groups=jnp.full(20, 3))
    some = draw(groups, 300, max_active=20)
    kept = (dense(some) != 0).sum()
    expected = (dense(draw(groups, 300)) != 0).sum()
    assert int(some.num_dropped) + kept == expected
    deep = plain(40, probabilities=jnp.ones(40),
                 tree=synthetic.tree([-1] * 2 + [0] * 19 + [1] * 19, exclusive=False))  # fmt: skip
    some = draw(deep, 5, max_active=12)
    assert int(some.num_dropped) == 5 * (40 - 12)
    np.testing.assert_array_equal((dense(some) > 0).sum(axis=1), 12)


def test_the_codes_make_the_signals_with_bias_and_noise():
    model = plain(bias=jnp.arange(8.0), noise=0.3)
    batch = draw(model, 5000)
    residual = batch.signals - dense(batch) @ np.asarray(model.dictionary) - np.arange(8)
    assert scipy.stats.kstest(np.asarray(residual).ravel() / 0.3, "norm").pvalue > 1e-3
    clean = draw(dataclasses.replace(model, noise=None), 5000)
    np.testing.assert_array_equal(clean.codes.values, batch.codes.values)


def test_slots_in_use_differ_and_free_ones_are_zero():
    codes = draw(benchmark_of(1000, 10), 500, max_active=100).codes
    assert codes.shape == (500, 1000)
    for values, indices in zip(*map(np.asarray, (codes.values, codes.indices)), strict=True):
        used = indices[values > 0]
        assert len(set(used)) == len(used)
        assert not indices[values == 0].any()
        assert (np.diff((values > 0).astype(int)) <= 0).all()  # used ones come first


def test_the_key_decides_everything_under_jit_and_vmap_too():
    model = benchmark_of(1000, 10)

    def one(key, model):
        return synthetic.sample_features(key, model, num_samples=20, max_active=60)

    eager = one(key(1), model)
    for other in (jax.jit(one)(key(1), model), jax.jit(lambda k: one(k, model))(key(1))):
        chex.assert_trees_all_close(eager, other, rtol=1e-5, atol=1e-5)
    both = jax.vmap(one, (0, None))(jax.random.split(key(1)), model)
    alone = one(jax.random.split(key(1))[1], model)
    np.testing.assert_allclose(both.codes.values[1], alone.codes.values, rtol=1e-5)
    assert not np.allclose(both.signals[0], both.signals[1])
    with jax.enable_x64(True):
        wide = draw(plain(24, probabilities=np.full(24, 0.2)), 10)
        assert wide.signals.dtype == wide.codes.values.dtype == np.float64


def test_models_may_be_stacked_and_pickled():
    parents = [-1, -1, 0, 0, 1, 1]
    models = [plain(6, tree=synthetic.tree(parents, exclusive=e)) for e in (True, False)]
    stacked = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), *models)

    def one(model):
        return synthetic.sample_features(key(5), model, num_samples=40, max_active=6)

    many = jax.vmap(one)(stacked)
    for number, model in enumerate(models):
        chex.assert_trees_all_close(jax.tree.map(lambda x: x[number], many), one(model), rtol=1e-5)  # noqa: B023
        again = pickle.loads(pickle.dumps(model))
        chex.assert_trees_all_equal(one(again), one(model))


SPOILED = {
    "no number": jnp.nan, "above one": 1.5, "below zero": -0.5, "without end": jnp.inf
}  # fmt: skip
WITH = {
    "alone": {}, "in a tree": {"tree": synthetic.tree([-1, -1, 0, 0, 1, 1])},
    "in groups": {"groups": jnp.arange(4, 10)},
}  # fmt: skip


@pytest.mark.parametrize("parts", WITH.values(), ids=WITH)
def test_a_traced_model_that_cannot_be_gives_no_numbers(parts):
    num = int(parts["groups"].sum()) if "groups" in parts else 6
    whole = {"probabilities": jnp.full(6, 0.2), "means": jnp.ones(6), "deviations": jnp.ones(6),
             "factors": jnp.full((6, 2), 0.2)}  # fmt: skip
    model = plain(num, **whole, **parts)
    run = jax.jit(lambda model: draw(model, 20, max_active=num))
    assert np.isfinite(run(model).signals).all()
    for label, kinds in (
        ("probabilities", SPOILED), ("means", ("no number", "without end")),
        ("deviations", ("no number", "below zero", "without end")),
        ("factors", ("no number", "above one", "without end")),
    ):  # fmt: skip
        for kind in kinds:
            value = getattr(model, label)
            bad = value.at[(2,) + (0,) * (value.ndim - 1)].set(SPOILED[kind])
            found = run(dataclasses.replace(model, **{label: bad}))
            assert np.isnan(found.signals).all() and np.isnan(found.codes.values).all()


def test_groups_may_be_a_list_and_numbers_are_of_32_bits_or_more():
    sizes = [1, 2, 3]
    model = plain(6, probabilities=jnp.ones(3), groups=sizes)
    expected = draw(dataclasses.replace(model, groups=jnp.asarray(sizes)), 5)
    chex.assert_trees_all_equal(draw(model, 5), expected)
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), plain())
    with pytest.raises(TypeError, match="numbers are bfloat16; float32 or float64 is expected"):
        draw(half)
    draw(dataclasses.replace(half, probabilities=np.full(24, 0.2, np.float32)), 5)


@pytest.mark.full_effort
def test_nothing_of_samples_by_features_is_made():
    atoms = jax.ShapeDtypeStruct((16_384, 64), jnp.float32)
    of_units = jax.ShapeDtypeStruct((16_384,), jnp.float32)
    parents = synthetic.balanced_trees(128, branching=4, depth=3, num_units=16_384)
    model = synthetic.FeatureModel(
        atoms, of_units, means=of_units, deviations=of_units, tree=synthetic.tree(parents),
        factors=jax.ShapeDtypeStruct((16_384, 25), jnp.float32),
    )  # fmt: skip
    for made in (model, dataclasses.replace(model, tree=None)):
        lowered = feature_model._sample.lower(key(), made, num_samples=1024, max_active=128)
        temporary = lowered.compile().memory_analysis().temp_size_in_bytes
        assert temporary < 1024 * 16_384 * 4 / 2  # half of one such array of float32


def test_fit_draws_its_signals_from_a_model():
    model = benchmark_of(1000, 10)

    def sampler(key, step):
        return synthetic.sample_features(key, model, num_samples=32, max_active=60).signals

    result = sc.training.fit(
        key(), sc.encoders.top_k(16, 24, num_active=4), sampler, num_atoms=24, num_steps=3,
        progress=None,
    )  # fmt: skip
    assert np.isfinite(result.losses).all()
    assert result.params.dictionary.shape == (24, 16)


def test_compensated_children_are_as_frequent_as_wanted_to_first_order():
    wanted = np.array([0.5, 0.1, 0.05])
    hierarchy = synthetic.tree([-1, 0, 0])
    needed = synthetic.compensate(wanted, hierarchy)
    np.testing.assert_allclose(needed, [0.5, 0.2 * 1.1, 0.1 * 1.2], rtol=1e-6)
    free = synthetic.tree([-1, 0, 0], exclusive=False)
    np.testing.assert_allclose(synthetic.compensate(wanted, free), [0.5, 0.2, 0.1], rtol=1e-6)
    with pytest.raises(ValueError, match="unit 1 would have to fire with probability 1.5"):
        synthetic.compensate([0.1, 0.15], synthetic.tree([-1, 0]))
    with pytest.raises(ValueError, match="one for each of the 3 units"):
        synthetic.compensate([0.1, 0.15], hierarchy)


def test_compensation_of_zeros_is_zero_and_other_numbers_are_refused():
    hierarchy = synthetic.tree([-1, -1, 0, 0, 1])
    with jax.debug_nans(True):
        np.testing.assert_array_equal(synthetic.compensate(np.zeros(5), hierarchy), 0)
        found = synthetic.compensate([0.5, 0, 0.1, 0, 0], hierarchy)
    np.testing.assert_allclose(found, [0.5, 0, 0.2, 0, 0], rtol=1e-6)
    with pytest.raises(ValueError, match="unit 4 would have to fire with probability inf"):
        synthetic.compensate([0.5, 0, 0.1, 0, 0.1], hierarchy)
    for wrong, text in ((-0.1, "-0.1; a number"), (1.5, "1.5; a number")):
        with pytest.raises(ValueError, match=rf"^compensate: probabilities\[2\] is {text}"):
            synthetic.compensate([0.5, 0.5, wrong, 0.1, 0.1], hierarchy)
    with pytest.raises(ValueError, match="compensate: probabilities holds 1 non-finite"):
        synthetic.compensate([0.5, np.nan, 0.1, 0.1, 0.1], hierarchy)
    with pytest.raises(TypeError, match="compensate: the hierarchy is a list; a Tree"):
        synthetic.compensate([0.5, 0.1], [-1, 0])


def test_compensation_and_the_benchmark_are_traced():
    parents = [-1, -1, 0, 0, 0, 1, 2, 6, -1]
    hierarchy, wanted = synthetic.tree(parents), jnp.array([0.5, 0.5, *6 * [0.05], 0.5])
    expected = synthetic.compensate(wanted, hierarchy)
    np.testing.assert_allclose(jax.jit(synthetic.compensate)(wanted, hierarchy), expected)
    inside = jax.jit(lambda p: synthetic.compensate(p, synthetic.tree(parents)))
    np.testing.assert_allclose(inside(wanted), expected)

    def model(key):
        return synthetic.synth_sae_bench(
            key, num_features=512, num_measurements=4, num_orthogonalizing_steps=1
        )

    # A uniform draw near 0 is known to a step of 1e-7, its normal deviation too.
    chex.assert_trees_all_close(jax.jit(model)(key()), model(key()), rtol=1e-5, atol=1e-7)
    many = jax.vmap(model)(jax.random.split(key()))
    assert many.dictionary.shape == (2, 512, 4)
    signals = jax.jit(lambda k: draw(model(k), 6, max_active=60).signals)(key())
    assert np.isfinite(signals).all()


def test_zipf_falls_from_the_largest_to_the_smallest():
    rates = np.asarray(synthetic.zipf(1000, exponent=0.7, largest=0.3, smallest=0.01), float)
    np.testing.assert_allclose(rates[[0, -1]], [0.3, 0.01], rtol=1e-4)
    power = np.arange(1, 1001) ** -0.7
    expected = 0.01 + 0.29 * (power - power[-1]) / (1 - power[-1])
    np.testing.assert_allclose(rates, expected, rtol=1e-4)
    np.testing.assert_allclose(synthetic.zipf(16_384).sum(), 59, atol=0.5)
    assert synthetic.zipf(1).tolist() == [pytest.approx(0.4)]
    steep, flat = (synthetic.zipf(4, exponent=a) for a in (1e3, 1e-12))
    np.testing.assert_allclose(steep, [0.4, 5e-4, 5e-4, 5e-4], rtol=1e-6)
    logs = 1 - np.log([1, 2, 3, 4]) / np.log(4)  # what the law tends to
    np.testing.assert_allclose(flat, 5e-4 + 0.3995 * logs, rtol=1e-6)
    with pytest.raises(ValueError, match="smallest is 0.5 and largest 0.4"):
        synthetic.zipf(10, smallest=0.5)


def test_the_benchmark_has_its_numbers():
    model = synthetic.synth_sae_bench(key(), num_measurements=16, num_orthogonalizing_steps=2)
    assert model.dictionary.shape == (16_384, 16)
    np.testing.assert_allclose(np.linalg.norm(model.bias), 0.5, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(model.dictionary, axis=1), 1, rtol=1e-5)
    parents = np.asarray(model.tree.parents())
    levels = [(parents[a:b] >= 0).mean() for a, b in ((0, 128), (128, 10_880), (10_880, 16_384))]
    assert levels == [0, 1, 0]
    np.testing.assert_array_equal(parents[128:640], np.repeat(np.arange(128), 4))
    rates = np.asarray(model.probabilities)
    np.testing.assert_allclose(rates[:128], synthetic.zipf(16_384)[:128])
    assert 0.9 < rates.max() < 1  # what compensation needs at most
    np.testing.assert_allclose(np.asarray(model.means)[[0, -1]], [5, 4])
    deviations = np.asarray(model.deviations)
    assert scipy.stats.kstest(deviations, scipy.stats.foldnorm(1, scale=0.5).cdf).pvalue > 1e-3
    np.testing.assert_allclose(np.std(model.factors), 0.1, rtol=0.01)
    assert model.tree.scaled
    one = synthetic.synth_sae_bench(
        key(), version=1, num_measurements=16, num_orthogonalizing_steps=0
    )
    assert not one.tree.scaled
    with pytest.raises(ValueError, match="version is 3; at most 2 is expected"):
        synthetic.synth_sae_bench(key(), version=3)
    with pytest.raises(ValueError, match="hold 850 units, but num_units is 300"):
        benchmark_of(300, 10)
    with pytest.raises(ValueError, match="^synth_sae_bench: with 1 trees among 100 features some"):
        benchmark_of(100, 1)
    many = benchmark_of(200, 0, num_factors=90)  # whose squares would sum up to .9 on average
    shares = np.sum(np.asarray(many.factors) ** 2, axis=1)
    assert (shares > 0.9899).sum() > 20
    np.testing.assert_array_less(shares, 0.99001)
    draw(many, 3)


@pytest.mark.slow
def test_levels_of_the_benchmark_are_as_frequent_as_published():
    model = synthetic.synth_sae_bench(key(), num_measurements=8, num_orthogonalizing_steps=0)
    wanted, counts, active = np.asarray(synthetic.zipf(16_384)), np.zeros(16_384), []
    for seed in range(60):
        codes = draw(model, 1024, max_active=128, seed=seed).codes
        used = np.asarray(codes.values) > 0
        counts += np.bincount(np.asarray(codes.indices)[used], minlength=16_384)
        active.append(used.sum(axis=1))
    edges = [0, 128, 640, 2688, 10_880, 16_384]
    parts = itertools.pairwise(edges)
    found = [counts[a:b].sum() / wanted[a:b].sum() / 60 / 1024 for a, b in parts]
    np.testing.assert_allclose(found, [1, 0.74, 0.46, 0.35, 1], atol=0.02)
    np.testing.assert_allclose(np.mean(active), 34.3, atol=1)
    np.testing.assert_allclose(np.std(active), 11.7, atol=0.6)


BAD = {
    "signs": ({"probabilities": jnp.array([0.1, -0.2, 0.3])}, r"probabilities\[1\] is -0.2"),
    "above one": ({"probabilities": jnp.array([0.1, 0.2, 1.3])}, r"probabilities\[2\] is 1.3"),
    "length": ({"probabilities": jnp.full(4, 0.1)}, "4 probabilities but 3 atoms"),
    "rank": ({"probabilities": jnp.full((3, 1), 0.1)}, r"shape \(3, 1\); one per unit"),
    "means": ({"means": jnp.ones(4)}, r"means have shape \(4,\)"),
    "deviations": ({"deviations": jnp.array([1.0, -1.0, 1.0])}, r"deviations\[1\] is -1"),
    "noise": ({"noise": -0.5}, r"noise\[0\] is -0.5"),
    "bias": ({"bias": jnp.ones(3)}, r"bias have shape \(3,\); \(8,\)"),
    "nan": ({"bias": jnp.full(8, jnp.nan)}, "bias"),
    "factors": ({"factors": jnp.ones((3, 2))}, "unit 0 sum up to 2"),
    "factor shape": ({"factors": jnp.ones((4, 2))}, r"\(3, R\) is expected"),
    "groups": ({"groups": jnp.array([1, 1, 2])}, "4 together"),
    "group shape": ({"groups": jnp.array([1, 2])}, "each of the 3 units"),
    "tree": ({"tree": synthetic.tree([-1, 0])}, "2 units and the model 3"),
    "zero mean": (
        {"tree": synthetic.tree([-1, 0, 0], scaled=True), "means": jnp.array([0.0, 1.0, 1.0])},
        "least mean of a parent is 0",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_a_model_whose_parts_do_not_agree_is_refused(case):
    parts, message = case
    with pytest.raises(ValueError, match=f"^sample_features: .*{message}"):
        draw(plain(3, **parts), 4)


def test_other_things_than_models_and_too_few_slots_are_refused():
    with pytest.raises(TypeError, match="the model is a dict; a FeatureModel"):
        synthetic.sample_features(key(), {}, num_samples=4, max_active=4)
    with pytest.raises(TypeError, match="the tree is a list"):
        draw(plain(3, tree=[-1, 0, 0]), 4)
    with pytest.raises(TypeError, match="groups are float32"):
        draw(plain(3, groups=jnp.ones(3)), 4)
    with pytest.raises(ValueError, match="max_active is 25 of 24 features"):
        draw(plain(), 4, max_active=25)
    with pytest.raises(ValueError, match="max_active is 3, but 4.8 units without a parent"):
        draw(plain(), 4, max_active=3)


TREES = {
    "a cycle": ([1, 0], "the parent of unit 0 is 1"),
    "itself": ([-1, 1], "the parent of unit 1 is 1"),
    "below": ([-2], "the parent of unit 0 is -2"),
    "apart": ([-1, -1, 0, 1, 0], "unit 4 is a child of 0, whose other children"),
    "reals": ([0.5, 1.0], "parents are float"),
    "empty": (np.zeros(0, int), r"of shape \(0,\)"),
}


@pytest.mark.parametrize("case", TREES.values(), ids=TREES)
def test_impossible_trees_are_refused(case):
    parents, message = case
    with pytest.raises(ValueError, match=f"^tree: .*{message}"):
        synthetic.tree(parents)


def test_a_tree_takes_one_exclusive_or_one_by_parent():
    with pytest.raises(ValueError, match=r"exclusive is bool of shape \(3,\)"):
        synthetic.tree([-1, 0], exclusive=np.array([True] * 3))
    with pytest.raises(ValueError, match="exclusive is int64"):
        synthetic.tree([-1, 0], exclusive=1)


@pytest.mark.parametrize("num_columns", [1, 31, 32, 33, 64, 700])
def test_places_of_flags_are_those_of_nonzero(num_columns):
    flags = np.random.default_rng(num_columns).random((40, num_columns)) < 0.2
    flags[0], flags[1] = True, False
    for room in (1, 5, 200):
        places, counts = feature_model._places(feature_model._words(jnp.asarray(flags)), room)
        np.testing.assert_array_equal(counts, flags.sum(axis=1))
        for row, found, count in zip(flags, np.asarray(places), counts, strict=True):
            expected = np.flatnonzero(row)[:room]
            np.testing.assert_array_equal(found[: min(int(count), room)], expected)


def test_features_are_drawn_at_full_precision():
    """On a GPU a product is rounded otherwise, and probabilities with it."""
    model = synthetic.synth_sae_bench(
        jax.random.key(0), num_features=600, num_measurements=32, num_roots=6
    )
    draw = functools.partial(synthetic.sample_features, num_samples=4, max_active=60)
    text = str(jax.make_jaxpr(draw)(jax.random.key(1), model))
    products = text.count("dot_general[")
    assert products > 0
    assert text.count("Precision.HIGHEST, Precision.HIGHEST") == products
