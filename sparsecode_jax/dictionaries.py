"""Dictionaries: one atom per row, (N, M), so that ``codes @ dictionary`` reconstructs.

Products here and in the solvers ask for the highest matmul precision: accelerators otherwise round
float32 products to TF32 or bfloat16, which stops a solver short of its optimum.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsecode_jax import _checks
from sparsecode_jax._scaling import in_units
from sparsecode_jax._sharding import automatic, on_automatic_axes, placement, to_host
from sparsecode_jax._sparse import SparseCodes, combine_rows
from sparsecode_jax.types import Array, ArrayLike, Key, Solver

__all__ = [
    "Prepared",
    "coherence",
    "correlate",
    "normalize",
    "orthogonalize",
    "prepare",
    "random",
    "reconstruct",
    "spectral_norm",
    "step_size",
]

_HIGHEST = jax.lax.Precision.HIGHEST


class Prepared(NamedTuple):
    """A dictionary with what solvers would find out about it anew at each call.

    Another dictionary needs another one: do not replace a field alone.

    Attributes:
      dictionary: (N, M).
      step_size: of proximal gradient, ().
      gram: inner products of the atoms, (N, N); None where there are too many.
    """

    dictionary: Array
    step_size: Array
    gram: Array | None


def random(key: Key, *, num_atoms: int, num_measurements: int, mean_cosine: float = 0.0) -> Array:
    """Draw a dictionary of Gaussian atoms with unit norm.

    Args:
      key: PRNG key. **Traced**.
      num_atoms: N. **Static**.
      num_measurements: M. **Static**.
      mean_cosine: c, of two atoms, at least 0 and below 1: atoms share a direction g that is drawn
        with them, as the square root of c times g, plus that of 1 - c times their own. **Static**.

    Returns:
      (N, M), each row of unit l2 norm.

    Raises:
      ValueError: a count below 1, or a mean cosine outside of [0, 1).
    """
    _checks.key("random", key)
    _checks.count("random", "num_atoms", num_atoms)
    _checks.count("random", "num_measurements", num_measurements)
    mean_cosine = _checks.static("random", "mean_cosine", mean_cosine)
    if not 0 <= mean_cosine < 1:
        raise ValueError(
            f"random: mean_cosine is {mean_cosine}; at least 0 and below 1 is expected."
        )
    atoms = jax.random.normal(key, (num_atoms, num_measurements))
    if mean_cosine:
        common = jax.random.normal(jax.random.fold_in(key, num_atoms), (1, num_measurements))
        atoms = (1 - mean_cosine) ** 0.5 * atoms + mean_cosine**0.5 * common
    return unit_rows(atoms)


@on_automatic_axes
def orthogonalize(
    dictionary: ArrayLike, *, num_steps: int = 100, learning_rate: float = 3e-4
) -> Array:
    r"""Push atoms apart by steps of Adam on the squares of their products.

    .. math:: \min_D \; \sum_{i \ne j} \langle d_i, d_j \rangle^2
              + N \sum_i (\|d_i\|^2 - 1)^2

    More atoms than measurements cannot be orthogonal; what is left is spread evenly.

    Args:
      dictionary: (N, M), of any norms. **Traced**.
      num_steps: **Static**.
      learning_rate: positive, and at most 1. **Static**.

    Returns:
      (N, M), each row of unit l2 norm.

    Raises:
      ValueError: no matrix of numbers, steps below 0, or a rate outside of (0, 1].

    **Cost**: 4NM min(N, M) operations per step; no array of N x N if M is smaller.

    References:
      The dictionary of SynthSAEBench, arXiv 2602.14687.
    """
    name = "orthogonalize"
    (dictionary,) = _checks.floating(name, dictionary)
    _checks.dictionary_matrix(name, dictionary)
    _checks.finite(name, dictionary=dictionary)
    _checks.count(name, "num_steps", num_steps, minimum=0)
    learning_rate = _checks.static(name, "learning_rate", learning_rate)
    _checks.positive(name, learning_rate=learning_rate)
    if learning_rate > 1:
        raise ValueError(
            f"{name}: learning_rate is {learning_rate:g}; at most 1, for atoms of unit norm, is "
            "expected."
        )
    return _orthogonalize(normalize(dictionary), learning_rate, num_steps)


@functools.partial(jax.jit, static_argnums=2)
def _orthogonalize(atoms: Array, learning_rate: float, num_steps: int) -> Array:
    wide = atoms.shape[0] < atoms.shape[1]

    def step(carry: tuple[Array, Array, Array], count: Array) -> tuple[Any, None]:
        atoms, first, second = carry
        small = correlate(atoms, atoms) if wide else correlate(atoms.T, atoms.T)
        product = reconstruct(small, atoms) if wide else reconstruct(atoms, small)
        squares = jnp.sum(atoms * atoms, axis=1, keepdims=True)
        slope = 4 * (product - squares * atoms + atoms.shape[0] * (squares - 1) * atoms)
        # Adam, whose step in Optax mixes dtypes.
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        scale = jnp.sqrt(second / (1 - 0.999**count)) + 1e-8
        return (atoms - learning_rate * first / (1 - 0.9**count) / scale, first, second), None

    zeros = jnp.zeros_like(atoms)
    counts = jnp.arange(1, num_steps + 1, dtype=atoms.dtype)
    atoms = jax.lax.scan(step, (atoms, zeros, zeros), counts)[0][0]
    return unit_rows(in_units(atoms))


def normalize(dictionary: ArrayLike) -> Array:
    """Divide each atom by its l2 norm.

    Args:
      dictionary: (..., N, M), of any norms. **Traced**. A zero atom stays zero.

    Returns:
      The same shape with rows of unit (or zero) norm.

    **Cost**: 5MN - 2N arithmetic operations (scale, square, sum, divide) and N square roots.
    """
    (dictionary,) = _checks.floating("normalize", dictionary)
    if not dictionary.ndim or not dictionary.shape[-1]:
        raise ValueError(
            f"normalize: the dictionary has shape {dictionary.shape}; (..., N, M) with M >= 1 is "
            "expected."
        )
    return unit_rows(in_units(dictionary))


def unit_rows(dictionary: Array) -> Array:
    """Divide each atom by its norm, from 1e-15 to 1e15 in float32, in 3MN - N operations."""
    return unit_atoms(dictionary)[0]


@functools.partial(jax.jit, inline=True)
def unit_atoms(dictionary: Array) -> tuple[Array, Array, Array]:
    """Return atoms (..., M) of unit norm, their norms (...,) and these squared; zero stays zero."""
    squares = jnp.sum(dictionary * dictionary, axis=-1)
    norms = jnp.sqrt(jnp.where(squares == 0, 1, squares))
    return dictionary / norms[..., None], norms, squares


@on_automatic_axes
def reconstruct(codes: Array | SparseCodes, dictionary: Array) -> Array:
    """Multiply codes (..., N) by a dictionary (N, M): signals (..., M) at full precision.

    **Cost**: 2MN arithmetic operations per signal; of :class:`~sparsecode_jax.SparseCodes` 2KM.
    """
    if isinstance(codes, SparseCodes):
        values, indices = codes.checked()
        _checks.num_rows("reconstruct", "the dictionary", dictionary, codes.num_atoms)
        return combine_rows(values, indices, dictionary)
    codes, dictionary = _checks.product("reconstruct", "codes", codes, dictionary, axis=0)
    return jnp.matmul(codes, dictionary, precision=_HIGHEST)


@on_automatic_axes
def correlate(signals: Array, dictionary: Array) -> Array:
    """Multiply signals (..., M) by the atoms (N, M): correlations (..., N) at full precision."""
    signals, dictionary = _checks.product("correlate", "signals", signals, dictionary, axis=1)
    return jnp.matmul(signals, dictionary.T, precision=_HIGHEST)


@on_automatic_axes
def coherence(dictionary: ArrayLike) -> Array:
    """Return the largest absolute cosine between two different atoms.

    Args:
      dictionary: (N, M) with N >= 2, of any norms. **Traced**.

    Returns:
      A scalar from 0 (orthogonal atoms) to 1 (two atoms are parallel).
    """
    (dictionary,) = _checks.floating("coherence", dictionary)
    _checks.matrix("coherence", "dictionary", dictionary, minimum=2)
    return _coherence(normalize(dictionary))


@functools.partial(jax.jit, inline=True)
def _coherence(atoms: Array) -> Array:
    atoms = jax.lax.optimization_barrier(atoms)  # or XLA computes with a constant, for minutes
    gram = jnp.abs(correlate(atoms, atoms))
    return jnp.max(jnp.where(jnp.eye(gram.shape[0], dtype=bool), 0, gram))


def spectral_norm(dictionary: ArrayLike, *, num_squarings: int = 6) -> Array:
    r"""Bound the largest singular value from above by power iteration on the smaller Gram matrix.

    The Gram matrix G is squared p times (which is :math:`2^p` steps of the power method on every
    start vector at once) and the Frobenius norm of the power gives

    .. math:: \|D\|_2^2 \le \|G^{2^p}\|_F^{1/2^p} \le S^{1/2^{p+1}} \|D\|_2^2,\quad S=\min(M,N).

    A plain power iteration gives a lower bound, and a step size from it can be too long; this one
    is never below the true norm, and for p = 6 at most 0.8 % (S = 8) to 2.6 % (S = 768) above it.

    Args:
      dictionary: (N, M). **Traced**.
      num_squarings: p. **Static**.

    Returns:
      A scalar.

    **Cost**: 2 S L S + 2 p S^3 matrix operations, L = max(M, N).
    """
    return _bound("spectral_norm", dictionary, num_squarings)


def _bound(name: str, dictionary: ArrayLike, num_squarings: int) -> Array:
    (dictionary,) = _checks.floating(name, dictionary)
    _checks.matrix(name, "dictionary", dictionary)
    _checks.count(name, "num_squarings", num_squarings, minimum=0, maximum=64)
    return automatic(functools.partial(_spectral_norm, num_squarings=num_squarings))(dictionary)


# Eagerly the loop over the squarings would be compiled anew at every call.
@functools.partial(jax.jit, static_argnames="num_squarings", inline=True)
def _spectral_norm(dictionary: Array, *, num_squarings: int) -> Array:
    dictionary = jax.lax.optimization_barrier(dictionary)  # or XLA computes with a constant
    # Squares neither over- nor underflow.
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(dictionary)))
    dictionary = dictionary / jnp.where(scale == 0, 1, scale)
    small = dictionary if dictionary.shape[0] <= dictionary.shape[1] else dictionary.T
    gram = correlate(small, small)

    def square(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        gram, log_norm = carry  # the true power is exp(log_norm) * gram, with |gram|_F = 1
        power = jnp.matmul(gram, gram, precision=_HIGHEST)
        norm = _frobenius(power)
        return (power / norm, 2 * log_norm + jnp.log(norm)), None

    norm = _frobenius(gram)
    carry, _ = jax.lax.scan(square, (gram / norm, jnp.log(norm)), length=num_squarings)
    return scale * jnp.exp(carry[1] / 2 ** (num_squarings + 1))


def _frobenius(matrix: Array) -> Array:
    squares = jnp.sum(matrix * matrix)
    return jnp.sqrt(jnp.where(squares == 0, 1, squares))


def prepare(dictionary: ArrayLike, *, max_atoms: int = 8192) -> Prepared:
    """Find out once what many calls of :func:`~sparsecode_jax.sparse_encode` use of a dictionary.

    Pursuits, refits and working sets take the inner products of atoms from it: a step of a pursuit
    of K atoms then costs (2K + 8)N operations per signal in the place of 2MN, and above 1,024 atoms
    keeps KN numbers per signal and not KM. Proximal gradient takes its step size. Under ``jit``,
    ``vmap`` and ``grad`` it may be called like any function; gradients reach the dictionary. Norms
    from 1e-15 to 1e15 have products that float32 can hold. A dictionary with atoms whose products
    its dtype cannot hold is refused; under ``jit`` all that is returned is NaN.

    Args:
      dictionary: (N, M), used as it is. **Traced**.
      max_atoms: N above which, as where atoms are known to be split over devices, there is no Gram
        matrix; one of 8,192 atoms takes 256 MiB in float32. **Static**.

    Returns:
      A :class:`Prepared`, which ``sparse_encode``, :func:`~sparsecode_jax.solvers.refit` and
      :func:`~sparsecode_jax.solvers.leave_one_out` accept in the place of the dictionary.
      ``Lasso(signals, p.dictionary, penalty, p.step_size, p.gram)`` is the problem for ``solve``.

    Raises:
      ValueError: no matrix, non-finite numbers, a zero atom, atoms whose products are out of range,
        or max_atoms below 1.

    **Cost**: that of :func:`step_size`, and 2MN^2 for the Gram matrix.

    Example:
      >>> import jax, sparsecode_jax as sc
      >>> problem = sc.synthetic.sample_problem(
      ...     jax.random.key(0), 3, num_samples=100, num_measurements=16, num_atoms=32)
      >>> prepared = sc.dictionaries.prepare(problem.dictionary)
      >>> codes = sc.sparse_encode(problem.signals, prepared, num_active=3)
      >>> prepared.gram.shape, int((codes != 0).sum(axis=-1).max())
      ((32, 32), 3)
    """
    name = "prepare"
    (dictionary,) = _checks.floating(name, dictionary)
    _checks.dictionary_matrix(name, dictionary)
    _checks.finite(name, dictionary=dictionary)
    _checks.count(name, "max_atoms", max_atoms)
    whole = dictionary.shape[0] <= max_atoms and placement(dictionary) is None
    found = Prepared(*_prepared(dictionary, whole))
    if _checks.concrete(found.step_size) and not np.isfinite(to_host(found.step_size)):
        norms = np.linalg.norm(to_host(dictionary).astype(np.float64), axis=1)
        low, high = np.min(norms), np.max(norms)
        raise ValueError(
            f"{name}: atoms have norms from {low:.3g} to {high:.3g}, whose products "
            f"{dictionary.dtype} cannot hold; atoms nearer to unit norm are expected. Scale "
            "them, as dictionaries.normalize does."
        )
    return found


def opened(dictionary: Any) -> tuple[Any, Array | None, Array | None]:
    """Return a dictionary that may be prepared, its step size and its Gram matrix if known."""
    return dictionary if isinstance(dictionary, Prepared) else (dictionary, None, None)


@functools.partial(jax.jit, static_argnames="whole")
def _prepared(dictionary: Array, whole: bool) -> tuple[Array, Array, Array | None]:
    dictionary = jax.lax.optimization_barrier(dictionary)  # or XLA computes with a constant
    step = automatic(step_size)(dictionary)
    gram = automatic(correlate)(dictionary, dictionary) if whole else None
    exact = jnp.isfinite(step)
    if gram is not None:
        squares, limits = jnp.diagonal(gram), jnp.finfo(gram.dtype)
        least = limits.tiny / limits.eps if limits.bits >= 32 else limits.tiny
        exact &= jnp.all((squares > least) & (squares < limits.max))
        gram = jnp.where(exact, gram, jnp.nan)
    return jnp.where(exact, dictionary, jnp.nan), jnp.where(exact, step, jnp.nan), gram


def step_size(
    dictionary: ArrayLike, *, num_squarings: int = 6, solver: Solver | None = None
) -> Array:
    """Return the step size of a solver: 1/L for proximal gradient.

    L is the squared spectral norm, bounded from above.

    Args:
      dictionary: (N, M). **Traced**.
      num_squarings: see :func:`spectral_norm`. **Static**.
      solver: whose step size it is, where a solver has a choice of its own; None is proximal
        gradient. **Static**.

    Returns:
      A scalar, of proximal gradient at most 1/L, so that ISTA and FISTA descend; NaN where it is
      below what the dtype holds, as of float32 atoms with norms of 1e20.

    **Cost**: that of :func:`spectral_norm`, or of the solver's choice; it is spent once a
    dictionary, not once per signal.
    """
    if solver is not None:
        _checks.solver("step_size", solver)
        if solver.step_size is not None:
            (dictionary,) = _checks.floating("step_size", dictionary)
            _checks.dictionary_matrix("step_size", dictionary)
            return solver.step_size(dictionary)
    step = 1 / _bound("step_size", dictionary, num_squarings) ** 2
    return jnp.where(step > 0, step, jnp.nan)
