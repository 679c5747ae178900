"""Alternating minimization: recovery, restarts, and what it says of itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax.dictionary_learning import alternate, learn_dictionary, updates
from sparsecode_jax.dictionary_learning._replacement import (
    average_moments,
    code_moments,
    renew_atoms,
)

SMALL = {"num_atoms": 12, "num_rounds": 100, "num_restarts": 4, "num_hops": 1}


@pytest.fixture(scope="module")
def problem():
    return sc.synthetic.sample_problem(
        jax.random.key(3), 2, num_samples=400, num_measurements=8, num_atoms=12
    )


@pytest.fixture(scope="module")
def found(problem):
    return learn_dictionary(jax.random.key(0), problem.signals, **SMALL)


def test_recovers_the_dictionary_and_the_codes(problem, found):
    assert sc.metrics.dictionary_mcc(problem.dictionary, found.dictionary) > 0.99
    assert sc.metrics.mcc(problem.codes, found.codes) > 0.97
    random = sc.dictionaries.random(jax.random.key(9), num_atoms=12, num_measurements=8)
    assert sc.metrics.dictionary_mcc(problem.dictionary, random) < 0.9  # chance is far below


def test_the_best_restart_is_returned_and_nothing_but_the_objective_chooses_it(problem, found):
    assert found.objectives.shape == (4,) and found.dictionaries.shape == (4, 12, 8)
    assert len(np.unique(np.asarray(found.objectives))) > 1
    assert found.hops.shape == (1,) and found.hops[0] <= found.objectives.min()
    hopped = learn_dictionary(jax.random.key(0), problem.signals, num_refinement_rounds=0, **SMALL)
    np.testing.assert_allclose(hopped.hops, found.hops, rtol=1e-5)
    assert hopped.objective <= found.hops[0] * (1 + 1e-4)  # more steps of the codes
    alone = learn_dictionary(jax.random.key(0), problem.signals, **{**SMALL, "num_hops": 0})
    best = int(np.argmin(alone.objectives))
    np.testing.assert_array_equal(alone.dictionary, alone.dictionaries[best])
    np.testing.assert_allclose(alone.objectives, found.objectives, rtol=1e-5)
    value = sc.objectives.lasso(problem.signals, found.dictionary, found.codes, found.penalty)
    np.testing.assert_allclose(value.mean(), found.objective, rtol=1e-5)


def test_atoms_are_unit_and_codes_solve_the_lasso(problem, found):
    np.testing.assert_allclose(jnp.linalg.norm(found.dictionary, axis=1), 1, atol=1e-5)
    assert float(found.codes.min()) >= 0
    gap = sc.objectives.duality_gap(problem.signals, found.dictionary, found.codes, found.penalty)
    assert float(jnp.median(gap)) < 1e-3


def test_keys_decide_and_leading_axes_do_not(problem, found):
    again = learn_dictionary(jax.random.key(0), problem.signals.reshape(4, 100, 8), **SMALL)
    assert again.codes.shape == (4, 100, 12)
    np.testing.assert_array_equal(again.dictionary, found.dictionary)
    other = learn_dictionary(jax.random.key(1), problem.signals, **SMALL)
    assert float(jnp.abs(other.dictionaries - found.dictionaries).max()) > 0.1


def test_scaling_the_signals_scales_the_codes(problem, found):
    scaled = learn_dictionary(jax.random.key(0), 8 * problem.signals, **SMALL)
    np.testing.assert_allclose(scaled.penalty, 8 * found.penalty, rtol=1e-5)
    np.testing.assert_allclose(scaled.dictionary, found.dictionary, atol=2e-3)


def test_refinement_lowers_the_objective_of_smaller_penalties(problem, found):
    """Atoms are refined at .3 of the last penalty, where the l1 norm bends them less."""
    hopped = learn_dictionary(jax.random.key(0), problem.signals, num_refinement_rounds=0, **SMALL)

    def optimum(dictionary):
        penalty = 0.3 * found.penalty
        codes = sc.sparse_encode(problem.signals, dictionary, penalty, tolerance=1e-5)
        return sc.objectives.lasso(problem.signals, dictionary, codes, penalty).mean()

    assert optimum(found.dictionary) < (1 - 1e-4) * optimum(hopped.dictionary)
    refined, before = (
        sc.metrics.dictionary_mcc(problem.dictionary, d.dictionary) for d in (found, hopped)
    )
    assert 1 - refined < 0.5 * (1 - before)


def test_every_restart_and_hop_is_charged(problem, found):
    def charged(restarts, hops, rounds=5, **options):
        counts = []

        def learn(signals):  # what is charged is known once the search is traced
            learned = learn_dictionary(
                jax.random.key(0), signals, num_atoms=12, num_rounds=rounds,
                num_restarts=restarts, num_hops=hops, **options,
            )  # fmt: skip
            counts.append(learned.flops)
            return learned.dictionary

        assert jax.eval_shape(learn, problem.signals).shape == (12, 8)
        return counts[0]

    assert charged(4, 1, rounds=100) == found.flops  # of the run
    flops = [charged(restarts, 0) for restarts in (1, 2, 4)]
    hops = [charged(2, hops) for hops in (1, 2, 4)]
    assert hops[2] - hops[1] == 2 * (hops[1] - hops[0])
    assert 0.6 < (hops[1] - hops[0]) / (2 * (flops[1] - flops[0])) < 0.9  # 3 rounds, and judged
    assert hops[0] - flops[1] > hops[1] - hops[0]  # and what is found is refined
    refined = [charged(1, 0, num_refinement_rounds=count) for count in (0, 1, 3)]
    assert refined[0] == flops[0]
    assert 0 < 5 * (refined[2] - refined[1]) / 2 < flops[0]  # its rounds alone
    assert flops[2] - flops[1] == 2 * (flops[1] - flops[0])
    assert flops[0] > 5 * 8 * 400 * 4 * 8 * 12  # at least the steps of its rounds


def test_signed_codes_by_the_solver(problem):
    signs = jnp.where(jax.random.bernoulli(jax.random.key(5), 0.5, problem.codes.shape), 1, -1)
    signals = (problem.codes * signs) @ problem.dictionary
    solver = sc.solvers.fista(prox=sc.prox.soft_threshold)
    learned = learn_dictionary(jax.random.key(0), signals, solver=solver, **SMALL)
    assert float(learned.codes.min()) < -0.1
    cosine = jnp.abs(learned.dictionary @ problem.dictionary.T).max(axis=0)
    assert float(jnp.median(cosine)) > 0.99


ATOMS = np.eye(7)[[0, 1, 1, 2, 3]]
CODES = np.zeros((40, 5))
CODES[:30, 0] = CODES[10:, 1] = CODES[:20, 3] = 1
CODES[20:, 2] = 0.5  # the weaker of two equal atoms
CODES[39, 4] = 9  # one signal's own atom
REST = np.zeros((40, 7))
REST[5, 5], REST[6, 6], REST[7, 4] = 3, 2, 1


def renewed(atoms=ATOMS, codes=CODES, rest=REST, allowed=True, **options):
    signals = codes @ atoms + rest
    arrays = [jnp.asarray(x, jnp.float32) for x in (signals, atoms, codes)]
    return renew_atoms(jax.random.key(0), *arrays, allowed, **options)


def test_twins_and_atoms_of_few_signals_give_way_to_residuals():
    new, codes, places = renewed()
    np.testing.assert_array_equal(places, [False, False, True, False, True])
    fresh = {int(np.argmax(atom)) for atom in np.asarray(new)[[2, 4]]}
    assert len(fresh) == 2 and fresh <= {4, 5, 6}  # the residuals that there are
    np.testing.assert_allclose(np.asarray(new)[[0, 1, 3]], ATOMS[[0, 1, 3]])
    np.testing.assert_array_equal(codes, np.where(places, 0, CODES))


def test_unused_atoms_give_way_too_and_nothing_where_it_is_not_allowed():
    unused = CODES * (np.arange(5) != 3)
    assert renewed(codes=unused)[2].tolist() == [False, False, True, True, True]
    new, codes, places = renewed(codes=unused, allowed=False)
    assert not places.any()
    np.testing.assert_array_equal(new, ATOMS)
    np.testing.assert_array_equal(codes, unused)


def test_opposite_atoms_are_twins_only_if_some_codes_are_negative():
    opposite = ATOMS * np.asarray([1, 1, -1, 1, 1])[:, None]
    assert not renewed(atoms=opposite)[2][2]
    assert renewed(atoms=opposite, codes=CODES * np.asarray([1, 1, -1, 1, 1]))[2][2]


def test_a_residual_takes_the_place_of_one_atom_only():
    signals = np.s_[5:6]
    new, _, places = renewed(codes=CODES[signals], rest=REST[signals])
    assert int(places.sum()) == 1
    np.testing.assert_allclose(new[jnp.argmax(places)], np.eye(7)[5], atol=1e-6)
    assert not renewed(rest=0 * REST)[2].any()  # nothing is left to explain


def test_moments_over_many_signals_decide_where_they_are_given():
    moments = code_moments(jnp.asarray(CODES, jnp.float32))
    np.testing.assert_allclose(moments, [(CODES**2).mean(0), (CODES**4).mean(0)], rtol=1e-6)
    quiet = renewed(codes=CODES[5:7], rest=REST[5:7], moments=moments)[2]
    np.testing.assert_array_equal(quiet, renewed()[2])
    young = average_moments(moments, jnp.asarray([False] * 4 + [True]))
    assert not renewed(moments=young)[2][4]
    np.testing.assert_array_equal(young[:, :4], moments[:, :4])


def test_positive_pursuits_keep_atoms_and_their_opposites():
    """Ten rounds from the truth, of which half is the opposite of the other half."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(8, 8))
    atoms = np.concatenate([half, -half]) / np.linalg.norm(np.tile(half, (2, 1)), axis=1)[:, None]
    codes = np.zeros((600, 16))
    for row in codes:
        row[rng.choice(16, 2, replace=False)] = rng.uniform(0.5, 1.5, 2)
    kept = alternate(
        codes @ atoms, atoms, np.full(10, 0.1), num_steps=2, replacing=True,
        solver=sc.solvers.orthogonal_matching_pursuit(2),
    )  # fmt: skip
    cosines = np.sum(np.asarray(kept.dictionary) * atoms, axis=1)
    assert cosines.min() > 0.9


