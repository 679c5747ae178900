"""SynthSAEBench: 16,384 features in 768 measurements, as the field benchmarks autoencoders on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from sparsecode_jax import _checks, dictionaries
from sparsecode_jax.synthetic.feature_model import MOST_SHARED, FeatureModel
from sparsecode_jax.synthetic.trees import balanced_trees, compensate, tree
from sparsecode_jax.types import Array, Key

__all__ = ["synth_sae_bench", "zipf"]


def zipf(
    num_features: int, *, exponent: float = 0.5, largest: float = 0.4, smallest: float = 5e-4
) -> Array:
    r"""Return firing probabilities that fall with a feature's number as a power.

    .. math:: p_i = p_{\min} + (p_{\max} - p_{\min}) \frac{i^{-a} - N^{-a}}{1 - N^{-a}},
              \qquad i = 1, \dots, N

    Args:
      num_features: N. **Static**.
      exponent: a > 0. **Static**.
      largest: that of the first feature. **Static**.
      smallest: that of the last one. **Static**.

    Returns:
      (N,), falling.

    Raises:
      ValueError: an exponent that is not positive, or not 0 <= smallest <= largest <= 1.
    """
    name = "zipf"
    _checks.count(name, "num_features", num_features)
    exponent = _checks.static(name, "exponent", exponent)
    largest = _checks.static(name, "largest", largest)
    smallest = _checks.static(name, "smallest", smallest)
    _checks.positive(name, exponent=exponent)
    if not 0 <= smallest <= largest <= 1:
        raise ValueError(
            f"{name}: smallest is {smallest} and largest {largest}; 0 <= smallest <= largest <= 1 "
            "is expected."
        )
    if num_features == 1:
        return jnp.full(1, largest)
    fallen = np.expm1(-exponent * np.log(np.arange(1, num_features + 1)))  # i^-a - 1
    rates = smallest + (largest - smallest) * (1 - fallen / fallen[-1])
    return jnp.asarray(rates, jnp.result_type(float))


def synth_sae_bench(
    key: Key,
    *,
    version: int = 2,
    num_features: int = 16_384,
    num_measurements: int = 768,
    num_roots: int | None = None,
    num_factors: int = 25,
    num_orthogonalizing_steps: int = 100,
) -> FeatureModel:
    """Draw a feature model by the law of SynthSAEBench-16k.

    Firing falls as the square root of a feature's number, from .4 to 5e-4. Two thirds of the
    features are in trees of 4 children a parent, 3 levels deep, of which one at most is active;
    firing is correlated through 25 factors of scale .1; mean magnitudes fall from 5 to 4, with
    deviations that are the absolute values of normal numbers around .5; atoms are pushed apart by
    100 steps of Adam; the bias has norm .5.

    The published models were drawn on a GPU: this is a statistical twin of theirs, not the same
    numbers. Roots come first, then their children, level by level, and free features last.

    Args:
      key: PRNG key. **Traced**.
      version: 2, in which a child's magnitude is multiplied by its parent's over the parent's mean,
        or 1, in which it is not. **Static**.
      num_features: N. **Static**.
      num_measurements: M. **Static**.
      num_roots: of trees with 85 features each; None for N / 128. **Static**.
      num_factors: of more than about 50 some features have their row scaled down, to .99 of the
        variance. **Static**.
      num_orthogonalizing_steps: **Static**.

    Returns:
      A :class:`FeatureModel`, whose signals have about 34 active features at full size.

    Raises:
      ValueError: another version, trees that hold more than N features, or so few features that
        some would have to fire more often than their parent.

    **Cost**: 4NM min(N, M) operations per orthogonalizing step.

    References:
      SynthSAEBench, arXiv 2602.14687, and SAELens 6.54, ``sae_lens.synthetic``.
    """
    name = "synth_sae_bench"
    _checks.key(name, key)
    version = _checks.count(name, "version", version, maximum=2)
    _checks.count(name, "num_features", num_features)
    _checks.count(name, "num_measurements", num_measurements)
    if num_roots is None:
        num_roots = num_features // 128
    _checks.count(name, "num_roots", num_roots, minimum=0)
    _checks.count(name, "num_factors", num_factors, minimum=0)
    _checks.count(name, "num_orthogonalizing_steps", num_orthogonalizing_steps, minimum=0)
    atom_key, bias_key, deviation_key, factor_key = jax.random.split(key, 4)
    with jax.ensure_compile_time_eval():  # within jit too: none of it depends on the key
        probabilities, hierarchy = zipf(num_features), None
        if num_roots:
            parents = balanced_trees(num_roots, branching=4, depth=3, num_units=num_features)
            hierarchy = tree(parents, scaled=version == 2)
            try:
                probabilities = compensate(probabilities, hierarchy)
            except ValueError as error:
                raise ValueError(
                    f"{name}: with {num_roots} trees among {num_features} features some children "
                    "would have to fire with a probability above 1 when their parent does; at most "
                    "1 is expected. Take num_roots=0, or more features with more roots, such as "
                    "512 with 4."
                ) from error
    atoms = dictionaries.random(atom_key, num_atoms=num_features, num_measurements=num_measurements)
    direction = jax.random.normal(bias_key, (num_measurements,))
    return FeatureModel(
        dictionaries.orthogonalize(atoms, num_steps=num_orthogonalizing_steps),
        probabilities,
        bias=0.5 * direction / jnp.linalg.norm(direction),
        means=jnp.linspace(5.0, 4.0, num_features),
        deviations=jnp.abs(0.5 + 0.5 * jax.random.normal(deviation_key, (num_features,))),
        factors=_factors(factor_key, num_features, num_factors) if num_factors else None,
        tree=hierarchy,
    )


def _factors(key: Key, num_features: int, num_factors: int) -> Array:
    factors = 0.1 * jax.random.normal(key, (num_features, num_factors))
    shares = jnp.sum(factors**2, axis=1, keepdims=True)
    return factors * jnp.sqrt(jnp.minimum(MOST_SHARED / shares, 1))
