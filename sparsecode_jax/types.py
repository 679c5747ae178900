"""Shared types: a problem is data, a solver and an encoder are programs."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.typing import ArrayLike

__all__ = ["Array", "ArrayLike", "Aux", "Encoder", "Key", "Lasso", "PyTree", "Role", "Solver"]

Array = jax.Array
Key = jax.Array
PyTree = Any


class Lasso(NamedTuple):
    r"""One sparse coding problem; every field is traced and can be vmapped.

    .. math:: \min_z \tfrac12 \|x - z D\|^2 + \sum_j \lambda_j |z_j|

    Attributes:
      signals: the measurements x, (..., M).
      dictionary: one atom per row, (N, M).
      penalty: the l1 weight, () or (N,).
      step_size: the solver's step, (); for proximal gradient at most 1/L, where L is the squared
        spectral norm of the dictionary (see :func:`sparsecode_jax.dictionaries.step_size`).
      gram: inner products of the atoms, (N, N), where they are known already, as of a
        :class:`sparsecode_jax.dictionaries.Prepared`: pursuits and working sets take them in the
        place of their own.
    """

    signals: Array
    dictionary: Array
    penalty: Array
    step_size: Array
    gram: Array | None = None


class Solver(NamedTuple):
    """An iterative algorithm as three pure functions; hashable, and without numbers to sweep.

    Attributes:
      init: ``(problem, codes0=None) -> state``.
      step: ``(state, problem) -> state``, one iteration.
      codes: ``(state) -> codes`` of shape (..., N).
      step_size: ``(dictionary) -> ()``, the step size :func:`~sparsecode_jax.sparse_encode` takes
        when it is given none; None means ``dictionaries.step_size``.
      gap: ``(state, problem) -> (...,)``, how far each signal is from done, for
        :func:`~sparsecode_jax.solvers.solve_to_tolerance`, such as a pursuit's relative squared
        error; None means the relative duality gap of the codes, if there is a ``prox``.
      prox: the proximal operator of the penalty whose sum with the squared error the solver
        minimizes; None if it minimizes no such sum.
      splits_atoms: whether it uses the dictionary only in correlations and reconstructions, and
        else treats atoms one by one, so that the dictionary may be split over devices by its atoms.
      takes_codes0: whether it can begin at given codes; orthogonal pursuits cannot.
      sparse_codes: ``(state) -> SparseCodes``, the same codes by value and place, of solvers that
        hold them so; None of others.

    A state is a pytree. Each of its arrays either leads with the signals' leading axes or is shared
    by all signals; how a shared array changes from step to step does not depend on the signals.
    """

    init: Callable[..., PyTree]
    step: Callable[[PyTree, Lasso], PyTree]
    codes: Callable[[PyTree], Array]
    step_size: Callable[[Array], Array] | None = None
    gap: Callable[[PyTree, Lasso], Array] | None = None
    prox: Callable[[Array, Array], Array] | None = None
    splits_atoms: bool = False
    takes_codes0: bool = True
    sparse_codes: Callable[[PyTree], Any] | None = None


class Aux(NamedTuple):
    """What a training loss may need besides the codes; None where an encoder has no such thing.

    Attributes:
      latents: before the non-linearity, (..., N).
      active: the codes as :class:`~sparsecode_jax.SparseCodes`, so that a loss can decode K atoms
        per signal and not all N.
      gates: whether each latent is active, (..., N): 0 or 1 with a straight-through gradient.
      gate_latents: the rectified latents of gates, (..., N).
    """

    latents: Array | None = None
    active: Any = None
    gates: Array | None = None
    gate_latents: Array | None = None


class Role(enum.Enum):
    """What an array of an encoder's parameters is to training.

    Attributes:
      SHARED: trained; of all latents together.
      WEIGHT: trained; (N, M), the direction of each latent. A new start is a direction of signals.
      BIAS: trained; (N,), added to each latent. A new start is 0.
      SCALE: trained; (N,), any other number of each latent. A new start is the mean of the others.
      TIED: not trained; the decoder's, or made of what is, which ``tie`` puts in.
      NUM_ACTIVE: not trained; a number of active codes, which a schedule of training may scale.
      FROZEN: not trained.
    """

    SHARED = "shared"
    WEIGHT = "weight"
    BIAS = "bias"
    SCALE = "scale"
    TIED = "tied"
    NUM_ACTIVE = "num_active"
    FROZEN = "frozen"


class Encoder(NamedTuple):
    """A one-pass map from signals to codes as pure functions; hashable.

    Attributes:
      init: ``(key) -> params``, a pytree of named arrays.
      apply: ``(params, signals) -> codes``, (..., M) to (..., N).
      aux: ``(params, signals) -> (codes, Aux)``, the same codes and what losses may need besides;
        None if there is nothing.
      tie: ``(params, dictionary, bias) -> params``: the params with the decoder's dictionary (N, M)
        and bias (M,) or None in the places that the encoder shares with the decoder; None if it
        shares nothing.
      roles: the params with a :class:`Role` in the place of each array, so that it is known which
        are trained and which have a row per latent; None if all are trained, and dead latents
        cannot be given a new start.
      activation: ``(params, latents) -> (codes, Aux)``: what the encoder makes of latents (..., N)
        that were found in another way than by its own linear map; None if it is no such map
        followed by an activation.
      num_signals: how many signals it encodes, no more and no fewer, where its parameters are of
        these signals alone; None if it takes any number.
    """

    init: Callable[[Key], PyTree]
    apply: Callable[[PyTree, Array], Array]
    aux: Callable[[PyTree, Array], tuple[Array, Aux]] | None = None
    tie: Callable[[PyTree, Array, Array | None], PyTree] | None = None
    roles: PyTree = None
    activation: Callable[[PyTree, Array], tuple[Array, Aux]] | None = None
    num_signals: int | None = None