RECOVERING = {
    "approximate k_svd, pursuit": (
        updates.approximate_k_svd(),
        sc.solvers.orthogonal_matching_pursuit(2),
    ),
    "block coordinate": (updates.block_coordinate(), None),
    "k_svd, pursuit": (updates.k_svd(), sc.solvers.orthogonal_matching_pursuit(2)),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if "pursuit" in n else n for n in RECOVERING],
)
def test_other_updates_and_solvers_recover_too(problem, name):
    update, solver = RECOVERING[name]
    steps = {} if solver is None else {"num_steps": 2}
    learned = learn_dictionary(
        jax.random.key(0), problem.signals, update=update, solver=solver, **steps, **SMALL
    )
    assert sc.metrics.dictionary_mcc(problem.dictionary, learned.dictionary) > 0.97
    assert float(learned.codes.min()) >= 0


def test_rounds_by_themselves_are_mapped_and_go_on(problem, compilations):
    """Restarts as a vmap of ``alternate``; two halves of a schedule equal the whole."""
    starts = jax.vmap(lambda key: sc.dictionaries.random(key, num_atoms=12, num_measurements=8))(
        jax.random.split(jax.random.key(2), 2)
    )
    penalties = np.geomspace(0.6, 0.06, 10).astype(np.float32)
    run = functools.partial(
        alternate, num_steps=5, update=updates.block_coordinate(), replacing=True
    )
    both = jax.vmap(lambda d: run(problem.signals, d, penalties))(starts)
    one = run(problem.signals, starts[1], penalties)
    np.testing.assert_allclose(both.dictionary[1], one.dictionary, atol=1e-3)
    half = run(problem.signals, starts[1], penalties[:5])
    go_on = functools.partial(
        run, problem.signals, half.dictionary, codes0=half.codes, state0=half.state
    )
    before = compilations.count
    rest = go_on(penalties[5:])
    assert compilations.count == before  # the program of the first half
    np.testing.assert_allclose(rest.dictionary, one.dictionary, atol=1e-4)


