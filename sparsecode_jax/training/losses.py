"""Training losses: ``loss(codes, batch) -> ()``, where the batch is a :class:`Batch`.

All are means over signals, but for ``tilted``. Factories (``elastic_net``, ``tilted``, ``aux_k``,
``matryoshka``) are cached, so that the same arguments give the same program.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsecode_jax import _checks, dictionaries
from sparsecode_jax._bound import Bound, cached
from sparsecode_jax._rows import as_row
from sparsecode_jax._sparse import SparseCodes, combine_rows
from sparsecode_jax.types import Array, Aux

__all__ = [
    "Batch",
    "aux_k",
    "cosine",
    "elastic_net",
    "gated",
    "l0",
    "l1",
    "lasso",
    "matryoshka",
    "paper",
    "squared_error",
    "tilted",
]


class Batch(NamedTuple):
    """What a loss may look at besides the codes.

    Attributes:
      signals: (B, M).
      dictionary: (N, M), fixed or being learned.
      penalty: ().
      true_codes: (B, N), or None where they are unknown.
      bias: of the decoder, (M,), or None.
      aux: what the encoder gives besides the codes, or None.
      dead: which latents have long been inactive, (N,), or None where that is not counted.
      frequency: how often each latent has lately been active, (N,), or None where that is not
        counted.
    """

    signals: Array
    dictionary: Array | None
    penalty: Array
    true_codes: Array | None
    bias: Array | None = None
    aux: Aux | None = None
    dead: Array | None = None
    frequency: Array | None = None


Loss = Callable[[Array, Batch], Array]


def squared_error(codes: Array, batch: Batch) -> Array:
    r"""Return half the squared error: :math:`\tfrac12\|x - zD - b\|^2`.

    For encoders that set the sparsity themselves (TopK and its kin, pursuits).
    """
    return 0.5 * _mean_square(_residual("squared_error", codes, batch))


def lasso(codes: Array, batch: Batch) -> Array:
    r"""Return the lasso: :math:`\tfrac12\|x - zD - b\|^2 + \lambda\|z\|_1`."""
    error = 0.5 * _mean_square(_residual("lasso", codes, batch))
    return error + batch.penalty * _mean_l1(codes)


def l1(codes: Array, batch: Batch) -> Array:
    r"""Return the lasso with each code weighted by its atom's norm.

    .. math:: \tfrac12\|x - zD - b\|^2 + \lambda \sum_j |z_j| \|d_j\|

    For training with atoms of any norm (``Recipe(unit_atoms=False)``), where a plain l1 penalty
    could be escaped by small codes of long atoms.

    References:
      Conerly et al., "Update on how we train SAEs", Transformer Circuits, April 2024.
    """
    error = 0.5 * _mean_square(_residual("l1", codes, batch))
    dictionary = _dictionary("l1", batch)
    squares = jnp.sum(dictionary * dictionary, axis=-1)
    norms = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    return error + batch.penalty * _mean_l1(codes * as_row(norms, codes))


@cached
def elastic_net(ratio: float) -> Loss:
    r"""Build the lasso with a ridge: :math:`+ \lambda(\|z\|_1 + \tfrac{r}{2}\|z\|^2)`.

    Args:
      ratio: r, at least 0. **Static**.
    """
    ratio = _checks.static("losses.elastic_net", "ratio", ratio)
    _checks.nonnegative("losses.elastic_net", ratio=ratio)
    return Bound(_elastic_net, ratio)


def _elastic_net(ratio: float, codes: Array, batch: Batch) -> Array:
    return lasso(codes, batch) + batch.penalty * ratio * 0.5 * _mean_square(codes)


@cached
def tilted(tilt: float) -> Loss:
    r"""Build half the squared error with more weight on the signals that are explained worst.

    .. math:: \frac1t \log \frac1B \sum_b \exp\big(\tfrac t2 \|x_b - z_b D - c\|^2\big)

    It is :func:`squared_error` as t goes to 0, and the largest error as t grows; signals weigh
    in the gradient by the softmax of t times their errors.

    Args:
      tilt: t > 0, in the units of one over an error. **Static**.

    References:
      Li, Beirami, Sanjabi, Smith, 2021, "Tilted Empirical Risk Minimization", Eq. (2).
    """
    tilt = _checks.static("losses.tilted", "tilt", tilt)
    _checks.positive("losses.tilted", tilt=tilt)
    return Bound(_tilted, tilt)


def _tilted(tilt: float, codes: Array, batch: Batch) -> Array:
    residual = _residual("tilted", codes, batch)
    errors = 0.5 * jnp.sum(residual * residual, axis=-1)
    worst = jax.lax.stop_gradient(jnp.max(errors))  # log1p, expm1: exact for a small tilt too
    return worst + jnp.log1p(jnp.mean(jnp.expm1(tilt * (errors - worst)))) / tilt


def l0(codes: Array, batch: Batch) -> Array:
    r"""Return half the squared error and :math:`\lambda\|z\|_0`, by the encoder's gates.

    The count has the straight-through gradient of :func:`~sparsecode_jax.encoders.jump_relu`.

    References:
      Rajamanoharan et al., 2024, "Jumping Ahead", Eq. (10).
    """
    gates = _gates("l0", batch, "gates", "jump_relu")
    error = 0.5 * _mean_square(_residual("l0", codes, batch))
    return error + batch.penalty * jnp.mean(jnp.sum(gates, axis=-1))


def gated(codes: Array, batch: Batch) -> Array:
    r"""Return the loss of a gated encoder.

    .. math:: \tfrac12\|x - zD - b\|^2 + \lambda\|g\|_1 + \tfrac12\|x - gD' - b'\|^2

    with g the rectified gate latents, and D', b' the decoder without gradient.

    References:
      Rajamanoharan et al., 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders",
      Eq. (10).
    """
    gates = _gates("gated", batch, "gate_latents", "gated")
    frozen = jax.lax.stop_gradient((_dictionary("gated", batch), batch.bias))
    by_gates = batch._replace(dictionary=frozen[0], bias=frozen[1], aux=None)
    error = 0.5 * _mean_square(_residual("gated", codes, batch))
    auxiliary = 0.5 * _mean_square(_residual("gated", gates, by_gates))
    return error + batch.penalty * jnp.mean(jnp.sum(gates, axis=-1)) + auxiliary


@cached
def aux_k(loss: Loss = squared_error, *, num_aux: int, weight: float = 1 / 32) -> Loss:
    r"""Build AuxK: dead latents learn to explain what the others leave.

    .. math:: \ell + \tfrac{w}{2}\|e - \hat e\|^2, \qquad e = x - zD - b

    where :math:`\hat e` decodes each signal's ``num_aux`` largest positive latents among the dead
    ones, and e has no gradient. Without dead latents the second term has no gradient. While no more
    than A = ``num_aux`` latents are dead they are decoded by one product, else signal by signal; of
    many runs at once both are done.

    Args:
      loss: of the codes themselves. **Static**.
      num_aux: latents for the residual; the authors take M/2. **Static**.
      weight: w. **Static**.

    Returns:
      A loss; give ``fit`` a ``Recipe(dead_after=...)``. The encoder must give its latents.

    **Cost**: with its gradient 6AM operations per signal more than the loss; A(M + B) more per step
    while no more than A latents are dead, which ``fit`` does not charge.

    References:
      Gao et al., 2024, Appendix A.2.
    """
    _checks.function("losses.aux_k", "loss", loss)
    _checks.count("losses.aux_k", "num_aux", num_aux)
    weight = _checks.static("losses.aux_k", "weight", weight)
    _checks.nonnegative("losses.aux_k", weight=weight)
    return Bound(_aux_k, loss, num_aux, weight)


def _aux_k(loss: Loss, num_aux: int, weight: float, codes: Array, batch: Batch) -> Array:
    if batch.dead is None:
        raise ValueError(
            "losses.aux_k: it is not known which latents are dead; give fit a Recipe "
            "with dead_after, the steps without activity after which a latent is dead."
        )
    if batch.aux is None or batch.aux.latents is None:
        raise ValueError(
            "losses.aux_k: the encoder gives no latents besides its codes; one such as linear, "
            "top_k, batch_top_k, jump_relu or gated is expected."
        )
    residual = jax.lax.stop_gradient(_residual("aux_k", codes, batch))
    latents = jnp.where(as_row(batch.dead, batch.aux.latents), batch.aux.latents, 0)
    num_aux = min(num_aux, latents.shape[-1])
    few, many = (functools.partial(decode, num_aux) for decode in (_of_few_dead, _of_many_dead))
    arguments = batch.dead, latents, _dictionary("aux_k", batch)
    if _checks.concrete(batch.dead):  # as where a step is counted
        decoded = (few if np.sum(batch.dead) <= num_aux else many)(*arguments)
    else:
        decoded = jax.lax.cond(jnp.sum(batch.dead) <= num_aux, few, many, *arguments)
    return loss(codes, batch) + weight * 0.5 * _mean_square(residual - decoded)


def _of_few_dead(num_aux: int, dead: Array, latents: Array, dictionary: Array) -> Array:
    """Decode all dead latents, which are few enough: one product, many times faster than rows."""
    _, places = jax.lax.top_k(dead.astype(latents.dtype), num_aux)
    return dictionaries.reconstruct(jax.nn.relu(latents[..., places]), dictionary[places])


def _of_many_dead(num_aux: int, dead: Array, latents: Array, dictionary: Array) -> Array:
    """Decode the largest of each signal's dead latents."""
    _, places = jax.lax.top_k(jax.lax.stop_gradient(latents), num_aux)
    values = jax.nn.relu(jnp.take_along_axis(latents, places, axis=-1))
    return combine_rows(values, places, dictionary)


