"""Codes by value and place: the same numbers as dense codes, without dense arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import sparsecode_jax as sc
from sparsecode_jax import SparseCodes, dictionaries, metrics, objectives

S, K, M, N = 60, 3, 16, 24


@pytest.fixture(scope="module")
def problem():
    key = jax.random.key(0)
    return sc.synthetic.sample_problem(key, K, num_samples=S, num_measurements=M, num_atoms=N)


@pytest.fixture(scope="module")
def codes(problem):
    return sc.sparse_encode(problem.signals, problem.dictionary, num_active=K)


@pytest.fixture(scope="module")
def sparse(codes):
    return SparseCodes.from_dense(codes, num_active=K)


def test_dense_and_back(codes, sparse):
    assert sparse.values.shape == sparse.indices.shape == (S, K)
    assert sparse.shape == codes.shape and sparse.ndim == 2 and sparse.dtype == codes.dtype
    np.testing.assert_array_equal(sparse.dense(), codes)
    every = SparseCodes.from_dense(codes)  # as many slots as the fullest signal needs
    assert every.values.shape[-1] == int((codes != 0).sum(axis=-1).max())
    np.testing.assert_array_equal(every.dense(), codes)


def test_fewer_slots_keep_the_largest(codes):
    kept = SparseCodes.from_dense(-codes, num_active=1).dense()
    best = np.argmax(np.abs(codes), axis=-1)
    np.testing.assert_array_equal(kept[np.arange(S), best], -codes[np.arange(S), best])
    assert ((kept != 0).sum(axis=-1) <= 1).all()


def test_scipy_and_back(codes, sparse, tmp_path):
    matrix = sparse.to_scipy()
    assert scipy.sparse.issparse(matrix) and matrix.shape == (S, N)
    assert matrix.nnz == int((codes != 0).sum())
    np.testing.assert_array_equal(matrix.toarray(), codes)
    scipy.sparse.save_npz(tmp_path / "codes.npz", matrix)
    for read in (scipy.sparse.load_npz(tmp_path / "codes.npz"), scipy.sparse.coo_matrix(codes)):
        np.testing.assert_array_equal(SparseCodes.from_scipy(read).dense(), codes)


def test_entries_that_scipy_repeats_or_keeps_as_zeros():
    data = ([1.0, 2.0, 5.0, 0.0], ([0, 0, 1, 1], [2, 2, 3, 0]))
    repeated = scipy.sparse.coo_array(data, shape=(3, 4))
    codes = SparseCodes.from_scipy(repeated)
    np.testing.assert_array_equal(codes.dense(), [[0, 0, 3, 0], [0, 0, 0, 5], [0, 0, 0, 0]])
    assert codes.values.shape == (3, 1)
    empty = SparseCodes.from_scipy(scipy.sparse.csr_array((2, 4)))
    np.testing.assert_array_equal(empty.dense(), np.zeros((2, 4)))


def test_half_precision_becomes_float32_in_scipy():
    for dtype in (jnp.bfloat16, jnp.float16):
        codes = SparseCodes(jnp.asarray([[1.5, 0.0]], dtype), jnp.array([[2, 0]]), 3)
        assert codes.to_scipy().dtype == np.float32
        np.testing.assert_array_equal(codes.to_scipy().toarray(), [[0, 0, 1.5]])


def test_unused_slots_may_point_anywhere():
    codes = SparseCodes(jnp.array([[7.0, 0.0, 0.0]]), jnp.array([[1, 1, 0]]), 3)
    np.testing.assert_array_equal(codes.dense(), [[0, 7, 0]])
    assert metrics.l0(codes) == 1 and metrics.dead_fraction(codes) == pytest.approx(2 / 3)


def test_a_pytree_whose_number_of_atoms_is_static(sparse):
    leaves, tree = jax.tree.flatten(sparse)
    assert [leaf.shape for leaf in leaves] == [(S, K), (S, K)]
    assert jax.tree.unflatten(tree, leaves).num_atoms == N
    dense = jax.jit(lambda codes: codes.dense())(sparse)
    np.testing.assert_array_equal(dense, sparse.dense())
    one = jax.vmap(lambda codes: codes.dense())(sparse)  # one signal at a time
    np.testing.assert_array_equal(one, sparse.dense())
    assert jax.eval_shape(lambda codes: codes, sparse).num_atoms == N


@pytest.mark.parametrize("name", ["reconstruction_error", "relative_error"])
def test_errors_of_the_kept_codes_alone(problem, codes, sparse, name):
    error = getattr(objectives, name)
    expected = error(problem.signals, problem.dictionary, codes)
    got = error(problem.signals, problem.dictionary, sparse)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["lasso", "paper_loss", "duality_gap", "kkt_residual"])
def test_other_objectives_are_those_of_the_dense_codes(problem, codes, sparse, name):
    of = getattr(objectives, name)
    expected = of(problem.signals, problem.dictionary, codes, 0.1)
    np.testing.assert_array_equal(of(problem.signals, problem.dictionary, sparse, 0.1), expected)


def test_reconstruct_and_its_gradients(problem, codes, sparse):
    expected = dictionaries.reconstruct(codes, problem.dictionary)
    got = dictionaries.reconstruct(sparse, problem.dictionary)
    np.testing.assert_allclose(got, expected, atol=1e-6)

    def loss(dictionary, codes):
        return jnp.sum(dictionaries.reconstruct(codes, dictionary) ** 2)

    by_dense = jax.grad(loss)(problem.dictionary, codes)
    by_sparse = jax.grad(loss)(problem.dictionary, sparse)
    np.testing.assert_allclose(by_sparse, by_dense, atol=1e-4)


def test_the_second_product_compiles_nothing(problem, sparse, compilations):
    dictionaries.reconstruct(sparse, problem.dictionary)
    compilations.count = 0
    dictionaries.reconstruct(sparse, problem.dictionary)
    assert compilations.count == 0


def test_reconstruct_costs_the_kept_codes_alone(problem, sparse):
    count = sc.flops.count_flops(dictionaries.reconstruct)(sparse, problem.dictionary)
    assert int(count.total()) == 2 * S * K * M


def test_metrics_are_those_of_the_dense_codes(problem, codes, sparse):
    true = SparseCodes.from_dense(problem.codes)
    for metric in (metrics.mcc, metrics.latent_correlation):
        expected = metric(problem.codes, codes)
        for pair in ((true, sparse), (problem.codes, sparse), (true, codes)):
            assert metric(*pair) == expected, metric
    key = jax.random.key(1)
    assert metrics.mcc_chance(key, true, sparse) == metrics.mcc_chance(key, problem.codes, codes)
    few = jax.tree.map(lambda x: x[:4], sparse)
    for threshold in (0.0, 0.3):
        for metric in (metrics.l0, metrics.dead_fraction):
            expected = metric(codes[:4], threshold=threshold)
            np.testing.assert_allclose(metric(few, threshold=threshold), expected, rtol=1e-6)
    pair = jax.tree.map(lambda x: jnp.stack([x, 2 * x % N]), sparse)
    np.testing.assert_allclose(metrics.dead_fraction(pair)[0], metrics.dead_fraction(codes))


PURSUITS = {
    "orthogonal_least_squares": 3, "orthogonal_matching_pursuit": 3, "gradient_pursuit": 5,
    "iterative_hard_thresholding": 20, "cosamp": 2, "subspace_pursuit": 2, "exhaustive": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", PURSUITS)
@pytest.mark.parametrize("prox", [sc.prox.soft_threshold, sc.prox.nonnegative_soft_threshold])
def test_pursuits_give_their_slots(problem, name, prox):
    build = functools.partial(getattr(sc.solvers, name), prox=prox)
    options = {"num_active": 2, "num_steps": PURSUITS[name], "solver": build}
    signals = np.array(problem.signals[:, None])
    signals[7, 0, 3] = np.nan

    def find(as_sparse):
        encode = functools.partial(sc.sparse_encode, as_sparse=as_sparse, **options)
        return jax.jit(encode)(signals, problem.dictionary)

    found, expected = find(True), find(False)
    assert found.values.shape == found.indices.shape == (S, 1, 2) and found.num_atoms == N
    known = np.arange(S) != 7
    np.testing.assert_array_equal(found.dense()[known], expected[known])
    assert np.isnan(found.values[7]).all() and (found.values[known] != 0).any()
    used = found.values[known, 0].all(axis=-1)
    assert (found.indices[known, 0, 0] != found.indices[known, 0, 1])[used].all()


def test_slots_in_chunks_and_to_a_tolerance(problem):
    many, dictionary = np.tile(problem.signals, (40, 1))[:2303], problem.dictionary
    options = {"num_active": K, "as_sparse": True}
    few = sc.sparse_encode(many[:S], dictionary, **options)
    np.testing.assert_array_equal(sc.sparse_encode(many, dictionary, **options).values[:S],
                                  few.values)  # fmt: skip
    until = {"tolerance": 0.5, "num_active": K}
    found = sc.sparse_encode(many[:S], dictionary, as_sparse=True, **until)
    np.testing.assert_array_equal(found.dense(), sc.sparse_encode(many[:S], dictionary, **until))


@pytest.mark.full_effort
def test_slots_need_no_array_of_codes():
    signals = jax.ShapeDtypeStruct((64, 16), jnp.float32)
    dictionary = jax.ShapeDtypeStruct((16_384, 16), jnp.float32)
    encode = functools.partial(sc.sparse_encode, num_active=2, as_sparse=True)
    out = jax.jit(encode).lower(signals, dictionary).compile().memory_analysis()
    assert out.output_size_in_bytes < 64 * 16_384


def test_a_lasso_solver_has_no_slots(problem):
    with pytest.raises(ValueError, match="sparse_encode: as_sparse=True, but this solver's codes"):
        sc.sparse_encode(problem.signals, problem.dictionary, 0.1, num_steps=3, as_sparse=True)


def test_nan_comes_out(sparse):
    broken = SparseCodes(sparse.values.at[1, 0].set(jnp.nan), sparse.indices, N)
    assert jnp.isnan(metrics.l0(broken)) and jnp.isnan(metrics.dead_fraction(broken))
    assert np.isnan(broken.dense()).sum() == 1
    with pytest.raises(ValueError, match="^mcc: codes holds 1 non-finite"):
        metrics.mcc(sparse, broken)


def test_bad_input_is_refused(codes):
    values, places = jnp.ones((2, 3)), jnp.zeros((2, 3), int)
    for call, kind, text in (
        (lambda: SparseCodes(values, places[:, :2], N).dense(), ValueError, "one shape"),
        (lambda: SparseCodes(values, values, N).to_scipy(), TypeError, "integers are expected"),
        (lambda: SparseCodes(values, places + N, N).dense(), ValueError, "from 24 to 24 of 24"),
        (lambda: SparseCodes(values, places - 1, N).dense(), ValueError, "from -1 to -1"),
        (lambda: SparseCodes.from_scipy(codes), TypeError, "from_dense"),
        (lambda: SparseCodes.from_scipy(scipy.sparse.coo_array(codes[0])), ValueError, "per sig"),
        (lambda: SparseCodes.from_dense(1.0), ValueError, r"\(\.\.\., N\)"),
        (lambda: SparseCodes.from_dense(codes, num_active=N + 1), ValueError, "25"),
        (lambda: jax.jit(SparseCodes.from_dense)(codes), TypeError, "num_active is expected"),
        (
            lambda: dictionaries.reconstruct(SparseCodes(values, places + 9, 9), jnp.ones((9, M))),
            ValueError,
            "from 9 to 9 of 9 atoms",
        ),
    ):
        with pytest.raises(kind, match=text):
            call()