def test_a_given_dictionary_is_improved(problem):
    rough = problem.dictionary + 0.1 * jax.random.normal(jax.random.key(1), (12, 8))
    options = {"num_atoms": 12, "num_rounds": 40, "num_restarts": 1, "num_hops": 0}
    better = learn_dictionary(jax.random.key(0), problem.signals, dictionary0=rough, **options)
    assert better.dictionaries.shape == (1, 12, 8)
    before = sc.metrics.dictionary_mcc(problem.dictionary, rough)
    assert sc.metrics.dictionary_mcc(problem.dictionary, better.dictionary) > 0.99 > before
    with pytest.raises(ValueError, match=r"dictionary0 has shape \(12, 7\); \(12, 8\)"):
        learn_dictionary(jax.random.key(0), problem.signals, dictionary0=rough[:, :7], **options)


def test_hops_find_what_restarts_miss():
    """On data where one restart seldom finds the dictionary."""
    problem = sc.synthetic.sample_problem(
        jax.random.key(8), 3, num_samples=600, num_measurements=8, num_atoms=16
    )
    options = {"num_atoms": 16, "num_restarts": 2}
    plain = learn_dictionary(jax.random.key(0), problem.signals, num_hops=0, **options)
    found = learn_dictionary(jax.random.key(0), problem.signals, num_hops=5, **options)
    assert np.all(np.diff(found.hops) <= 0)
    np.testing.assert_allclose(found.objectives, plain.objectives, rtol=1e-5)
    assert found.objective < 0.99 * plain.objective


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"penalties": 0.1}, r"the penalties have shape \(\); \(T,\), one per round"),
        ({"penalties": [0.1, -0.1]}, "the penalties hold -0.1; numbers >= 0"),
        ({"dictionary": np.eye(5)}, "signals have 8 measurements"),
        ({"codes0": np.zeros((3, 8))}, r"the starting codes have shape \(3, 8\)"),
        ({"num_steps": 0}, "num_steps is 0; an integer >= 1"),
    ],
)
def test_errors_of_rounds(problem, change, message):
    arguments = {"dictionary": np.eye(8), "penalties": [0.1], "num_steps": 1, **change}
    with pytest.raises(ValueError, match=message):
        alternate(problem.signals, **arguments)