def matryoshka(
    sizes: tuple[int, ...],
    loss: Loss = squared_error,
    *,
    detached: bool = False,
    by_frequency: bool = False,
) -> Loss:
    r"""Build the mean of a loss over prefixes of the latents, so that the first learn the most.

    .. math:: \frac1P \sum_p \ell\big(z_{1..m_p}, D_{1..m_p}\big)

    Any encoder becomes a Matryoshka one by this loss.

    Args:
      sizes: m, increasing; the last is N. **Static**.
      loss: of each prefix, such as :func:`lasso`. **Static**.
      detached: whether a latent and its atom learn from the first prefix that has it alone: of each
        prefix the new latents learn what those before leave of the signals, which are constants
        there, and ``loss`` (a penalty too) is of the new ones. **Static**.
      by_frequency: whether the latents that have lately been active most often come first, whatever
        their place; pass ``frequency_decay`` to the ``Recipe``. **Static**.

    Returns:
      A loss that costs ``loss`` on every prefix; detached, on the new latents of each, and what
      these decode once more. Where an encoder gives K codes of each signal, every prefix decodes K.

    Raises:
      TypeError, ValueError: sizes that are not an increasing tuple of integers, or do not end at N.
      ValueError: ``by_frequency`` without a frequency.

    References:
      Bussmann, Nabeshima, Karvonen, Nanda, 2025, "Learning Multi-Level Features with Matryoshka
      Sparse Autoencoders"; both options are those of the best entries of SynthSAEBench, arXiv
      2602.14687.
    """
    _checks.function("losses.matryoshka", "loss", loss)
    _checks.flag("losses.matryoshka", "detached", detached)
    _checks.flag("losses.matryoshka", "by_frequency", by_frequency)
    if not isinstance(sizes, tuple):
        raise TypeError(
            f"losses.matryoshka: sizes are {sizes!r}; a tuple such as (4, 8, 16) is expected."
        )
    for size in sizes:
        _checks.count("losses.matryoshka", "a size", size)
    if not sizes or list(sizes) != sorted(set(sizes)):
        raise ValueError(
            f"losses.matryoshka: sizes are {sizes}; increasing numbers of latents are expected."
        )
    return Bound(_matryoshka, sizes, loss, detached, by_frequency)


