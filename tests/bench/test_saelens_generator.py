"""SAELens's own generator as oracle of feature models, where it is installed (``bench`` extra).

It draws every feature of every sample, then silences children level by level; the same tensors are
loaded into both, and what both draw is compared moment by moment.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsecode_jax import dictionaries, synthetic

torch = pytest.importorskip("torch", reason="PyTorch is in the bench extra: make bench installs it")
theirs = pytest.importorskip("sae_lens.synthetic", reason="SAELens is in the bench extra")

N, M, PAIRS = 1000, 16, 60  # PAIRS: of how many features the co-firing is compared
BATCH, ROUNDS = 10_000, 10


@functools.cache
def feature_model(case):
    version = 1 if case == "version 1" else 2
    model = synthetic.synth_sae_bench(
        jax.random.key(3), version=version, num_features=N, num_roots=10, num_measurements=M,
        num_orthogonalizing_steps=0,
    )  # fmt: skip
    if case != "mixed":
        return model
    # Some parents exclude and others do not, more is shared, and more is cut off at 0.
    rng = np.random.default_rng(0)
    tree = synthetic.tree(model.tree.parents(), exclusive=rng.random(N) < 0.5, scaled=True)
    return replace(model, tree=tree, factors=1.3 * model.factors, deviations=6 * model.deviations)


def tensor(x):
    return torch.tensor(np.array(x))


def roots_of(tree):
    """Build SAELens's nodes, children before their parents."""
    parents, exclusive = np.asarray(tree.parents()), np.asarray(tree.exclusive)
    children = [[] for _ in parents]
    for unit in reversed(range(len(parents))):
        node = theirs.HierarchyNode(
            unit, children=children[unit][::-1],
            mutually_exclusive_children=bool(exclusive[unit]) and len(children[unit]) > 1,
            scale_children_by_parent=tree.scaled and len(children[unit]) > 0,
        )  # fmt: skip
        if parents[unit] < 0:
            children[unit] = node
        else:
            children[parents[unit]].append(node)
    return [children[unit] for unit in np.flatnonzero(parents < 0)]


def our_draws(model, rounds, max_active):
    for seed in range(rounds):
        batch = synthetic.sample_features(
            jax.random.key(seed), model, num_samples=BATCH, max_active=max_active
        )
        assert int(batch.num_dropped) == 0
        yield np.asarray(batch.codes.dense()), np.asarray(batch.signals)


@torch.no_grad()
def their_draws(model):
    torch.manual_seed(0)
    features = theirs.FeatureDictionary(N, M, bias=True, initializer=None)
    features.feature_vectors.data, features.bias.data = tensor(model.dictionary), tensor(model.bias)
    factors = tensor(model.factors)
    generator = theirs.ActivationGenerator(
        N, tensor(model.probabilities), tensor(model.deviations), tensor(model.means),
        modify_activations=theirs.hierarchy_modifier(roots_of(model.tree)),
        correlation_matrix=theirs.LowRankCorrelationMatrix(
            factors, 1 - (factors**2).sum(dim=1)
        ),
    )  # fmt: skip
    for _ in range(ROUNDS):
        codes = generator.sample(BATCH)
        yield codes.numpy(), features(codes).numpy()


def sums_of(codes, signals, means):
    """Return sums over samples, and of squares, by name."""
    samples, units = np.nonzero(codes)
    values = codes[samples, units].astype(np.float64)
    signals = signals.astype(np.float64)
    rows, columns = np.triu_indices(M)
    counts = np.bincount(samples, minlength=len(codes)).astype(np.float64)
    kinds = {
        "l0": np.stack([counts, counts**2], axis=1),
        "signals": signals,
        "products of signals": signals[:, rows] * signals[:, columns],
    }
    sums = {kind: (x.sum(axis=0), (x**2).sum(axis=0)) for kind, x in kinds.items()}
    powers = [np.bincount(units, values**power, minlength=N) for power in (0, 1, 2, 4)]
    apart = [np.bincount(units, (values - means[units]) ** power, minlength=N) for power in (2, 4)]
    first = (codes[:, :PAIRS] > 0).astype(np.float32)
    both = (first.T @ first).ravel()
    return sums | {
        "rates": (powers[0], powers[0]),  # of events, which are their own squares
        "pairs": (both, both),
        "magnitudes": (powers[1], powers[2]),
        "squared magnitudes": (powers[2], powers[3]),
        "squares about the mean": tuple(apart),
    }


def moments(draws, means):
    """Return means over samples, and the variances of these means, by name."""
    parts = [sums_of(*draw, np.asarray(means, float)) for draw in draws]
    found, total = {}, BATCH * len(parts)
    for kind in parts[0]:
        mean, square = np.sum([part[kind] for part in parts], axis=0) / total
        found[kind] = mean, (square - mean**2) / total
    return found


@functools.cache
def their_moments(case):
    model = feature_model(case)
    return moments(their_draws(model), model.means)


def deviations_apart(model, case, rounds=ROUNDS, max_active=120):
    """Return how many standard deviations ours and theirs are apart, by name."""
    ours, other = moments(our_draws(model, rounds, max_active), model.means), their_moments(case)
    apart = {}
    for kind, (mean, variance) in ours.items():
        their_mean, their_variance = other[kind]
        spread = np.sqrt(np.maximum(variance + their_variance, 1e-20))
        apart[kind] = np.abs(mean - their_mean) / spread
    return apart


