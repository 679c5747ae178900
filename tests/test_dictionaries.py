"""Dictionaries: norms against NumPy, and the bound that step sizes rest on."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsecode_jax import _checks, dictionaries, solvers
from sparsecode_jax.flops import eval_flops

from .contracts import docstring, sparse_problem


def matrices():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(1, 12))
    return {
        "random": sparse_problem().dictionary,
        "tall": rng.normal(size=(60, 5)),
        "wide": rng.normal(size=(5, 60)),
        "square": rng.normal(size=(9, 9)),
        "coherent": base + 0.01 * rng.normal(size=(30, 12)),
        "rank_1": rng.normal(size=(20, 1)) * base,
        "identity": np.eye(7),
        "one_atom": rng.normal(size=(1, 6)),
        "one_measurement": rng.normal(size=(6, 1)),
        "with_zero_atom": rng.normal(size=(6, 4)) * (np.arange(6) > 0)[:, None],
        "large": rng.normal(size=(200, 100)),
    }


MATRICES = {name: np.asarray(x, np.float32) for name, x in matrices().items()}
spectral_norm = jax.jit(dictionaries.spectral_norm, static_argnames="num_squarings")
step_size = jax.jit(dictionaries.step_size, static_argnames="num_squarings")
each_matrix = pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES.keys())


@each_matrix
@pytest.mark.parametrize("num_squarings", [1, 6])
def test_spectral_norm_is_bounded_on_both_sides(matrix, num_squarings):
    true = np.linalg.norm(matrix.astype(np.float64), 2)
    bound = float(spectral_norm(matrix, num_squarings=num_squarings))
    ratio = min(matrix.shape) ** (1 / 2 ** (num_squarings + 2))  # the documented bound, as a norm
    assert true * (1 - 1e-5) <= bound <= true * ratio * (1 + 1e-5)


@each_matrix
def test_spectral_norm_is_never_below_the_true_norm_in_float64(matrix):
    true = np.linalg.norm(matrix.astype(np.float64), 2)
    with jax.enable_x64(True):
        bound = spectral_norm(matrix.astype(np.float64))
        assert bound.dtype == jnp.float64
    assert float(bound) >= true * (1 - 1e-13)
    assert float(bound) <= true * min(matrix.shape) ** (1 / 2**8) * (1 + 1e-13)


def test_spectral_norm_documents_its_excess():
    text = docstring(dictionaries.spectral_norm)
    assert "at most 0.8 % (S = 8) to 2.6 % (S = 768) above" in text
    assert pytest.approx(1.008, abs=5e-4) == 8 ** (1 / 2**8)
    assert pytest.approx(1.026, abs=5e-4) == 768 ** (1 / 2**8)


@pytest.mark.parametrize("scale", [1e-22, 1e-6, 1e6, 1e20])
def test_spectral_norm_scales_with_the_dictionary(scale):
    matrix = MATRICES["random"]
    expected = scale * float(spectral_norm(matrix))
    scaled = matrix * np.float32(scale)
    assert float(spectral_norm(scaled)) == pytest.approx(expected, rel=1e-5)


def test_spectral_norm_of_a_zero_dictionary_is_zero():
    assert float(spectral_norm(np.zeros((3, 4), np.float32))) == 0


def test_spectral_norm_gradient_is_the_outer_product_of_the_top_singular_vectors():
    matrix = MATRICES["square"].astype(np.float64)
    left, _, right = np.linalg.svd(matrix)
    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(lambda d: dictionaries.spectral_norm(d, num_squarings=12)))(
            matrix
        )
    np.testing.assert_allclose(gradient, np.outer(left[:, 0], right[0]), atol=1e-6)


@pytest.mark.parametrize("name", ["identity", "rank_1", "one_atom", "with_zero_atom"])
def test_spectral_norm_gradient_is_finite_at_degenerate_dictionaries(name):
    gradient = jax.jit(jax.grad(dictionaries.spectral_norm))
    chex.assert_tree_all_finite(gradient(jnp.asarray(MATRICES[name])))


@each_matrix
def test_step_size_is_the_reciprocal_square_of_the_bound(matrix):
    bound = float(spectral_norm(matrix))
    step = float(step_size(matrix))
    assert step == pytest.approx(1 / bound**2, rel=1e-6)
    assert step <= 1 / np.linalg.norm(matrix.astype(np.float64), 2) ** 2 * (1 + 2e-5)


def test_more_squarings_tighten_the_step_size():
    steps = [float(step_size(MATRICES["random"], num_squarings=p)) for p in (0, 2, 8)]
    assert steps == sorted(steps)
    assert steps[0] < 0.9 * steps[-1]


def test_spectral_norm_under_jit_and_vmap_equals_a_loop():
    stack = np.random.default_rng(1).normal(size=(4, 6, 9)).astype(np.float32)
    mapped = jax.jit(jax.vmap(dictionaries.spectral_norm))(stack)
    loop = jnp.stack([spectral_norm(d) for d in stack])
    chex.assert_trees_all_close(mapped, loop, rtol=1e-6)


def test_the_second_call_compiles_nothing(compilations):
    dictionary = jnp.asarray(sparse_problem().dictionary)
    dictionaries.step_size(dictionary)
    compilations.count = 0
    dictionaries.step_size(dictionary)
    assert compilations.count == 0


def test_moving_an_array_of_numpy_compiles_nothing_and_copies_it(compilations):
    memory = np.empty(64 + 4 * 15, np.uint8)
    start = -memory.ctypes.data % 64  # where JAX would read what lies there, and go on doing so
    array = memory[start : start + 4 * 15].view(np.float32).reshape(3, 5)
    array[:] = 1
    (moved,), (double,) = _checks.floating("here", array), _checks.floating("here", np.ones((5, 3)))
    assert compilations.count == 0
    array[:] = 2
    np.testing.assert_array_equal(moved, 1)
    assert moved.dtype == double.dtype == jnp.float32


def test_random_atoms_have_unit_norm_and_depend_on_the_key_alone():
    def draw(seed):
        return dictionaries.random(jax.random.key(seed), num_atoms=50, num_measurements=20)

    assert draw(0).shape == (50, 20)
    np.testing.assert_allclose(np.linalg.norm(draw(0), axis=1), 1, rtol=1e-6)
    chex.assert_trees_all_equal(draw(0), draw(0))
    assert not np.allclose(draw(0), draw(1))
    assert abs(float(draw(0).mean())) < 4 / np.sqrt(20 * 1000)  # 4 standard errors: no direction


def test_normalize_against_numpy_with_leading_axes():
    stack = np.random.default_rng(2).normal(size=(3, 6, 9)).astype(np.float32)
    expected = stack / np.linalg.norm(stack, axis=-1, keepdims=True)
    np.testing.assert_allclose(dictionaries.normalize(stack), expected, rtol=1e-6)
    integers = dictionaries.normalize(np.array([[3, 4], [0, 0]]))
    np.testing.assert_allclose(integers, [[0.6, 0.8], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1e6, 1e15])
def test_normalize_does_not_depend_on_the_scale(scale):
    matrix = MATRICES["random"]
    scaled = dictionaries.normalize(matrix * np.float32(scale))
    np.testing.assert_allclose(scaled, dictionaries.normalize(matrix), rtol=2e-6)


def test_normalize_keeps_a_zero_atom_with_a_finite_gradient():
    matrix = jnp.asarray(MATRICES["with_zero_atom"])
    np.testing.assert_array_equal(dictionaries.normalize(matrix)[0], np.zeros(4))
    gradient = jax.jit(jax.grad(lambda d: jnp.sum(dictionaries.normalize(d) ** 3)))(matrix)
    chex.assert_tree_all_finite(gradient)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_dtype_is_kept(dtype):
    with jax.enable_x64(dtype == "float64"):
        matrix = jnp.asarray(MATRICES["random"], dtype)
        for fn in (dictionaries.normalize, dictionaries.spectral_norm, dictionaries.coherence):
            assert fn(matrix).dtype == matrix.dtype


def test_coherence_by_brute_force():
    matrix = 3 * MATRICES["random"]
    atoms = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    pairs = [abs(a @ b) for i, a in enumerate(atoms) for b in atoms[:i]]
    assert float(dictionaries.coherence(matrix)) == pytest.approx(max(pairs), abs=1e-6)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (np.eye(5), 0),
        (np.array([[1.0, 2], [-2, -4], [5, 0]]), 1),
        (np.array([[1.0, 0], [1, 1]]), 0.5**0.5),
    ],
)
def test_coherence_of_known_dictionaries(matrix, expected):
    assert float(dictionaries.coherence(matrix)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_products_against_numpy(leading):
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(6, 4)).astype(np.float32)
    codes, signals = (rng.normal(size=(*leading, n)).astype(np.float32) for n in (6, 4))
    expected = np.einsum("...n,nm->...m", codes, matrix)
    np.testing.assert_allclose(dictionaries.reconstruct(codes, matrix), expected, atol=1e-5)
    expected = np.einsum("...m,nm->...n", signals, matrix)
    np.testing.assert_allclose(dictionaries.correlate(signals, matrix), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("fn", "shapes"),
    [
        (dictionaries.reconstruct, [(5, 6), (6, 4)]),
        (dictionaries.correlate, [(5, 4), (6, 4)]),
        (dictionaries.spectral_norm, [(6, 4)]),
        (dictionaries.coherence, [(6, 4)]),
    ],
)
def test_every_product_asks_for_the_highest_precision(fn, shapes):
    text = str(jax.make_jaxpr(fn)(*(jnp.ones(shape) for shape in shapes)))
    assert text.count("dot_general[") >= 1
    assert text.count("Precision.HIGHEST, Precision.HIGHEST") == text.count("dot_general[")


@pytest.mark.parametrize(("n", "m"), [(7, 4), (4, 7), (16, 8)])
def test_cost_of_normalize(n, m):
    matrix = jax.ShapeDtypeStruct((n, m), "float32")
    count = eval_flops(dictionaries.normalize, matrix)
    roots = count.by("primitive")["sqrt"]
    assert (count.total("arithmetic") - roots, roots) == (5 * m * n - 2 * n, n)
    text = docstring(dictionaries.normalize)
    assert "5MN - 2N arithmetic operations (scale, square, sum, divide) and N square roots" in text


@pytest.mark.parametrize(("n", "m"), [(7, 4), (4, 7), (16, 8)])
def test_cost_of_the_spectral_norm(n, m):
    matrix = jax.ShapeDtypeStruct((n, m), "float32")
    small, large = sorted((n, m))
    for fn in (dictionaries.spectral_norm, dictionaries.step_size):
        matmul = eval_flops(fn, matrix).total("matmul")
        assert matmul == 2 * small * large * small + 2 * 6 * small**3
    formula = "2 S L S + 2 p S^3 matrix operations, L = max(M, N)"
    assert formula in docstring(dictionaries.spectral_norm)


@pytest.mark.parametrize("mean_cosine", [0.0, 0.2, 0.7])
def test_atoms_with_a_common_direction_have_the_cosine_asked_for(mean_cosine):
    atoms = np.asarray(
        dictionaries.random(
            jax.random.key(0), num_atoms=300, num_measurements=400, mean_cosine=mean_cosine
        )
    )
    np.testing.assert_allclose(np.linalg.norm(atoms, axis=1), 1, rtol=1e-5)
    cosines = (atoms @ atoms.T)[~np.eye(300, dtype=bool)]
    np.testing.assert_allclose(cosines.mean(), mean_cosine, atol=0.02)
    with pytest.raises(ValueError, match=r"mean_cosine is 1.0; at least 0 and below 1"):
        dictionaries.random(jax.random.key(0), num_atoms=3, num_measurements=4, mean_cosine=1.0)


@pytest.mark.parametrize("shape", [(40, 6), (5, 9)], ids=["wide", "tall"])
def test_orthogonalized_atoms_are_those_of_adam_by_the_derivative_of_products(shape):
    start = np.random.default_rng(0).normal(size=shape)

    def loss(atoms):
        cosines = atoms @ atoms.T
        squares = jnp.sum(atoms**2, axis=1)
        return jnp.sum(cosines**2) - jnp.sum(squares**2) + len(atoms) * jnp.sum((squares - 1) ** 2)

    with jax.enable_x64(True):
        atoms = start / np.linalg.norm(start, axis=1, keepdims=True)
        first, second = np.zeros(shape), np.zeros(shape)
        for step in range(1, 8):
            slope = np.asarray(jax.grad(loss)(jnp.asarray(atoms)))
            first = 0.9 * first + 0.1 * slope
            second = 0.999 * second + 0.001 * slope**2
            scaled = np.sqrt(second / (1 - 0.999**step)) + 1e-8
            atoms = atoms - 0.01 * first / (1 - 0.9**step) / scaled
        atoms = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
        found = dictionaries.orthogonalize(3 * start, num_steps=7, learning_rate=0.01)
        np.testing.assert_allclose(found, atoms, rtol=1e-9)
        assert loss(found) < loss(dictionaries.normalize(start))
    with pytest.raises(ValueError, match="^orthogonalize: learning_rate is 2; at most 1"):
        dictionaries.orthogonalize(start, learning_rate=2)


def test_the_step_size_of_a_solver_with_a_choice_of_its_own():
    atoms = MATRICES["random"]
    assert float(dictionaries.step_size(atoms, solver=solvers.working_set())) == 1
    assert dictionaries.step_size(atoms, solver=solvers.fista()) == dictionaries.step_size(atoms)
    with pytest.raises(TypeError, match="step_size: the solver is"):
        dictionaries.step_size(atoms, solver=solvers.fista)