def _matryoshka(
    sizes: tuple[int, ...],
    loss: Loss,
    detached: bool,
    by_frequency: bool,
    codes: Array,
    batch: Batch,
) -> Array:
    if sizes[-1] != codes.shape[-1]:
        raise ValueError(
            f"losses.matryoshka: the last of sizes {sizes} is not the number of latents, "
            f"{codes.shape[-1]}; all latents are expected to be in the last prefix."
        )
    if by_frequency:
        if batch.frequency is None:
            raise ValueError(
                "losses.matryoshka: it is not known how often latents are active; pass "
                "frequency_decay to the Recipe, such as .99."
            )
        codes, batch = _in_order(jnp.argsort(-batch.frequency), codes, batch)
    values, done = [], 0
    for size in sizes:
        own, part = codes[..., done:size], _part(batch, done, size)
        values.append(loss(own, part))
        if detached:
            fixed_codes, fixed = jax.lax.stop_gradient((own, part._replace(bias=None)))
            batch = batch._replace(signals=_residual("matryoshka", fixed_codes, fixed))
            done = size
    return jnp.mean(jnp.stack(values))


def _in_order(order: Array, codes: Array, batch: Batch) -> tuple[Array, Batch]:
    """Renumber the latents: first comes ``order[0]``."""

    def renumbered(array: Array | None) -> Array | None:
        # Whole rows of the transpose are moved: many times faster than single numbers.
        return None if array is None else array.T[order].T

    every = _checks.concrete(batch.dead) and batch.dead is not None and bool(np.all(batch.dead))
    dead = batch.dead if every else renumbered(batch.dead)  # what is known stays known
    aux = batch.aux
    if aux is not None:
        active = aux.active
        if active is not None:
            active = SparseCodes(active.values, jnp.argsort(order)[active.indices], len(order))
        aux = _map_aux(renumbered, aux, active)
    return codes.T[order].T, batch._replace(
        dictionary=_dictionary("matryoshka", batch)[order],
        true_codes=renumbered(batch.true_codes), aux=aux, dead=dead,
        frequency=renumbered(batch.frequency),
    )  # fmt: skip


