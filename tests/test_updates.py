"""Dictionary updates against NumPy, and the laws that hold for all of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax.dictionary_learning import alternate, updates
from sparsecode_jax.flops import count_flops
from sparsecode_jax.solvers import fista

B, M, N = 40, 6, 9
UPDATES = {
    "method of optimal directions": updates.method_of_optimal_directions(),
    "k_svd": updates.k_svd(),
    "approximate k_svd": updates.approximate_k_svd(),
    "block coordinate": updates.block_coordinate(),
    "projected gradient": updates.projected_gradient(),
    "projected gradient, rate": updates.projected_gradient(learning_rate=1.0),
    "neural": updates.neural_update(learning_rate=2.0),
    "decorrelated": updates.decorrelated(updates.block_coordinate(), max_coherence=0.9),
    "deflated": updates.deflated(updates.block_coordinate(), max_coherence=0.9),
}
SAME_CODES = ("block coordinate", "projected gradient", "projected gradient, rate", "neural")


def draw(seed=0, *, signed=False, active=0.4):
    """Noisy signals, a dictionary and sparse codes that do not fit them, in float64."""
    rng = np.random.default_rng(seed)
    dictionary = unit(rng.normal(size=(N, M)))
    codes = np.abs(rng.normal(size=(B, N))) * (rng.random((B, N)) < active)
    if signed:
        codes *= rng.choice([-1, 1], size=codes.shape)
    other = unit(dictionary + 0.4 * rng.normal(size=(N, M)))
    return codes @ dictionary + 0.1 * rng.normal(size=(B, M)), other, codes


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def step(update, signals, dictionary, codes, state=None):
    """One step in float64, as NumPy arrays."""
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x, jnp.float64) for x in (signals, dictionary, codes)]
        state = update.init(arrays[1]) if state is None else state
        state, *found = jax.jit(update.step)(state, *arrays)
    return state, *map(np.asarray, found)


def error(signals, dictionary, codes):
    return 0.5 * np.sum((signals - codes @ dictionary) ** 2)


# --- against NumPy ----------------------------------------------------------------------------


def test_optimal_directions_are_least_squares():
    signals, old, codes = draw()
    _, atoms, moved = step(updates.method_of_optimal_directions(), signals, old, codes)
    expected = np.linalg.lstsq(codes, signals, rcond=None)[0]
    norms = np.linalg.norm(expected, axis=1)
    np.testing.assert_allclose(atoms, expected / norms[:, None], atol=2e-4)
    np.testing.assert_allclose(moved, codes * norms, rtol=1e-3)


def test_k_svd_is_a_loop_of_singular_vectors():
    signals, dictionary, codes = draw(signed=True)
    _, atoms, found = step(updates.k_svd(), signals, dictionary, codes)
    for j in range(N):
        users = np.flatnonzero(codes[:, j])
        others = np.delete(np.arange(N), j)
        errors = signals[users] - codes[np.ix_(users, others)] @ dictionary[others]
        left, values, right = np.linalg.svd(errors)
        sign = np.sign(right[0] @ dictionary[j])
        dictionary[j], codes[users, j] = sign * right[0], sign * values[0] * left[:, 0]
    np.testing.assert_allclose(atoms, dictionary, atol=1e-6)
    np.testing.assert_allclose(found, codes, atol=1e-6)


def test_approximate_k_svd_is_a_loop_of_power_iterations():
    for signed in (True, False):
        signals, dictionary, codes = draw(signed=signed)
        _, atoms, found = step(updates.approximate_k_svd(), signals, dictionary, codes)
        for j in range(N):
            users = codes[:, j] != 0
            errors = signals[users] - np.delete(codes[users], j, 1) @ np.delete(dictionary, j, 0)
            atom = codes[users, j] @ errors
            dictionary[j] = atom / np.linalg.norm(atom)
            codes[users, j] = errors @ dictionary[j] if signed else (errors @ dictionary[j]).clip(0)
        np.testing.assert_allclose(atoms, dictionary, atol=1e-9)
        np.testing.assert_allclose(found, codes, atol=1e-9)


def test_non_negative_k_svd_finds_the_best_rank_one_term():
    """One atom alone: no unit atom on a fine circle, with its best codes, does better."""
    rng = np.random.default_rng(3)
    signals = np.abs(rng.normal(size=(30, 1))) * unit(rng.normal(size=(1, 2)))
    signals += 0.3 * rng.normal(size=(30, 2))
    codes = np.ones((30, 1))
    _, atom, found = step(updates.k_svd(), signals, np.asarray([[1.0, 0.0]]), codes)
    assert found.min() >= 0
    angles = np.linspace(0, 2 * np.pi, 10_000)
    circle = np.stack([np.cos(angles), np.sin(angles)])
    best = 0.5 * (np.sum(signals**2) - np.max(np.sum(np.maximum(signals @ circle, 0) ** 2, axis=0)))
    np.testing.assert_allclose(error(signals, atom, found), best, rtol=1e-5)


@pytest.mark.parametrize(("forgetting", "prior"), [(0.0, 0.0), (2.5, 0.0), (0.0, 9.0), (2.5, 60.0)])
def test_block_coordinate_is_a_loop_over_weighted_sums(forgetting, prior):
    update = updates.block_coordinate(forgetting=forgetting, prior=prior)
    state, dictionary = None, draw()[1]
    expected, seen = dictionary.copy(), prior
    gram, products = np.zeros((N, N)), np.zeros((N, M))
    for seed, size in ((1, 40), (2, 25), (3, 1)):  # batches of unequal size
        signals, _, codes = draw(seed)
        signals, codes = signals[:size], codes[:size]
        if seed == 1:  # as if each atom had been used alone, with the mean energy of these codes
            gram = prior * np.mean(codes**2) * np.eye(N)
            products = gram @ dictionary
        state, dictionary, same = step(update, signals, dictionary, codes, state)
        seen += size
        fading = (1 - size / seen) ** forgetting
        gram, products = fading * gram, fading * products
        for x, z in zip(signals, codes, strict=True):
            gram += np.outer(z, z)
            products += np.outer(z, x)
        for j in range(N):
            atom = expected[j] + (products[j] - gram[j] @ expected) / gram[j, j]
            expected[j] = atom / np.linalg.norm(atom)
        np.testing.assert_allclose(dictionary, expected, atol=1e-9)
        np.testing.assert_array_equal(same, codes)


def test_the_prior_waits_for_codes_and_may_be_replaced():
    signals, dictionary, codes = draw()
    update = updates.block_coordinate(prior=50.0)
    _, expected, _ = step(update, signals, dictionary, codes)
    state, atoms, _ = step(update, signals, dictionary, np.zeros_like(codes))
    np.testing.assert_allclose(atoms, dictionary, atol=1e-12)
    _, atoms, _ = step(update, signals, dictionary, codes, state)
    np.testing.assert_allclose(atoms, expected, atol=1e-12)
    with jax.enable_x64(True):
        other = updates.block_coordinate().init(jnp.asarray(dictionary))._replace(prior=50.0)
    _, atoms, _ = step(update, signals, dictionary, codes, other)
    np.testing.assert_allclose(atoms, expected, atol=1e-12)
    _, frozen, _ = step(updates.block_coordinate(prior=1e12), signals, dictionary, codes)
    np.testing.assert_allclose(frozen, dictionary, atol=1e-6)


def test_a_fresh_state_can_be_donated():
    update = updates.deflated(updates.block_coordinate(prior=3.0), max_coherence=0.5)
    signals, dictionary, codes = (jnp.asarray(x, jnp.float32) for x in draw())
    run = jax.jit(update.step, donate_argnums=(0, 2))
    _, atoms, _ = run(update.init(dictionary), signals, dictionary, codes)
    assert jnp.all(jnp.isfinite(atoms))


def test_block_coordinate_of_many_atoms_is_a_loop_too():
    wide, rng = 300, np.random.default_rng(0)  # not in whole blocks
    dictionary = rng.normal(size=(wide, M))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    codes = np.maximum(rng.normal(size=(200, wide)) - 1, 0)
    codes[:, 7] = 0  # an unused atom stays where it is
    signals = codes @ rng.normal(size=(wide, M))
    _, found, _ = step(updates.block_coordinate(), signals, dictionary, codes)
    expected, gram, products = dictionary.copy(), codes.T @ codes, codes.T @ signals
    for j in range(wide):
        if gram[j, j] > 0:
            atom = expected[j] + (products[j] - gram[j] @ expected) / gram[j, j]
            expected[j] = atom / np.linalg.norm(atom)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_block_coordinate_forgets_replaced_atoms():
    signals, dictionary, codes = draw()
    update = updates.block_coordinate()
    state, _, _ = step(update, signals, dictionary, codes)
    replaced = np.arange(N) == 2
    with jax.enable_x64(True):
        gone = update.reset(state, replaced)
    np.testing.assert_array_equal(gone.products[2], 0)
    np.testing.assert_array_equal(gone.gram[2], 0)
    np.testing.assert_array_equal(gone.gram[:, 2], 0)
    kept = np.ix_(~replaced, ~replaced)
    np.testing.assert_array_equal(np.asarray(gone.gram)[kept], np.asarray(state.gram)[kept])


@pytest.mark.parametrize("rate", [None, 0.3])
def test_projected_gradient_is_a_step_down_the_error(rate):
    signals, dictionary, codes = draw(signed=True)
    _, atoms, same = step(
        updates.projected_gradient(learning_rate=rate), signals, dictionary, codes
    )
    gradient = np.zeros_like(dictionary)  # by differences
    for index in np.ndindex(dictionary.shape):
        ahead, behind = dictionary.copy(), dictionary.copy()
        ahead[index] += 1e-5
        behind[index] -= 1e-5
        change = error(signals, ahead, codes) - error(signals, behind, codes)
        gradient[index] = change / 2e-5 / B
    if rate is None:  # a bound from above, within 3 %
        rate = B / np.linalg.norm(codes, 2) ** 2
        np.testing.assert_allclose(atoms, unit(dictionary - rate * gradient), atol=0.01)
    else:
        np.testing.assert_allclose(atoms, unit(dictionary - rate * gradient), atol=1e-7)
    np.testing.assert_array_equal(same, codes)


def test_the_neural_update_is_a_sum_over_active_signals():
    signals, dictionary, codes = draw(signed=True)
    _, atoms, _ = step(updates.neural_update(learning_rate=0.7), signals, dictionary, codes)
    expected = dictionary.copy()
    for x, z in zip(signals, codes, strict=True):
        for j in np.flatnonzero(z):
            expected[j] += 0.7 / B * np.sign(z[j]) * (x - z @ dictionary)
    np.testing.assert_allclose(atoms, unit(expected), atol=1e-9)


# --- coherence --------------------------------------------------------------------------------


def still():
    """Return an update that does nothing."""
    return updates.DictionaryUpdate(_no_state, _same)


def _no_state(dictionary):
    return ()


def _same(state, signals, dictionary, codes):
    return state, dictionary, codes


def coherence(atoms):
    gram = np.abs(atoms @ atoms.T)
    return np.max(gram - np.diag(np.diag(gram)))


def test_one_rotation_brings_a_pair_to_the_bound_in_its_own_plane():
    for sign in (1, -1):
        pair = unit(np.asarray([[1.0, 0.1, 0], [sign, -0.2 * sign, 0], [0, 0, 1]]))
        update = updates.decorrelated(still(), max_coherence=0.6, num_rotations=1)
        _, atoms, _ = step(update, np.zeros((1, 3)), pair, np.zeros((1, 3)))
        np.testing.assert_allclose(atoms[0] @ atoms[1], 0.6 * sign, atol=1e-9)
        np.testing.assert_array_equal(atoms[2], pair[2])
        np.testing.assert_allclose(atoms[:2, 2], 0, atol=1e-12)
        moved = [np.arccos(a @ b) for a, b in zip(atoms[:2], pair[:2], strict=True)]
        np.testing.assert_allclose(moved[0], moved[1], atol=1e-6)  # symmetrically


def test_coherence_is_held_or_falls():
    rng = np.random.default_rng(0)
    dictionary = unit(rng.normal(size=(12, 8)))
    assert coherence(dictionary) > 0.7
    none = np.zeros((1, 8)), dictionary, np.zeros((1, 12))
    update = updates.decorrelated(still(), max_coherence=0.55, num_rotations=60)
    assert coherence(step(update, *none)[1]) <= 0.55 + 1e-6
    tight = updates.decorrelated(still(), max_coherence=0.3)  # near what is possible (Welch .21)
    assert 0.3 < coherence(step(tight, *none)[1]) < coherence(dictionary)
    loose = updates.decorrelated(still(), max_coherence=0.99)
    np.testing.assert_array_equal(step(loose, *none)[1], dictionary)


def test_equal_atoms_stay_finite():
    same = unit(np.ones((3, 4)))
    update = updates.decorrelated(still(), max_coherence=0.5)
    _, atoms, _ = step(update, np.zeros((1, 4)), same, np.zeros((1, 3)))
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, atol=1e-9)


def test_the_weaker_of_two_atoms_gives_up_what_is_above_the_bound():
    codes = np.asarray([[1.0, 2.0, 3.0]])  # the last has most energy
    for sign in (1, -1):
        atoms = unit(np.asarray([[0.1, 0, 1], [0.8 * sign, 0.6, 0], [1, 0, 0]]))
        update = updates.deflated(still(), max_coherence=0.3)
        _, found, _ = step(update, np.zeros((1, 3)), atoms, codes)
        np.testing.assert_array_equal(found[[0, 2]], atoms[[0, 2]])  # within it, and the strongest
        np.testing.assert_allclose(found[1], unit([[(0.8 - 0.5) * sign, 0.6, 0]])[0], atol=1e-9)
        np.testing.assert_allclose(found[1] @ found[2], sign * 0.3 / np.hypot(0.3, 0.6), atol=1e-9)


def test_what_several_stronger_atoms_share_is_taken_once():
    rng = np.random.default_rng(0)
    strong, weak = unit(rng.normal(size=(2, 4)))
    weak *= np.sign(strong @ weak)
    update = updates.deflated(still(), max_coherence=1e-6)
    pair, five = (np.asarray([*count * [strong], weak]) for count in (1, 5))
    energies = [np.asarray([[*range(2, 2 + len(x) - 1), 1.0]]) for x in (pair, five)]
    alone, among = (
        step(update, np.zeros((1, 4)), atoms, z)[1][-1]
        for atoms, z in zip((pair, five), energies, strict=True)
    )
    np.testing.assert_allclose(among, alone, atol=1e-6)
    assert abs(among @ strong) < 1e-5


def test_atoms_that_nothing_used_yet_are_not_deflated():
    signals, dictionary, codes = draw()
    codes[:, 3] = 0
    update = updates.deflated(still(), max_coherence=0.1)
    _, atoms, _ = step(update, signals, dictionary, codes)
    np.testing.assert_allclose(atoms[3], dictionary[3], atol=1e-15)
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, atol=1e-9)
    assert np.sum(np.any(np.abs(atoms - dictionary) > 1e-3, axis=1)) > N // 2


def test_energy_is_averaged_and_forgotten_with_the_atom():
    signals, dictionary, codes = draw()
    update = updates.deflated(updates.block_coordinate(), max_coherence=0.9)
    state, atoms, _ = step(update, signals, dictionary, codes)
    state, _, _ = step(update, signals, atoms, 2 * codes, state)
    kept = np.exp(-B / (2 * N))
    energy = np.mean(codes**2, axis=0)
    np.testing.assert_allclose(state.energy, (1 - kept) * (kept * energy + 4 * energy), rtol=1e-9)
    replaced = np.arange(N) == 2
    with jax.enable_x64(True):
        gone = update.reset(state, replaced)
    np.testing.assert_array_equal(gone.energy, np.where(replaced, 0, state.energy))
    np.testing.assert_array_equal(gone.update.gram[2], 0)


# --- laws of all updates ----------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", UPDATES)
def test_atoms_are_unit_and_the_error_falls(name, signed):
    update, (signals, dictionary, codes) = UPDATES[name], draw(signed=signed)
    before = error(signals, dictionary, codes)
    state, atoms, new = step(update, signals, dictionary, codes)
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, atol=1e-9)
    assert error(signals, atoms, new) < before
    if name in SAME_CODES:
        np.testing.assert_array_equal(new, codes)
    assert signed or new.min() >= 0
    assert not np.any(new[codes == 0])  # supports do not grow


@pytest.mark.parametrize("name", UPDATES)
def test_unused_atoms_stay_where_they_are(name):
    signals, dictionary, codes = draw()
    codes[:, 3] = 0
    _, atoms, new = step(UPDATES[name], signals, dictionary, codes)
    np.testing.assert_allclose(atoms[3], dictionary[3], atol=1e-9)
    np.testing.assert_array_equal(new[:, 3], 0)
    _, atoms, new = step(UPDATES[name], signals, dictionary, np.zeros_like(codes))
    np.testing.assert_allclose(atoms, dictionary, atol=1e-6)
    np.testing.assert_array_equal(new, 0)


@pytest.mark.parametrize("name", UPDATES)
def test_vmap_equals_a_loop_and_a_second_call_compiles_nothing(name, compilations):
    update = UPDATES[name]
    lanes = [draw(seed) for seed in (0, 1)]
    singles = [step(update, *lanes[0])]
    before = compilations.count
    singles.append(step(update, *lanes[1]))
    assert compilations.count == before
    with jax.enable_x64(True):
        stacked = [jnp.asarray(x) for x in zip(*lanes, strict=True)]
        both = jax.jit(jax.vmap(update.step))(jax.vmap(update.init)(stacked[1]), *stacked)
    for i, single in enumerate(singles):
        for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(both), strict=True):
            np.testing.assert_allclose(b[i], a, atol=1e-9)


@functools.partial(jax.jit, static_argnames="solver")
def optimum(signals, dictionary, solver):
    """The mean lasso objective of a dictionary at penalty .1."""
    codes = sc.sparse_encode(signals, dictionary, 0.1, num_steps=200, solver=solver)
    return sc.objectives.lasso(signals, dictionary, codes, 0.1).mean()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", UPDATES)
def test_the_objective_falls_over_rounds(name, signed):
    """Of K-SVD not at every round: it fits codes that are not shrunken."""
    solver = fista(prox=sc.prox.soft_threshold if signed else sc.prox.nonnegative_soft_threshold)
    signals, dictionary, _ = draw(signed=signed)
    signals = jnp.asarray(signals / np.sqrt(np.mean(np.sum(signals**2, axis=1))), jnp.float32)
    now = sc.dictionary_learning.Alternated(dictionary, None, None)
    values = [optimum(signals, dictionary.astype(np.float32), solver)]
    for _ in range(3):
        now = alternate(
            signals,
            now.dictionary,
            np.full(6, 0.1),
            num_steps=20,
            solver=solver,
            update=UPDATES[name],
            codes0=now.codes,
            state0=now.state,
        )
        values.append(optimum(signals, now.dictionary, solver))
    assert max(values[1:]) < 0.97 * values[0]
    assert "k_svd" in name or np.all(np.diff(values) < 1e-4)


def test_numbers_in_the_state_are_swept():
    signals, dictionary, codes = draw()
    update = updates.projected_gradient(learning_rate=1.0)
    with jax.enable_x64(True):
        swept = jax.vmap(lambda rate: update.step(rate, signals, dictionary, codes)[1])(
            jnp.asarray([0.1, 1.0])
        )
    np.testing.assert_allclose(swept[1], step(update, signals, dictionary, codes)[1], atol=1e-9)
    assert np.abs(np.diff(swept, axis=0)).max() > 1e-3


# --- factories --------------------------------------------------------------------------------


def test_factories_return_one_program():
    assert updates.k_svd() is updates.k_svd()
    assert updates.block_coordinate(forgetting=0.5) is updates.block_coordinate(forgetting=0.5)
    assert hash(UPDATES["decorrelated"]) == hash(UPDATES["decorrelated"])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: updates.block_coordinate(forgetting=-1), "forgetting is -1; a finite number >= 0"),
        (lambda: updates.projected_gradient(learning_rate=0.0), "learning_rate is 0.0; a finite"),
        (lambda: updates.neural_update(learning_rate=-1.0), "learning_rate is -1.0; a finite"),
        (lambda: updates.neural_update(learning_rate=np.ones(2)), r"shape \(2,\); one number"),
        (lambda: updates.projected_gradient(learning_rate=np.ones(2)), r"\(2,\); one number"),
        (
            lambda: updates.decorrelated(updates.k_svd(), max_coherence=1.0),
            "max_coherence is 1.0; a number between 0 and 1, both excluded",
        ),
        (
            lambda: updates.decorrelated(updates.k_svd(), max_coherence=0.5, num_rotations=0),
            "num_rotations is 0; an integer >= 1",
        ),
        (lambda: updates.block_coordinate(prior=-1), "prior is -1; a finite number >= 0"),
        (
            lambda: updates.deflated(updates.k_svd(), max_coherence=0.0),
            "max_coherence is 0.0; a number between 0 and 1, both excluded",
        ),
    ],
)
def test_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


COSTS = {  # the leading terms of the docstrings
    "method of optimal directions": 2 * B * N * (N + M) + N**3 / 3 + 2 * M * N**2,
    "k_svd": N * (2 * B * M**2 + 9 * M**3 + 28 * B * M),
    "approximate k_svd": N * 8 * B * M + 2 * B * M * N,
    "block coordinate": 2 * B * N * (N + M) + 2 * M * N**2 + 6 * M * N,
    "projected gradient, rate": 4 * B * M * N + B * M,
    "neural": 4 * B * M * N + B * M + 5 * M * N,
}


@pytest.mark.parametrize("name", COSTS)
def test_the_costs_that_docstrings_state(name):
    update = UPDATES[name]
    signals, dictionary, codes = (jnp.asarray(x, jnp.float32) for x in draw())
    state = update.init(dictionary)
    count = int(count_flops(update.step)(state, signals, dictionary, codes).total())
    np.testing.assert_allclose(count, COSTS[name], rtol=0.1)


def test_the_cost_of_deflation():
    signals, dictionary, codes = (jnp.asarray(x, jnp.float32) for x in draw())
    counts = []
    for update in (updates.block_coordinate(), updates.deflated(updates.block_coordinate(),
                                                                max_coherence=0.5)):  # fmt: skip
        found = count_flops(update.step)(update.init(dictionary), signals, dictionary, codes)
        counts.append(int(found.total()))
    expected = 4 * M * N**2 + 5 * N**2 + 7 * M * N + 2 * B * N
    np.testing.assert_allclose(counts[1] - counts[0], expected, rtol=0.02)
