"""Features as data, and signals drawn from them without an array of samples by features.

Given the common factors of a sample, all its features fire independently, so a child of a parent
that is silent is never drawn: a sample costs its roots and free features, and beyond them only what
is active. Units without a parent are drawn in blocks, whose flags are packed into words of 32 bits;
the first set bits of a row of words are found by counting. Children are drawn for active parents
alone, one slot of all samples after another, level by level.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsecode_jax import _checks
from sparsecode_jax._sharding import to_host
from sparsecode_jax._sparse import SparseCodes, combine_rows
from sparsecode_jax.synthetic.magnitudes import gaussian
from sparsecode_jax.synthetic.trees import Tree
from sparsecode_jax.types import Array, ArrayLike, Key

__all__ = ["FeatureModel", "FeatureSamples", "sample_features"]

_BLOCK = 512  # units that are drawn at once, for all samples
MOST_SHARED = 0.99  # of a unit's variance; what is left has to be divided by


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FeatureModel:
    r"""What signals are made of: which features fire, how strongly, and along which atoms.

    A *unit* is what fires: one feature, or a group of them. Unit u fires where

    .. math:: F_u e + \sqrt{1 - \|F_u\|^2}\, h_u > \Phi^{-1}(1 - p_u), \qquad e, h \sim N(0, I),

    which it does with probability :math:`p_u`, correlated with others through the factors that they
    share, and if its parent in the tree is active. It then has the magnitude
    :math:`\max(0, \mu_u + \sigma_u X)`. A signal is the bias, plus atoms times magnitudes, plus
    noise.

    Attributes:
      dictionary: (N, M), an atom per feature. **Traced**.
      probabilities: of firing, given that the parent is active, (U,); U = N without groups.
        **Traced**.
      bias: (M,), or None for none. **Traced**.
      means: of magnitudes, () or (U,). **Traced**.
      deviations: what multiplies X, () or (U,). **Traced**.
      factors: F, (U, R), with squares that sum up to at most .99 per unit; None where units are
        independent. **Traced**.
      tree: which unit needs which other one, or None. **Traced**.
      groups: the number of features of each unit, which follow one another, (U,) of integers that
        sum up to N. Those of one unit have a common direction, uniform on the sphere, times its
        magnitude: two make a circle. None for one each, whose code is the magnitude. **Traced**.
      noise: standard deviation of Gaussian noise on each measurement, or None. **Traced**.
      magnitudes: ``(key, shape) -> X``, such as ``half_normal``; None for a standard normal.
        **Static**.

    Example:
      >>> import jax, sparsecode_jax as sc
      >>> keys = jax.random.split(jax.random.key(0))
      >>> model = sc.synthetic.FeatureModel(
      ...     sc.dictionaries.random(keys[0], num_atoms=300, num_measurements=64),
      ...     sc.synthetic.zipf(300, largest=0.3, smallest=0.01), means=1.0, deviations=0.2)
      >>> batch = sc.synthetic.sample_features(keys[1], model, num_samples=8, max_active=60)
      >>> batch.signals.shape, batch.codes.shape, int(batch.num_dropped)
      ((8, 64), (8, 300), 0)
    """

    dictionary: Array
    probabilities: Array
    bias: Array | None = None
    means: ArrayLike = 0.0
    deviations: ArrayLike = 1.0
    factors: Array | None = None
    tree: Tree | None = None
    groups: Array | None = None
    noise: ArrayLike | None = None
    magnitudes: Callable[[Key, tuple[int, ...]], Array] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )


class FeatureSamples(NamedTuple):
    """Signals of a feature model and the codes that made them.

    Attributes:
      signals: (S, M).
      codes: :class:`~sparsecode_jax.SparseCodes` (S, N) of ``max_active`` slots.
      num_dropped: how many active features found no slot, in all samples together: an integer.
    """

    signals: Array
    codes: SparseCodes
    num_dropped: Array


def sample_features(
    key: Key, model: FeatureModel, *, num_samples: int, max_active: int
) -> FeatureSamples:
    """Draw signals of a feature model.

    A feature without a free slot is left out of the codes and of the signal, and counted (not so
    its descendants, which are not drawn): choose ``max_active`` so that the count stays 0, and look
    at it.

    Args:
      key: PRNG key. **Traced**.
      model: **Traced**.
      num_samples: S. **Static**.
      max_active: K, the slots for active features of a sample, from 1 to N. **Static**.

    Returns:
      :class:`FeatureSamples`, in the order of units that have no parent, then of their children,
      level by level.

    Raises:
      ValueError: shapes that disagree, probabilities outside of [0, 1], more common variance than
        .99, a negative deviation or noise, fewer slots than features fire on average.

    **Cost**: random numbers for the units without a parent and for the children of those that are
    active, and 2KM operations per signal. Nothing of size (S, N) is made.
    """
    name = "sample_features"
    _checks.key(name, key)
    _checks.count(name, "num_samples", num_samples)
    model = _checked(name, model)
    num_features = model.dictionary.shape[0]
    _checks.count(name, "max_active", max_active)
    if max_active > num_features:
        raise ValueError(
            f"{name}: max_active is {max_active} of {num_features} features; from 1 to "
            f"{num_features} is expected."
        )
    expected = _mean_firing(model)
    if expected is not None and expected > max_active + 0.01:
        raise ValueError(
            f"{name}: max_active is {max_active}, but {expected:.1f} units without a parent fire "
            "in a sample on average; room for all that are active in any sample is expected. Pass, "
            f"say, max_active={min(num_features, int(3 * expected) + 16)}, and look at "
            "num_dropped."
        )
    return _sample(key, model, num_samples=num_samples, max_active=max_active)


@functools.partial(jax.jit, static_argnames=("num_samples", "max_active"))
def _sample(key: Key, model: FeatureModel, *, num_samples: int, max_active: int) -> FeatureSamples:
    draw_key, direction_key, noise_key = jax.random.split(key, 3)
    codes, num_dropped = _codes(draw_key, direction_key, model, num_samples, max_active)
    # What is no number does not fire, and signals would not show it.
    values = jnp.where(_is_lost(model), jnp.nan, codes.values)
    codes = SparseCodes(values, codes.indices, codes.num_atoms)
    signals = combine_rows(codes.values, codes.indices, model.dictionary)
    if model.bias is not None:
        signals = signals + model.bias[None]
    if model.noise is not None:
        noise = jax.random.normal(noise_key, signals.shape, signals.dtype)
        signals = signals + model.noise * noise
    return FeatureSamples(signals, codes, num_dropped)


def _checked(name: str, model: FeatureModel) -> FeatureModel:
    """Return the model with arrays of one floating dtype, or raise if its parts do not agree."""
    if not isinstance(model, FeatureModel):
        raise TypeError(
            f"{name}: the model is a {type(model).__name__}; a FeatureModel is expected."
        )
    if model.magnitudes is not None:
        _checks.function(name, "magnitudes", model.magnitudes)
    for label in ("dictionary", "probabilities", "means", "deviations"):
        if getattr(model, label) is None:
            raise TypeError(f"{name}: the model's {label} are None; numbers are expected.")
    given = {
        label: value
        for label in ("dictionary", "probabilities", "means", "deviations", "bias", "factors",
                      "noise")
        if (value := getattr(model, label)) is not None
    }  # fmt: skip
    arrays: dict[str, Any] = dict(zip(given, _checks.floating(name, *given.values()), strict=True))
    model = dataclasses.replace(model, **arrays)
    if jnp.finfo(model.dictionary.dtype).bits < 32:
        raise TypeError(
            f"{name}: the model's numbers are {model.dictionary.dtype}; float32 or float64 is "
            "expected. Pass the probabilities so: the rest is cast to the most precise of them."
        )
    _checks.matrix(name, "dictionary", model.dictionary)
    num_features, num_measurements = model.dictionary.shape
    probabilities = model.probabilities
    if probabilities.ndim != 1 or not probabilities.size:
        raise ValueError(
            f"{name}: probabilities have shape {probabilities.shape}; one per unit, (U,), is "
            "expected."
        )
    num_units = probabilities.shape[0]
    if model.groups is None:
        if num_units != num_features:
            raise ValueError(
                f"{name}: {num_units} probabilities but {num_features} atoms; one each is "
                "expected. Pass groups= if several atoms make one unit."
            )
    else:
        groups = jnp.asarray(*_checks.real(name, model.groups))
        _check_groups(name, groups, num_units, num_features)
        model = dataclasses.replace(model, groups=groups)
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {
        "bias": ((num_measurements,),),
        "means": ((), (num_units,)),
        "deviations": ((), (num_units,)),
        "noise": ((),),
    }
    for label, allowed in shapes.items():
        if label in arrays and arrays[label].shape not in allowed:
            raise ValueError(
                f"{name}: {label} have shape {arrays[label].shape}; "
                f"{' or '.join(map(str, allowed))} is expected."
            )
    _checks.finite(name, **arrays)
    for label, most in (("probabilities", 1.0), ("deviations", np.inf), ("noise", np.inf)):
        if label in arrays and _checks.concrete(arrays[label]):
            host = np.atleast_1d(to_host(arrays[label]))
            if bad := np.flatnonzero((host < 0) | (host > most)).tolist():
                raise ValueError(
                    f"{name}: {label}[{bad[0]}] is {host[bad[0]]:.6g}; a number from 0 to {most:g} "
                    "is expected."
                )
    factors = model.factors
    if factors is not None:
        if factors.ndim != 2 or factors.shape[0] != num_units:
            raise ValueError(
                f"{name}: factors have shape {factors.shape}; ({num_units}, R) is expected."
            )
        if _checks.concrete(factors):
            shares = np.sum(to_host(factors).astype(np.float64) ** 2, axis=1)
            worst = int(np.argmax(shares))
            if shares[worst] > MOST_SHARED + 1e-5:  # but for the rounding of float32
                raise ValueError(
                    f"{name}: the squared factors of unit {worst} sum up to {shares[worst]:.4g}; "
                    f"at most {MOST_SHARED}, of the variance of 1 that they are a part of, is "
                    "expected. Scale the factors down."
                )
    if model.tree is not None:
        _check_tree(name, model.tree, num_units, model.means)
    return model


def _check_groups(name: str, groups: Any, num_units: int, num_features: int) -> None:
    if not jnp.issubdtype(jnp.result_type(groups), jnp.integer):
        raise TypeError(f"{name}: groups are {jnp.result_type(groups)}; integers are expected.")
    if np.shape(groups) != (num_units,):
        raise ValueError(
            f"{name}: groups have shape {np.shape(groups)}; a size for each of the {num_units} "
            "units is expected."
        )
    if _checks.concrete(groups):
        sizes = to_host(groups)
        if sizes.min() < 1 or sizes.sum() != num_features:
            raise ValueError(
                f"{name}: groups are of {sizes.min()} to {sizes.max()} features, {sizes.sum()} "
                f"together; sizes of at least 1 that sum up to the {num_features} atoms are "
                "expected."
            )


def _check_tree(name: str, tree: Any, num_units: int, means: Any) -> None:
    if not isinstance(tree, Tree):
        raise TypeError(
            f"{name}: the tree is a {type(tree).__name__}; a Tree, as synthetic.tree(parents) "
            "makes it, is expected."
        )
    if tree.first_child.shape != (num_units,):
        raise ValueError(
            f"{name}: the tree has {tree.first_child.shape[0]} units and the model {num_units}; as "
            "many are expected."
        )
    if tree.scaled and _checks.concrete(means) and _checks.concrete(tree.num_children):
        family = to_host(tree.num_children) > 0
        least = np.min(np.broadcast_to(to_host(means), family.shape)[family], initial=np.inf)
        if least <= 0:
            raise ValueError(
                f"{name}: children are scaled by their parent over its mean, and the least mean of "
                f"a parent is {least:.4g}; a positive one is expected. Raise means, or build the "
                "tree with scaled=False."
            )


def _mean_firing(model: FeatureModel) -> float | None:
    """Return how many units without a parent fire in a sample on average, if it is known."""
    needed = [model.probabilities] + ([] if model.tree is None else [model.tree.tops])
    if not all(map(_checks.concrete, needed)):
        return None
    rates = to_host(model.probabilities)
    return float(np.sum(rates if model.tree is None else rates[to_host(model.tree.tops)]))


class _Table(NamedTuple):
    """What a draw looks up, (U,) or (U, R): given e, z_u = loads_u e + own noise > levels_u."""

    loads: Array | None
    levels: Array
    means: Array
    deviations: Array


class _Slots(NamedTuple):
    """Active units of each sample, (S, A): magnitude 0 where a slot is free."""

    units: Array
    values: Array


def _codes(
    key: Key, direction_key: Key, model: FeatureModel, num_samples: int, max_active: int
) -> tuple[SparseCodes, Array]:
    num_units = model.probabilities.shape[0]
    num_features = model.dictionary.shape[0]
    table = _table(model)
    factor_key, *keys = jax.random.split(key, 4)
    dtype = model.probabilities.dtype
    common = None
    if model.factors is not None:
        common = jax.random.normal(factor_key, (num_samples, model.factors.shape[1]), dtype)
    tops = jnp.arange(num_units, dtype=jnp.int32) if model.tree is None else model.tree.tops
    fired, num_fired = _fire(keys[0], table, tops, common, num_samples, max_active)
    units = tops[jnp.minimum(fired, tops.shape[0] - 1)]
    values = _magnitudes(keys[1], model, table, units)
    slots = jnp.arange(fired.shape[1], dtype=jnp.int32)
    values = jnp.where(slots[None] < num_fired[:, None], values, 0)
    level = _Slots(units, values)
    dropped = jnp.maximum(num_fired - max_active, 0)
    if model.tree is not None and model.tree.depth:
        missing = max_active - level.units.shape[1]  # where there are fewer units without a parent
        level = _Slots(*(jnp.pad(x, ((0, 0), (0, missing))) for x in level))

        def below(above: _Slots, key: Key) -> tuple[_Slots, tuple[_Slots, Array]]:
            found, over = _children(key, model, table, common, above)
            return found, (found, over)

        _, (levels, over) = jax.lax.scan(below, level, jax.random.split(keys[2], model.tree.depth))
        dropped = dropped + jnp.sum(over, axis=0, dtype=jnp.int32)
        units, values = (
            jnp.concatenate([x, *below], axis=1) for x, below in zip(level, levels, strict=True)
        )
        level, over = _packed(_Slots(units, values), max_active)
        dropped = dropped + over
    if model.groups is None:
        used = level.values != 0
        indices = jnp.where(used, level.units, 0)
        codes = SparseCodes(level.values, indices, num_features)
    else:
        codes, over = _features(direction_key, model.groups, level, num_features, max_active)
        dropped = dropped + over
    return codes, jnp.sum(dropped)


def _table(model: FeatureModel) -> _Table:
    shape, dtype = model.probabilities.shape, model.probabilities.dtype
    levels = jax.scipy.special.ndtri(1 - model.probabilities)
    # As near to 1 as p allows: 1 - p would round small probabilities away.
    levels = jnp.where(
        model.probabilities < 0.5, -jax.scipy.special.ndtri(model.probabilities), levels
    )
    loads = None
    if model.factors is not None:
        own = 1 - jnp.sum(model.factors**2, axis=1)
        loads, levels = model.factors / jnp.sqrt(own)[:, None], levels / jnp.sqrt(own)
    means, deviations = (
        jnp.broadcast_to(jnp.asarray(x, dtype), shape) for x in (model.means, model.deviations)
    )
    return _Table(loads, levels, means, deviations)


def _is_lost(model: FeatureModel) -> Array:
    """Say whether a traced model has numbers that it cannot have: nothing is drawn by them."""
    chances = model.probabilities
    wrong = [~((chances >= 0) & (chances <= 1)), ~jnp.isfinite(jnp.asarray(model.means))]
    wrong.append(~(jnp.isfinite(model.deviations) & (jnp.asarray(model.deviations) >= 0)))
    if model.factors is not None:
        wrong.append(~(jnp.sum(model.factors**2, axis=1) < 1))
    return jnp.any(jnp.stack([jnp.any(x) for x in wrong]))


def _probability(loads: Array | None, levels: Array, common: Array | None) -> Array:
    """Return the chance to fire given the factors: (S, R) and (..., R) to (S, ...)."""
    if loads is None:
        return jax.scipy.special.ndtr(-levels)
    assert common is not None
    shared = jnp.matmul(common, loads.T, precision=jax.lax.Precision.HIGHEST)
    return jax.scipy.special.ndtr(shared - levels)


def _chance(key: Key, probability: Array) -> Array:
    """Return True with a probability, to 2**-32: uniform numbers of float32 have 23 bits."""
    bits = jax.random.bits(key, probability.shape, jnp.uint32)
    limit = jnp.minimum(probability * 2.0**32, 4294967040.0).astype(jnp.uint32)
    return (bits < limit) | (probability >= 1)


def _fire(
    key: Key, table: _Table, tops: Array, common: Array | None, num_samples: int, room: int
) -> tuple[Array, Array]:
    """Draw which of the units without a parent fire.

    Returns:
      Their places in ``tops``, (S, A), and how many there are, (S,), which may be more.
    """
    num_tops = tops.shape[0]
    width = min(_BLOCK, -(-num_tops // 32) * 32)
    num_blocks = -(-num_tops // width)
    places = jnp.arange(num_blocks * width).reshape(num_blocks, width)

    def block(now: tuple[Key, Array]) -> Array:
        key, places = now
        units = tops[jnp.minimum(places, num_tops - 1)]
        loads = None if table.loads is None else table.loads[units]
        chance = _probability(loads, table.levels[units][None], common)
        chance = jnp.broadcast_to(chance, (num_samples, width))
        return _words(_chance(key, chance) & (places < num_tops)[None])

    words = jax.lax.map(block, (jax.random.split(key, num_blocks), places))
    words = jnp.moveaxis(words, 0, 1).reshape(num_samples, -1)
    return _places(words, min(room, num_tops))


def _children(
    key: Key, model: FeatureModel, table: _Table, common: Array | None, above: _Slots
) -> tuple[_Slots, Array]:
    """Draw the children of active units, one slot after another as long as any sample has one."""
    tree = model.tree
    assert tree is not None
    num_samples, room = above.units.shape
    alive = (above.values > 0) & (tree.num_children[above.units] > 0)
    parents, _ = _packed(_Slots(above.units, jnp.where(alive, above.values, 0)), room)
    longest = jnp.max(jnp.sum(parents.values > 0, axis=1), initial=0)
    offsets = jnp.arange(tree.branching, dtype=jnp.int32)[None]
    num_units = model.probabilities.shape[0]

    def family(slot: Array, found: _Slots) -> _Slots:
        fire_key, magnitude_key, choice_key = jax.random.split(jax.random.fold_in(key, slot), 3)
        parent = jax.lax.dynamic_index_in_dim(parents.units, slot, axis=1, keepdims=False)
        value = jax.lax.dynamic_index_in_dim(parents.values, slot, axis=1, keepdims=False)
        units = jnp.minimum(tree.first_child[parent][:, None] + offsets, num_units - 1)
        chance = -table.levels[units]
        if table.loads is not None and common is not None:
            chance = chance + jnp.sum(table.loads[units] * common[:, None], axis=-1)
        there = (offsets < tree.num_children[parent][:, None]) & (value > 0)[:, None]
        fired = _chance(fire_key, jax.scipy.special.ndtr(chance)) & there
        values = _magnitudes(magnitude_key, model, table, units)
        if tree.scaled:
            values = values * (value / table.means[parent])[:, None]
        values = jnp.where(fired, values, 0)
        active = values > 0
        draws = jnp.where(active, jax.random.uniform(choice_key, active.shape), -1)
        one = offsets == jnp.argmax(draws, axis=1, keepdims=True).astype(jnp.int32)
        values = jnp.where(one | ~tree.exclusive[parent][:, None], values, 0)
        return _Slots(
            *(
                jax.lax.dynamic_update_index_in_dim(all, new, slot, axis=0)
                for all, new in zip(found, (units, values), strict=True)
            )
        )

    shape = (room, num_samples, tree.branching)
    start = _Slots(jnp.zeros(shape, parents.units.dtype), jnp.zeros(shape, parents.values.dtype))
    found = jax.lax.fori_loop(0, longest, family, start)
    units, values = (jnp.moveaxis(x, 0, 1).reshape(num_samples, -1) for x in found)
    return _packed(_Slots(units, values), room)


def _magnitudes(key: Key, model: FeatureModel, table: _Table, units: Array) -> Array:
    drawn = (model.magnitudes or gaussian)(key, units.shape).astype(table.means.dtype)
    return jnp.maximum(table.means[units] + table.deviations[units] * drawn, 0)


def _features(
    key: Key, groups: Array, level: _Slots, num_features: int, room: int
) -> tuple[SparseCodes, Array]:
    """Give each feature of an active group a slot and a part of its magnitude."""
    groups = groups.astype(jnp.int32)
    starts = jnp.cumsum(groups) - groups
    sizes = jnp.where(level.values > 0, groups[level.units], 0)
    ends = jnp.cumsum(sizes, axis=1)
    slots = jnp.arange(room, dtype=jnp.int32)
    # The group that a slot belongs to: how many groups end before it.
    group = jax.vmap(lambda row: jnp.searchsorted(row, slots, side="right"))(ends)
    used = slots[None] < ends[:, -1:]
    group = jnp.minimum(group, level.units.shape[1] - 1)
    unit, value, end, size = (
        jnp.take_along_axis(x, group, axis=1) for x in (level.units, level.values, ends, sizes)
    )
    first = end - size
    drawn = jnp.where(used, jax.random.normal(key, group.shape, level.values.dtype), 0)
    # Those of a group that is cut off at the last slot are normalized over what is left of it.
    squares = jnp.cumsum(jnp.pad(drawn**2, ((0, 0), (1, 0))), axis=1)
    norm = jnp.take_along_axis(squares, jnp.minimum(end, room), axis=1) - jnp.take_along_axis(
        squares, first, axis=1
    )
    direction = jnp.where(size == 1, 1, drawn * jax.lax.rsqrt(jnp.where(norm > 0, norm, 1)))
    values = jnp.where(used, value * direction, 0)
    indices = jnp.where(used, starts[unit] + slots[None] - first, 0)
    return SparseCodes(values, indices, num_features), jnp.maximum(ends[:, -1] - room, 0)


def _packed(slots: _Slots, room: int) -> tuple[_Slots, Array]:
    """Move the slots in use to the front, and count those for which there is no room."""
    room = min(room, slots.values.shape[1])
    places, count = _places(_words(slots.values > 0), room)
    places = jnp.minimum(places, slots.values.shape[1] - 1)
    units, values = (jnp.take_along_axis(x, places, axis=1) for x in slots)
    slots_kept = jnp.arange(room, dtype=jnp.int32)[None]
    values = jnp.where(slots_kept < count[:, None], values, 0)
    return _Slots(units, values), jnp.maximum(count - room, 0)


def _words(flags: Array) -> Array:
    """Pack flags (S, W) into words of 32 bits, (S, W / 32 rounded up)."""
    flags = jnp.pad(flags, ((0, 0), (0, -flags.shape[1] % 32)))
    bits = flags.reshape(flags.shape[0], -1, 32).astype(jnp.uint32)
    return jnp.sum(bits << jnp.arange(32, dtype=jnp.uint32)[None, None], axis=-1, dtype=jnp.uint32)


def _places(words: Array, room: int) -> tuple[Array, Array]:
    """Return where the first flags are set, (S, A), and how many there are, (S,).

    Beyond the last one a place is some number within the flags.
    """
    ones = jax.lax.population_count(words).astype(jnp.int32)
    ends = jnp.cumsum(ones, axis=1)
    slots = jnp.arange(room, dtype=jnp.int32)
    word = jax.vmap(lambda row: jnp.searchsorted(row, slots, side="right"))(ends)
    word = jnp.minimum(word, words.shape[1] - 1)
    before = jnp.take_along_axis(ends - ones, word, axis=1)
    bits, rank, place = jnp.take_along_axis(words, word, axis=1), slots[None] - before, 32 * word
    for width in (16, 8, 4, 2, 1):  # the flag of this rank is in the lower half, or in the upper
        lower = jax.lax.population_count(bits & jnp.uint32(2**width - 1)).astype(jnp.int32)
        upper = rank >= lower
        rank = jnp.where(upper, rank - lower, rank)
        bits = jnp.where(upper, bits >> width, bits)
        place = place + jnp.where(upper, width, 0)
    return jnp.minimum(place, 32 * words.shape[1] - 1), ends[:, -1]