def _map_aux(by_latent: Callable, aux: Aux, active: SparseCodes | None) -> Aux:
    """Return what an encoder gives with another one in the place of each array (..., N)."""
    fields = (aux.latents, aux.gates, aux.gate_latents)
    latents, gates, gate_latents = map(by_latent, fields)
    return Aux(latents, active, gates, gate_latents)


def paper(codes: Array, batch: Batch) -> Array:
    """Return the paper's loss: mean squared error + penalty * mean ``|code|``."""
    error = jnp.mean(jnp.square(_residual("paper", codes, batch)))
    return error + batch.penalty * jnp.mean(jnp.abs(codes))


def cosine(codes: Array, batch: Batch) -> Array:
    """Return minus the cosine similarity of each latent with its true latent, averaged.

    The cosine is taken over the batch, latent by latent; the paper's loss for known codes.
    """
    if batch.true_codes is None:
        raise ValueError(
            "losses.cosine: there are no true codes; give fit (signals, true_codes), or another "
            "loss."
        )
    products = jnp.sum(codes * batch.true_codes, axis=0)
    squares = jnp.sum(codes**2, axis=0) * jnp.sum(batch.true_codes**2, axis=0)
    return -jnp.mean(products / jnp.sqrt(jnp.maximum(squares, 1e-16)))


def _residual(name: str, codes: Array, batch: Batch) -> Array:
    """Return x - zD - b, decoding only the active codes where the encoder says which they are."""
    dictionary = _dictionary(name, batch)
    if batch.aux is not None and batch.aux.active is not None:
        active = batch.aux.active
        decoded = combine_rows(active.values, active.indices, dictionary)
    else:
        decoded = codes @ dictionary
    residual = batch.signals - decoded
    return residual if batch.bias is None else residual - as_row(batch.bias, residual)


def _part(batch: Batch, begin: int, end: int) -> Batch:
    """Cut a batch to some of its latents."""

    def cut(array: Array | None) -> Array | None:
        return None if array is None else array[..., begin:end]

    aux = batch.aux
    if aux is not None:
        active = aux.active
        if active is not None:
            inside = (begin <= active.indices) & (active.indices < end)
            places = jnp.clip(active.indices - begin, 0, end - begin - 1)
            active = SparseCodes(jnp.where(inside, active.values, 0), places, end - begin)
        aux = _map_aux(cut, aux, active)
    return batch._replace(
        dictionary=_dictionary("matryoshka", batch)[begin:end],
        true_codes=cut(batch.true_codes),
        aux=aux,
        dead=cut(batch.dead),
        frequency=cut(batch.frequency),
    )


def _mean_square(rows: Array) -> Array:
    return jnp.mean(jnp.sum(rows * rows, axis=-1))


def _mean_l1(codes: Array) -> Array:
    return jnp.mean(jnp.sum(jnp.abs(codes), axis=-1))


def _gates(name: str, batch: Batch, field: str, expected: str) -> Array:
    found = getattr(batch.aux, field, None)
    if found is None:
        raise ValueError(
            f"losses.{name}: the encoder has no {field.replace('_', ' ')}; one such as {expected} "
            "is expected."
        )
    return found


def _dictionary(name: str, batch: Batch) -> Array:
    if batch.dictionary is None:
        raise ValueError(
            f"losses.{name}: there is no dictionary; pass dictionary= (fixed) or num_atoms= "
            "(learned) to fit, or a loss that needs none."
        )
    return batch.dictionary