CASES = ["version 1", "version 2", "mixed"]


@pytest.mark.parametrize("case", CASES)
def test_what_is_drawn_has_the_moments_of_saelens(case):
    for kind, apart in deviations_apart(feature_model(case), case, max_active=250).items():
        assert apart.max() < 5, kind
        if kind not in ("l0", "signals"):  # few numbers, or a few directions for all of them
            assert np.sqrt(np.mean(apart**2)) < 1.2, kind
    rates = their_moments(case)["rates"][0]
    assert (rates[:10] > 0.01).all() and (rates > 0).mean() > 0.9


def uncompensated(model):
    wanted = synthetic.zipf(N)
    parents = np.asarray(model.tree.parents())
    ratio = wanted / wanted[np.maximum(parents, 0)]
    return replace(model, probabilities=jnp.where(parents >= 0, ratio, wanted))


def every_child(tree):
    return replace(tree, exclusive=jnp.zeros_like(tree.exclusive))


CHANGES = {
    "magnitudes of children are not scaled": (
        "mixed", lambda model: replace(model, tree=replace(model.tree, scaled=False)), "magnitudes"
    ),
    "children do not exclude one another": (
        "version 2", lambda model: replace(model, tree=every_child(model.tree)), "rates"
    ),
    "exclusion is not compensated": ("version 2", uncompensated, "rates"),
    "features are independent": (
        "version 2", lambda model: replace(model, factors=None), "pairs"
    ),
    "magnitudes spread more": (
        "version 2", lambda model: replace(model, deviations=1.1 * model.deviations),
        "squares about the mean",
    ),
    "no bias": ("version 2", lambda model: replace(model, bias=None), "signals"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_another_law_has_other_moments(change):
    case, other, kind = change
    apart = deviations_apart(other(feature_model(case)), case, rounds=4, max_active=600)
    assert apart[kind].max() > 7


@pytest.mark.parametrize("shape", [(48, 16), (12, 20)], ids=["more atoms", "fewer atoms"])
@pytest.mark.parametrize(("num_steps", "rate"), [(1, 3e-4), (100, 3e-4), (60, 1e-2)])
def test_atoms_are_pushed_apart_as_saelens_does(shape, num_steps, rate):
    start = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    features = theirs.FeatureDictionary(*shape, initializer=None)
    features.feature_vectors.data = tensor(start)
    theirs.orthogonal_initializer(num_steps=num_steps, lr=rate, chunk_size=7)(features)
    found = dictionaries.orthogonalize(start, num_steps=num_steps, learning_rate=rate)
    np.testing.assert_allclose(found, features.feature_vectors.numpy(force=True), atol=2e-6)
    assert np.abs(found - dictionaries.normalize(start)).max() > 0.9 * rate


@pytest.mark.parametrize(
    ("num", "exponent", "largest", "smallest"),
    [(16_384, 0.5, 0.4, 5e-4), (1000, 1.0, 0.3, 0.01), (7, 2.5, 1.0, 1e-6), (1, 0.5, 0.4, 5e-4)],
)
def test_zipf_is_that_of_saelens(num, exponent, largest, smallest):
    expected = theirs.ZipfianFiringProbabilityConfig(exponent, largest, smallest).generate(num)
    found = synthetic.zipf(num, exponent=exponent, largest=largest, smallest=smallest)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    ("num_roots", "branching", "depth", "num"), [(128, 4, 3, 16_384), (3, 2, 1, 9), (5, 3, 2, 70)]
)
def test_trees_are_numbered_and_compensated_as_in_saelens(num_roots, branching, depth, num, scaled):
    config = theirs.HierarchyConfig(
        total_root_nodes=num_roots, branching_factor=branching, max_depth=depth,
        mutually_exclusive_portion=1.0, scale_children_by_parent=scaled,
    )  # fmt: skip
    other = theirs.generate_hierarchy(num, config)
    parents, flags = np.full(num, -1), np.zeros((num, 2), bool)
    nodes = list(other.roots)
    for node in nodes:  # grows as it goes
        flags[node.feature_index] = (
            node.mutually_exclusive_children, node.scale_children_by_parent
        )  # fmt: skip
        for child in node.children:
            parents[child.feature_index] = node.feature_index
            nodes.append(child)
    found = synthetic.balanced_trees(num_roots, branching=branching, depth=depth, num_units=num)
    np.testing.assert_array_equal(found, parents)
    tree = synthetic.tree(found, scaled=scaled)
    family = np.asarray(tree.num_children) > 0
    np.testing.assert_array_equal(flags, np.stack([family, family & scaled], axis=1))
    wanted = synthetic.zipf(num)
    expected = wanted * other.compute_probability_correction_factors(tensor(wanted)).numpy()
    assert float(expected.max()) < 1  # above it they cut, and we refuse
    np.testing.assert_allclose(synthetic.compensate(wanted, tree), expected, rtol=2e-6)


def test_compensation_is_that_of_saelens_where_some_parents_exclude():
    tree = feature_model("mixed").tree
    wanted = synthetic.zipf(N)
    other = theirs.Hierarchy(roots_of(tree), None)
    expected = wanted * other.compute_probability_correction_factors(tensor(wanted)).numpy()
    np.testing.assert_allclose(synthetic.compensate(wanted, tree), expected, rtol=2e-6)