def test_what_is_refused_by_type(problem):
    half = problem.signals.astype(jnp.float16)
    with pytest.raises(TypeError, match="learn_dictionary: signals have dtype float16; float32"):
        learn_dictionary(jax.random.key(0), half, **SMALL)
    with pytest.raises(TypeError, match="alternate: signals have dtype float16; float32"):
        alternate(half, np.eye(8, dtype=np.float16), [0.1], num_steps=1)
    with pytest.raises(TypeError, match="a DictionaryUpdate is expected. Call its factory"):
        learn_dictionary(jax.random.key(0), problem.signals, update=updates.k_svd, **SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_atoms": 0}, "num_atoms is 0; an integer >= 1"),
        ({"num_rounds": 2.5}, "num_rounds is 2.5; an integer >= 1"),
        ({"num_atoms": 401}, "400 signals cannot determine 401 atoms"),
        ({"penalty": -1.0}, "penalty is -1.0; a finite number > 0"),
    ],
)
def test_errors(problem, change, message):
    with pytest.raises(ValueError, match=message):
        learn_dictionary(jax.random.key(0), problem.signals, **{**SMALL, **change})


def test_signals_that_are_not_finite(problem):
    with pytest.raises(ValueError, match="signals holds 1 non-finite numbers"):
        learn_dictionary(jax.random.key(0), problem.signals.at[0, 0].set(jnp.nan), **SMALL)


def test_hostile_scales_and_penalties_stay_finite(problem):
    for scale in (1e-18, 1e18):
        found = learn_dictionary(jax.random.key(0), scale * problem.signals, **SMALL)
        assert bool(jnp.all(jnp.isfinite(found.dictionary)))
        assert sc.metrics.dictionary_mcc(problem.dictionary, found.dictionary) > 0.99
    high = learn_dictionary(jax.random.key(0), problem.signals, penalty=50.0, **SMALL)
    assert bool(jnp.all(jnp.isfinite(high.dictionaries)))
    np.testing.assert_array_equal(high.codes, 0)
    with pytest.raises(ValueError, match="the penalty has shape \\(12,\\); one number"):
        learn_dictionary(jax.random.key(0), problem.signals, penalty=jnp.ones(12), **SMALL)


@pytest.mark.parametrize("num_rounds", [1, 2])
@pytest.mark.parametrize(("scale", "momentum"), [(1e20, 0.5), (1.0, 1.5), (1.0, -0.1)])
def test_what_cannot_be_told_under_jit_is_nan(problem, scale, momentum, num_rounds):
    start = sc.dictionaries.random(jax.random.key(3), num_atoms=16, num_measurements=8)
    penalties = np.full(num_rounds, 0.1, np.float32)

    def run(signals, momentum):
        return alternate(signals, start, penalties, num_steps=2, momentum=momentum).dictionary

    assert np.isnan(jax.jit(run)(scale * problem.signals, momentum)).all()
    assert np.isfinite(jax.jit(run)(problem.signals, 0.5)).all()
    with pytest.raises(ValueError, match="alternate: .* is expected"):
        run(scale * problem.signals, momentum)
