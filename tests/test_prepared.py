"""Prepared dictionaries: what they are made of, found out once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import Lasso, dictionaries, solvers
from sparsecode_jax.flops import eval_flops
from sparsecode_jax.solvers import _core, _pursuit

from .contracts import sparse_problem

K = 3
PURSUITS = {
    "OMP": solvers.orthogonal_matching_pursuit,
    "OLS": solvers.orthogonal_least_squares,
    "gradient pursuit": solvers.gradient_pursuit,
    "CoSaMP": solvers.cosamp,
    "subspace pursuit": solvers.subspace_pursuit,
    "IHT": solvers.iterative_hard_thresholding,
}
each_pursuit = pytest.mark.parametrize("pursuit", PURSUITS.values(), ids=PURSUITS.keys())


@pytest.fixture(scope="module")
def data():
    problem = sparse_problem()
    scales = np.linspace(0.5, 2, problem.dictionary.shape[0])[:, None]  # not all of unit norm
    return problem.signals, (problem.dictionary * scales).astype(np.float32)


def test_it_holds_what_solvers_find_out(data):
    _, dictionary = data
    prepared = dictionaries.prepare(dictionary)
    exact = np.asarray(dictionary, np.float64)
    np.testing.assert_allclose(prepared.gram, exact @ exact.T, atol=1e-5)
    np.testing.assert_array_equal(prepared.step_size, dictionaries.step_size(dictionary))
    np.testing.assert_array_equal(prepared.dictionary, dictionary)
    assert dictionaries.prepare(dictionary, max_atoms=len(dictionary) - 1).gram is None


@each_pursuit
def test_pursuits_give_what_they_give(data, pursuit):
    signals, dictionary = data
    prepared = dictionaries.prepare(dictionary)
    plain = sc.sparse_encode(signals, dictionary, num_active=K, solver=pursuit)
    codes = sc.sparse_encode(signals, prepared, num_active=K, solver=pursuit)
    np.testing.assert_allclose(codes, plain, atol=1e-5)
    np.testing.assert_array_equal(codes != 0, plain != 0)


def test_matching_pursuit_and_exhaustive_search_take_it_too(data):
    signals, dictionary = data
    prepared = dictionaries.prepare(dictionary)
    step = prepared.step_size
    for solver in (solvers.matching_pursuit(), solvers.exhaustive(2)):
        plain, known = (
            solvers.solve(solver, Lasso(signals, dictionary, 0.0, step, gram), num_steps=2)
            for gram in (None, prepared.gram)
        )
        np.testing.assert_allclose(known, plain, atol=1e-5)


def test_a_working_set_takes_its_products_and_certifies_by_the_atoms(data):
    signals, dictionary = data
    prepared, solver = dictionaries.prepare(dictionary), solvers.working_set((8,))
    wrong = jnp.eye(len(dictionary)) * prepared.gram

    def solve(gram):
        problem = Lasso(signals, dictionary, 0.05, prepared.step_size, gram)
        return solvers.solve_to_tolerance(solver, problem, tolerance=1e-4, max_steps=12)

    plain, told = solve(None)
    known, info = solve(prepared.gram)
    np.testing.assert_allclose(known, plain, atol=1e-5)
    np.testing.assert_array_equal(info.converged, told.converged)
    assert np.all(info.converged)
    assert not np.any(solve(wrong)[1].converged)
    (size, m), w = signals.shape, 8

    def cost(gram):
        problem = Lasso(signals, dictionary, 0.05, prepared.step_size, gram)
        return int(eval_flops(lambda p: solvers.solve(solver, p, num_steps=3), problem).total())

    assert cost(None) - cost(prepared.gram) == 3 * size * 2 * m * w * w


@each_pursuit
def test_it_is_their_gram_matrix(data, pursuit):
    """A wrong one gives other codes: they use it, and make none of their own."""
    signals, dictionary = data
    prepared = dictionaries.prepare(dictionary)
    wrong = prepared._replace(gram=jnp.eye(len(dictionary)) * prepared.gram)
    plain, codes = (
        sc.sparse_encode(signals, given, num_active=K, solver=pursuit)
        for given in (prepared, wrong)
    )
    assert np.max(np.abs(plain - codes)) > 0.01


def test_solvers_of_a_lasso_take_its_step_size_and_the_same_way(data):
    signals, dictionary = data
    prepared = dictionaries.prepare(dictionary)
    for options in ({"num_steps": 20}, {"tolerance": 1e-5}):
        plain, codes = (
            sc.sparse_encode(signals, given, 0.05, **options) for given in (dictionary, prepared)
        )
        np.testing.assert_array_equal(codes, plain)
    slow = prepared._replace(step_size=prepared.step_size / 4)
    less = sc.sparse_encode(signals, slow, 0.05, num_steps=20)
    expected = sc.sparse_encode(
        signals, dictionary, 0.05, num_steps=20, step_size=prepared.step_size / 4
    )
    np.testing.assert_array_equal(less, expected)
    solver = solvers.lca()  # which has a step size of its own
    plain, codes = (
        sc.sparse_encode(signals, given, 0.05, num_steps=20, solver=solver)
        for given in (dictionary, prepared)
    )
    np.testing.assert_array_equal(codes, plain)


@pytest.mark.parametrize("prox", [sc.prox.nonnegative_soft_threshold, sc.prox.soft_threshold])
@jax.enable_x64(True)
def test_codes_are_refitted_by_its_products(data, prox):
    signals, dictionary = (np.asarray(x, np.float64) for x in data)
    prepared = dictionaries.prepare(dictionary)
    wrong_gram = prepared._replace(gram=jnp.eye(len(dictionary)) * prepared.gram)
    codes = sc.sparse_encode(signals, dictionary, 0.05, num_steps=20)
    for given in (codes, sc.SparseCodes.from_dense(codes, num_active=5)):
        plain, known, wrong = (
            solvers.refit(given, signals, atoms, num_active=5, prox=prox)
            for atoms in (dictionary, prepared, wrong_gram)
        )
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-9), plain, known)
        change = jax.tree.leaves(jax.tree.map(lambda x, y: np.max(np.abs(x - y)), plain, wrong))
        assert max(change) > 0.01
    n, m = dictionary.shape
    refit = lambda x, z, d: solvers.refit(z, x, d, num_active=5)  # noqa: E731
    plain, known = (
        int(eval_flops(refit, signals, codes, atoms).total()) for atoms in (dictionary, prepared)
    )
    assert plain - known == len(signals) * (2 * m * 25 - 2 * 25)


def test_leave_one_out_takes_it_for_the_dictionary(data):
    signals, dictionary = data
    codes = sc.sparse_encode(signals, dictionary, 0.05, num_steps=20)
    plain, kept = (
        solvers.leave_one_out(codes, signals, atoms, threshold=0.05)
        for atoms in (dictionary, dictionaries.prepare(dictionary))
    )
    np.testing.assert_array_equal(kept, plain)
    assert np.any(kept != codes)


def test_many_atoms_are_pursued_by_their_products(data, monkeypatch):
    signals, dictionary = data
    prepared = dictionaries.prepare(dictionary)
    monkeypatch.setattr(_pursuit, "_MOST_ATOMS", 2)  # as if there were more than are made
    for few in (2**40, 2**10):  # bytes at a time: of all signals, and of a few
        monkeypatch.setattr(_core, "_CACHE", few)
        monkeypatch.setattr(_core, "_FEWEST", 3)
        monkeypatch.setattr(_core.os, "cpu_count", lambda: 1)
        jax.clear_caches()
        for pursuit in (solvers.orthogonal_matching_pursuit, solvers.orthogonal_least_squares):
            plain, codes = (
                sc.sparse_encode(signals, given, num_active=K, solver=pursuit)
                for given in (dictionary, prepared)
            )
            np.testing.assert_allclose(codes, plain, atol=1e-5)
    jax.clear_caches()


def test_what_was_prepared_is_not_charged_again(data):
    signals, dictionary = data
    n, m = dictionary.shape
    shape = jax.ShapeDtypeStruct(signals.shape, jnp.float32)

    def cost(given, **options):
        encode = lambda x, d: sc.sparse_encode(x, d, **options)  # noqa: E731
        return int(eval_flops(encode, shape, given).total())

    prepared = jax.eval_shape(dictionaries.prepare, dictionary)
    atoms = jax.ShapeDtypeStruct((n, m), jnp.float32)
    step = int(eval_flops(dictionaries.step_size, atoms).total())
    gram = 2 * m * n * n
    assert int(eval_flops(dictionaries.prepare, atoms).total()) == step + gram
    assert cost(atoms, num_active=K) - cost(prepared, num_active=K) == gram
    lasso = {"penalty": 0.05, "num_steps": 7}
    assert cost(atoms, **lasso) - cost(prepared, **lasso) == step


def test_products_of_a_lower_precision_are_made_anew(data):
    signals, dictionary = data
    rounded = jnp.asarray(dictionary, jnp.bfloat16)
    codes = sc.sparse_encode(signals, dictionaries.prepare(rounded), num_active=K)
    plain = sc.sparse_encode(signals, rounded, num_active=K)
    np.testing.assert_array_equal(codes, plain)


def test_gradients_reach_the_dictionary(data):
    signals, dictionary = data

    def energy(dictionary, known):
        given = dictionaries.prepare(dictionary) if known else dictionary
        codes = sc.sparse_encode(signals, given, num_active=K)
        return jnp.sum(codes**2)

    plain, codes = (jax.grad(energy)(dictionary, known) for known in (False, True))
    np.testing.assert_allclose(codes, plain, rtol=1e-3, atol=1e-4)

    def exact(prepared):  # implicit derivatives: a Gram matrix has no part in them
        return jnp.sum(sc.sparse_encode(signals, prepared, 0.05, tolerance=1e-5) ** 2)

    slope = jax.grad(exact)(dictionaries.prepare(dictionary))
    expected = jax.grad(lambda d: jnp.sum(sc.sparse_encode(signals, d, 0.05, tolerance=1e-5) ** 2))(
        dictionary
    )
    error = np.max(np.abs(slope.dictionary - expected)) / np.max(np.abs(expected))
    assert error < 3e-3  # both are at codes within the root of 1e-5 of the exact ones
    assert not np.any(slope.gram)


def test_several_dictionaries_at_once(data):
    signals, dictionary = data
    several = np.stack([dictionary, dictionary[::-1], 2 * dictionary])
    prepared = jax.vmap(dictionaries.prepare)(several)
    codes = jax.vmap(lambda d: sc.sparse_encode(signals, d, num_active=K))(prepared)
    for each, given in zip(codes, several, strict=True):
        np.testing.assert_allclose(each, sc.sparse_encode(signals, given, num_active=K), atol=1e-5)


def test_a_gram_matrix_of_others_is_refused(data):
    signals, dictionary = data
    prepared = dictionaries.prepare(dictionary)
    wrong = prepared._replace(gram=prepared.gram[:-1, :-1])
    with pytest.raises(
        ValueError, match=r"Gram matrix has shape \(15, 15\).* 16 atoms; \(16, 16\)"
    ):
        sc.sparse_encode(signals, wrong, num_active=K)
    with pytest.raises(ValueError, match="max_atoms"):
        dictionaries.prepare(dictionary, max_atoms=0)
    with pytest.raises(ValueError, match="NaN|finite"):
        dictionaries.prepare(np.full_like(dictionary, np.nan))


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_atoms_whose_products_are_out_of_range_are_refused_or_nan(data, scale):
    signals, dictionary = data
    out = (dictionary * scale).astype(np.float32)
    with pytest.raises(ValueError, match="products float32 cannot hold; atoms nearer to unit norm"):
        dictionaries.prepare(out)
    encode = jax.jit(lambda x, d: sc.sparse_encode(x, dictionaries.prepare(d), num_active=K))
    assert jnp.all(jnp.isnan(encode(signals, out)))
    for leaf in jax.jit(dictionaries.prepare)(out):
        assert jnp.all(jnp.isnan(leaf))
    near = jax.jit(dictionaries.prepare)((dictionary * scale**0.7).astype(np.float32))
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in near)


def test_a_program_may_close_over_the_dictionary(data):
    signals, dictionary = data
    given = jnp.asarray(dictionary)
    encode = jax.jit(lambda x: sc.sparse_encode(x, dictionaries.prepare(given), num_active=K))
    plain = sc.sparse_encode(signals, dictionary, num_active=K)
    np.testing.assert_allclose(encode(signals), plain, atol=1e-5)
