"""One line per public call: valid arguments, from which the fuzzer makes wrong and unusual ones.

What an argument is (signals, a count, a key, ...) follows from its name by ``KINDS``, or is said in
the line. A new public function needs a line here, or a reason in ``WITHOUT``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsecode_jax as sc
from sparsecode_jax import (
    Lasso,
    activations,
    dictionaries,
    dictionary_learning,
    encoders,
    flops,
    metrics,
    objectives,
    prox,
    solvers,
    statistics,
    synthetic,
    training,
)
from sparsecode_jax._sparse import dense
from sparsecode_jax.dictionary_learning import updates
from sparsecode_jax.training import losses, schedules

KINDS = {
    "array": "signals dictionary codes codes0 true_codes true_dictionary reconstruction residual"
    " correlations x point new_codes values weight penalties dictionary0 first second p_values",
    "number": "penalty penalty0 threshold noise step_size tolerance momentum",
    "static": "ratio level epsilon max_coherence learning_rate forgetting log_codes0 threshold0"
    " bandwidth scale last difference deviation target tilt prior",
    "count": "num_samples num_measurements num_atoms num_steps num_draws num_squarings max_steps"
    " check_every chunk_size record_every num_rounds inner_steps group_size num_layers num_active"
    " num_warmup num_decay num_aux width num_blocks num_restarts num_hops"
    " num_refinement_rounds num_epochs num_rotations batch_size num_seeds num_groups seed",
    "key": "key",
    "function": "prox metric magnitudes record restart statistic",
    "program": "solver encoder update module",
    "flag": "use_bias replacing",
    "bias": "bias",
}
KIND = {name: kind for kind, names in KINDS.items() for name in names.split()}


class Call(NamedTuple):
    """A public call.

    Attributes:
      fn: called with keywords; for a factory, what builds the program and runs it.
      args: valid arguments.
      kinds: of arguments, where their names do not say them.
      rows: arguments whose rows are those of the result, so that a NaN stays in its row.
      via: functions whose messages it hands on.
      smooth: whether a derivative by the arrays is promised.
      traced: whether it works under jit.
      drawn: whether it draws numbers, which in float64 are others.
      unmoved: whether a NaN does not show: it answers by yes and no, or hands back what is given.
      near: how close rows stay to what they are without others and in float64, relatively; what
        is solved to a tolerance stays within it.
    """

    fn: Callable
    args: dict[str, Any]
    kinds: dict[str, str] = {}
    rows: tuple[str, ...] = ()
    via: tuple[str, ...] = ()
    smooth: bool = False
    traced: bool = True
    drawn: bool = False
    unmoved: bool = False
    near: float = 1e-4
    optional: frozenset[str] = frozenset()

    def kind(self, name: str) -> str:
        return self.kinds.get(name) or KIND[name]


def _draw():
    rng = np.random.default_rng(5)
    dictionary = rng.normal(size=(6, 4))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    codes = np.where(rng.random((5, 6)) < 0.4, 0.3 + rng.random((5, 6)), 0)
    codes[:, 1] = 0.3 + rng.random(5)
    near = codes + 0.1 * rng.normal(size=codes.shape)
    return tuple(a.astype(np.float32) for a in (codes @ dictionary, dictionary, codes, near))


SIGNALS, DICTIONARY, CODES, NEAR = _draw()
S, (N, M) = len(SIGNALS), DICTIONARY.shape
OTHER = (DICTIONARY[::-1] + 0.3 * np.roll(DICTIONARY, 1, axis=1)).copy()
PENALTY = np.float32(0.05)
WEIGHTS = np.linspace(0.02, 0.08, N, dtype=np.float32)
KEY = jax.random.key(0)
STEP = np.float32(0.2)
SIZES = {"num_samples": S, "num_measurements": M, "num_atoms": N}


def call(fn: Callable, args: dict[str, Any], **options: Any) -> Call:
    """Make a line; arguments with None as default may be None."""
    parameters = inspect.signature(inspect.unwrap(options.pop("signature", fn))).parameters
    optional = frozenset(n for n, p in parameters.items() if p.default is None)
    return Call(fn, args, optional=optional, **options)


def running(build: Callable, args: dict[str, Any], run: Callable, **options: Any) -> Call:
    """Make a line for a factory: it is built and its program is run."""
    return call(lambda **kwargs: run(build(**kwargs)), args, signature=build, **options)


def steps(solver, num_steps=3):
    return solvers.solve(solver, Lasso(SIGNALS, DICTIONARY, PENALTY, STEP), num_steps=num_steps)


def solver_line(build, **args):
    return running(build, args, steps, via=("solve",))


def encode(**kwargs):
    return sc.sparse_encode(**kwargs)


def on_lasso(fn, names=("signals", "dictionary", "penalty", "step_size")):
    """Let a function of a Lasso take its fields by keyword."""

    def run(**kwargs):
        fields = [kwargs.pop(name) for name in names]
        return fn(problem=Lasso(*fields), **kwargs)

    return run


def converged_fits(**kwargs):
    """Return what signals are fitted by, NaN where they are not said to have converged."""
    codes, info = solvers.solve_to_tolerance(**kwargs)
    fits = dictionaries.reconstruct(
        codes, kwargs["problem"].dictionary
    )  # where penalties are tiny many codes are right
    return jnp.where(info.converged[..., None], fits, jnp.nan)


def codes_of(encoder, signals=SIGNALS):
    with jax.enable_x64(False):  # which draws other numbers
        params = encoder.init(KEY)
    return encoder.apply(params, signals)


def encoder_line(build, *, via=(), kinds={}, **args):  # noqa: B006
    args = {"num_measurements": M, "num_atoms": N, **args}
    return running(build, args, codes_of, via=via, kinds=kinds, drawn=True)


def fitted(**kwargs):
    """Train for a step or two; the fields of a model and a recipe may be among the keywords."""
    model = {n: kwargs.pop(n) for n in ("fixed_dictionary", "bias") if n in kwargs}
    recipe = {n: kwargs.pop(n) for n in training.Recipe._fields if n in kwargs}
    if "true_codes" in kwargs:
        kwargs["signals"] = kwargs["signals"], kwargs.pop("true_codes")
    if model:
        kwargs["model"] = training.Model(**model)
    found = training.fit(recipe=training.Recipe(**recipe), progress=None, **kwargs)
    return found.params, found.losses


def update_line(build, **args):
    def run(update):
        return update.step(update.init(DICTIONARY), SIGNALS, jnp.asarray(DICTIONARY), NEAR)

    return running(build, args, run)


def loss_of(loss, codes=NEAR):
    return loss(jnp.asarray(codes), losses.Batch(SIGNALS, jnp.asarray(DICTIONARY), PENALTY, CODES))


def scored(signals, true_codes, codes, reconstruction, **dictionaries):
    batch = signals, true_codes, codes, reconstruction
    return metrics.score_features([batch], **dictionaries)


def double(penalty):
    return 2 * penalty


ENCODER = encoders.linear(M, N)
PARAMS = ENCODER.init(KEY)
LASSO = {"signals": SIGNALS, "dictionary": DICTIONARY, "penalty": PENALTY, "step_size": STEP}
BASE = {"signals": SIGNALS, "dictionary": DICTIONARY, "codes": NEAR}
FEATURES = {
    "true_codes": CODES, "codes": np.where(NEAR > 0.1, NEAR, 0),
    "true_dictionary": DICTIONARY, "dictionary": OTHER,
}  # fmt: skip
SIGNED = prox.soft_threshold
POSITIVE = prox.nonnegative_soft_threshold

CALLS = {
    # dictionaries
    "dictionaries.coherence": call(dictionaries.coherence, {"dictionary": DICTIONARY}),
    "dictionaries.correlate": call(
        dictionaries.correlate,
        {"signals": SIGNALS, "dictionary": DICTIONARY},
        rows=("signals",), smooth=True,
    ),
    "dictionaries.normalize": call(
        dictionaries.normalize, {"dictionary": DICTIONARY}, rows=("dictionary",), smooth=True
    ),
    "dictionaries.prepare": call(
        lambda **kw: dictionaries.prepare(**kw).gram, {"dictionary": DICTIONARY, "max_atoms": 100},
        signature=dictionaries.prepare, kinds={"max_atoms": "count"}, smooth=True,
    ),
    "dictionaries.random": call(
        dictionaries.random,
        {"key": KEY, "num_atoms": N, "num_measurements": M, "mean_cosine": 0.2},
        kinds={"mean_cosine": "static"}, drawn=True,
    ),
    "dictionaries.orthogonalize": call(
        dictionaries.orthogonalize,
        {"dictionary": DICTIONARY, "num_steps": 3, "learning_rate": 3e-4},
    ),
    "dictionaries.reconstruct": call(
        dictionaries.reconstruct,
        {"codes": CODES, "dictionary": DICTIONARY},
        rows=("codes",), smooth=True,
    ),
    "dictionaries.spectral_norm": call(
        dictionaries.spectral_norm, {"dictionary": DICTIONARY, "num_squarings": 6}, smooth=True
    ),
    "dictionaries.step_size": call(
        dictionaries.step_size,
        {"dictionary": DICTIONARY, "num_squarings": 6, "solver": solvers.fista()},
        smooth=True,
    ),
    # metrics
    "metrics.mcc": call(metrics.mcc, {"true_codes": CODES, "codes": NEAR}),
    "metrics.latent_correlation": call(
        metrics.latent_correlation, {"true_codes": CODES, "codes": NEAR}
    ),
    "metrics.dictionary_mcc": call(
        metrics.dictionary_mcc, {"true_dictionary": DICTIONARY, "dictionary": OTHER}
    ),
    "metrics.pearson_dictionary_mcc": call(
        metrics.pearson_dictionary_mcc, {"true_dictionary": DICTIONARY, "dictionary": OTHER}
    ),
    "metrics.matched_dictionary_mcc": call(
        metrics.matched_dictionary_mcc, {"true_dictionary": DICTIONARY, "dictionary": OTHER[:4]}
    ),
    "metrics.latent_f1": call(metrics.latent_f1, FEATURES),
    "metrics.uniqueness": call(
        metrics.uniqueness, {"true_dictionary": DICTIONARY, "dictionary": OTHER}
    ),
    "metrics.score_features": call(
        scored, {"signals": SIGNALS, **FEATURES, "reconstruction": SIGNALS * 0.9}, traced=False
    ),
    "metrics.mcc_chance": call(
        metrics.mcc_chance, {"key": KEY, "true_codes": CODES, "codes": NEAR, "num_draws": 2},
        drawn=True,
    ),
    "metrics.dictionary_mcc_chance": call(
        metrics.dictionary_mcc_chance,
        {"key": KEY, "true_dictionary": DICTIONARY, "num_atoms": N,
         "metric": metrics.dictionary_mcc, "num_draws": 2},
        drawn=True,
    ),
    "metrics.mse": call(metrics.mse, {"signals": SIGNALS, "reconstruction": SIGNALS + 0.1}),
    "metrics.r2": call(metrics.r2, {"signals": SIGNALS, "reconstruction": SIGNALS * 0.9}),
    "metrics.shrinkage": call(
        metrics.shrinkage, {"signals": SIGNALS, "reconstruction": SIGNALS * 0.9}
    ),
    "metrics.l0": call(metrics.l0, {"codes": CODES, "threshold": 0.01}),
    "metrics.dead_fraction": call(metrics.dead_fraction, {"codes": CODES, "threshold": 0.01}),
    "metrics.nearest_neighbor_cosine": call(
        metrics.nearest_neighbor_cosine, {"dictionary": DICTIONARY}
    ),
    # objectives
    "objectives.lasso": call(
        objectives.lasso, {**BASE, "penalty": PENALTY}, rows=("signals", "codes"), smooth=True
    ),
    "objectives.lasso(weights)": call(
        objectives.lasso, {**BASE, "penalty": WEIGHTS}, kinds={"penalty": "array"},
        rows=("signals", "codes"),
    ),
    "objectives.reconstruction_error": call(
        objectives.reconstruction_error, BASE, rows=("signals", "codes"), smooth=True
    ),
    "objectives.relative_error": call(
        objectives.relative_error, BASE, rows=("signals", "codes"), smooth=True
    ),
    "objectives.paper_loss": call(
        objectives.paper_loss, {**BASE, "penalty": PENALTY}, smooth=True
    ),
    "objectives.penalty_from_paper": call(
        objectives.penalty_from_paper,
        {"penalty": PENALTY, "num_measurements": M, "num_atoms": N},
    ),
    "objectives.duality_gap": call(
        objectives.duality_gap, {**BASE, "penalty": PENALTY, "prox": SIGNED},
        rows=("signals", "codes"),
    ),
    "objectives.kkt_residual": call(
        objectives.kkt_residual, {**BASE, "penalty": PENALTY, "prox": SIGNED},
        rows=("signals", "codes"),
    ),
    "objectives.residual_gap": call(
        objectives.residual_gap,
        {**BASE, "residual": SIGNALS - NEAR @ DICTIONARY,
         "correlations": (SIGNALS - NEAR @ DICTIONARY) @ DICTIONARY.T,
         "penalty": PENALTY, "prox": SIGNED},
        rows=("signals", "codes", "residual", "correlations"),
        kinds={"residual": "derived", "correlations": "derived"},
    ),
    # prox
    "prox.soft_threshold": call(
        prox.soft_threshold, {"x": NEAR, "threshold": PENALTY}, rows=("x",), smooth=True
    ),
    "prox.nonnegative_soft_threshold": call(
        prox.nonnegative_soft_threshold, {"x": NEAR, "threshold": WEIGHTS},
        kinds={"threshold": "array"}, rows=("x",),
    ),
    "prox.elastic_net": running(
        prox.elastic_net, {"ratio": 0.5, "prox": SIGNED}, lambda p: p(NEAR, PENALTY),
    ),
    "prox.elastic_net(x)": call(
        lambda x, threshold: prox.elastic_net(0.5)(x, threshold),
        {"x": NEAR, "threshold": PENALTY}, rows=("x",),
        via=("nonnegative_soft_threshold", "soft_threshold"),
    ),
    "prox.group_soft_threshold": running(
        prox.group_soft_threshold, {"group_size": 2, "nonnegative": False},
        lambda p: p(NEAR, PENALTY), kinds={"nonnegative": "flag"},
    ),
    "prox.group_soft_threshold(x)": call(
        lambda x, threshold: prox.group_soft_threshold(2)(x, threshold),
        {"x": NEAR, "threshold": PENALTY}, rows=("x",),
    ),
    "prox.value": call(
        prox.value, {"prox": SIGNED, "codes": NEAR, "penalty": PENALTY}, rows=("codes",)
    ),
    "prox.ridge": call(prox.ridge, {"prox": prox.elastic_net(0.5), "penalty": PENALTY}),
    "prox.dual_norm": call(
        prox.dual_norm, {"prox": SIGNED, "correlations": NEAR, "penalty": PENALTY},
        rows=("correlations",),
    ),
    # statistics, synthetic
    "activations.normalization": call(
        activations.normalization, {"signals": SIGNALS}, traced=False
    ),
    "statistics.bootstrap_interval": call(
        statistics.bootstrap_interval,
        {"values": NEAR[0], "statistic": np.mean, "level": 0.9, "num_draws": 200, "seed": 1},
        traced=False,
    ),
    "statistics.compare_groups": call(
        statistics.compare_groups,
        {"first": NEAR[0], "second": NEAR[1, :4], "level": 0.9, "num_draws": 200, "seed": 1},
        traced=False,
    ),
    "statistics.compare_pairs": call(
        statistics.compare_pairs,
        {"first": NEAR[0], "second": NEAR[1], "level": 0.9, "num_draws": 200, "seed": 1},
        traced=False,
    ),
    "statistics.holm": call(
        statistics.holm, {"p_values": np.float32([0.04, 0.01, 0.3, 0.2])}, traced=False
    ),
    "statistics.power": call(
        statistics.power,
        {"difference": 0.5, "deviation": 1.0, "num_seeds": 12, "num_groups": 2, "level": 0.95},
        traced=False,
    ),
    "statistics.seeds_needed": call(
        statistics.seeds_needed,
        {"difference": 0.5, "deviation": 1.0, "target": 0.8, "num_groups": 2, "level": 0.95},
        traced=False,
    ),
    "statistics.mean_interval": call(
        statistics.mean_interval, {"values": NEAR, "axis": 0, "level": 0.95},
        kinds={"axis": "axis"}, traced=False,
    ),
    "synthetic.gaussian": call(
        synthetic.gaussian, {"key": KEY, "shape": (3, 2)}, kinds={"shape": "shape"}
    ),
    "synthetic.half_normal": call(
        synthetic.half_normal, {"key": KEY, "shape": (3, 2)}, kinds={"shape": "shape"}
    ),
    "synthetic.uniform": call(
        synthetic.uniform, {"key": KEY, "shape": (3, 2)}, kinds={"shape": "shape"}
    ),
    "synthetic.log_normal": call(
        synthetic.log_normal, {"key": KEY, "shape": (3, 2)}, kinds={"shape": "shape"}
    ),
    "synthetic.sample_problem": call(
        synthetic.sample_problem,
        {"key": KEY, "num_active": 2, **SIZES, "magnitudes": synthetic.half_normal,
         "weights": WEIGHTS, "noise": 0.1, "dictionary": DICTIONARY},
        kinds={"weights": "array"}, drawn=True,
    ),
    "synthetic.sample_features": call(
        synthetic.sample_features,
        {"key": KEY, "model": synthetic.FeatureModel(DICTIONARY, np.full(N, 0.2, np.float32)),
         "num_samples": S, "max_active": 4},
        kinds={"max_active": "count", "model": "program"}, drawn=True,
    ),
    "synthetic.FeatureModel": call(
        lambda **parts: synthetic.sample_features(
            KEY, synthetic.FeatureModel(**parts), num_samples=S, max_active=6
        ),
        {"dictionary": DICTIONARY, "probabilities": 10 * WEIGHTS, "bias": SIGNALS[0],
         "means": 1 + WEIGHTS, "deviations": WEIGHTS, "factors": OTHER / 2, "noise": 0.1},
        kinds=dict.fromkeys(("probabilities", "bias", "means", "deviations", "factors"), "array"),
        signature=synthetic.FeatureModel, via=("sample_features",), drawn=True,
    ),
    "synthetic.balanced_trees": call(
        synthetic.balanced_trees,
        {"num_roots": 2, "branching": 2, "depth": 1, "num_units": 7},
        kinds=dict.fromkeys(("num_roots", "branching", "depth", "num_units"), "count"),
        traced=False,
    ),
    "synthetic.compensate": call(
        synthetic.compensate,
        {"probabilities": np.float32([0.3, 0.3, 0.2, 0.05, 0.05, 0.1]),
         "hierarchy": synthetic.tree([-1, -1, -1, 0, 1, 2])},
        kinds={"probabilities": "array", "hierarchy": "program"},
    ),
    "synthetic.synth_sae_bench": call(
        synthetic.synth_sae_bench,
        {"key": KEY, "version": 2, "num_features": 8, "num_measurements": 4, "num_roots": 0,
         "num_factors": 2, "num_orthogonalizing_steps": 1},
        kinds=dict.fromkeys(
            ("version", "num_features", "num_roots", "num_factors", "num_orthogonalizing_steps"),
            "count",
        ),
        via=("balanced_trees",), drawn=True,
    ),
    "synthetic.zipf": call(
        synthetic.zipf, {"num_features": 5, "exponent": 0.5, "largest": 0.4, "smallest": 0.01},
        kinds={"num_features": "count", "exponent": "static", "largest": "static",
               "smallest": "static"},
    ),
    # solvers: fronts
    "sparse_encode": call(
        sc.sparse_encode,
        {"signals": SIGNALS, "dictionary": DICTIONARY, "penalty": PENALTY, "num_steps": 4,
         "solver": solvers.fista(), "codes0": CODES, "step_size": STEP},
        rows=("signals", "codes0"), smooth=True,
    ),
    "sparse_encode(weights)": call(
        sc.sparse_encode,
        {"signals": SIGNALS, "dictionary": DICTIONARY, "penalty": WEIGHTS, "num_steps": 4},
        rows=("signals",), kinds={"penalty": "array"},
    ),
    "sparse_encode(prepared)": call(
        lambda signals, dictionary: sc.sparse_encode(
            signals, dictionaries.prepare(dictionary), num_active=2
        ),
        {"signals": SIGNALS, "dictionary": DICTIONARY},
        rows=("signals",), via=("prepare", "orthogonal_least_squares"),
    ),
    "sparse_encode(tolerance)": call(  # where a penalty is next to nothing many codes are right
        lambda **kw: dictionaries.reconstruct(sc.sparse_encode(**kw), kw["dictionary"]),
        {"signals": SIGNALS, "dictionary": DICTIONARY, "penalty": PENALTY, "tolerance": 2e-6},
        signature=sc.sparse_encode, rows=("signals",), via=("solve_to_tolerance",),
        near=5e-3,
    ),
    "sparse_encode(num_active)": call(
        lambda **kw: dense(sc.sparse_encode(**kw)),
        {"signals": SIGNALS, "dictionary": DICTIONARY, "num_active": 2,
         "solver": solvers.orthogonal_matching_pursuit, "as_sparse": True},
        signature=sc.sparse_encode, kinds={"solver": "function", "as_sparse": "flag"},
        rows=("signals",), via=("orthogonal_matching_pursuit",),
    ),
    "solvers.solve": call(
        on_lasso(solvers.solve), {**LASSO, "solver": solvers.sparsa(), "num_steps": 4,
                                  "codes0": CODES},
        signature=solvers.solve, rows=("signals", "codes0"),
    ),
    "solvers.trajectory": call(
        on_lasso(solvers.trajectory),
        {**LASSO, "solver": solvers.ista(), "num_steps": 4, "record": abs, "record_every": 2,
         "codes0": CODES},
        signature=solvers.trajectory,
    ),
    "solvers.solve_to_tolerance": call(
        on_lasso(converged_fits),
        {**LASSO, "solver": solvers.sparsa(), "tolerance": 8e-5, "max_steps": 255,
         "check_every": 5, "codes0": CODES, "chunk_size": 3},
        signature=solvers.solve_to_tolerance, rows=("signals", "codes0"), near=2e-2,
    ),
    "solvers.with_implicit_gradient": call(
        on_lasso(solvers.with_implicit_gradient), {**LASSO, "codes": CODES, "prox": POSITIVE},
        signature=solvers.with_implicit_gradient, unmoved=True,
    ),
    "solvers.default_solver": call(
        lambda **kw: steps(solvers.default_solver(**kw)[0]),
        {"dictionary": DICTIONARY, "prox": POSITIVE}, signature=solvers.default_solver,
        kinds={"dictionary": "shaped"},
    ),
    "solvers.penalty_for": call(
        solvers.penalty_for,
        {"signals": SIGNALS, "dictionary": DICTIONARY, "num_active": 1.5, "prox": POSITIVE},
        kinds={"num_active": "static"}, traced=False, via=("solve_to_tolerance",),
    ),
    "solvers.refit": call(
        solvers.refit,
        {"codes": NEAR, "signals": SIGNALS, "dictionary": DICTIONARY, "num_active": 3,
         "prox": POSITIVE},
        rows=("signals", "codes"),
    ),
    "solvers.leave_one_out": call(
        solvers.leave_one_out,
        {"codes": NEAR, "signals": SIGNALS, "dictionary": DICTIONARY, "threshold": 0.1},
        rows=("signals", "codes"),
    ),
    "solvers.gradient_restart": call(
        solvers.gradient_restart, {"point": NEAR, "new_codes": CODES, "codes": CODES[::-1].copy()},
        rows=(), unmoved=True,
    ),
    # solvers: factories
    "solvers.ista": solver_line(solvers.ista, prox=SIGNED),
    "solvers.fista": solver_line(
        solvers.fista, prox=POSITIVE, restart=solvers.gradient_restart
    ),
    "solvers.lca": solver_line(solvers.lca, prox=POSITIVE),
    "solvers.log_adam": solver_line(solvers.log_adam, epsilon=1e-8),
    "solvers.coordinate_descent": solver_line(solvers.coordinate_descent, prox=POSITIVE),
    "solvers.sparsa": solver_line(solvers.sparsa, prox=POSITIVE),
    "solvers.working_set": running(
        solvers.working_set, {"sizes": (2, 4), "prox": POSITIVE, "inner_steps": 5}, steps,
        kinds={"sizes": "shape"}, via=("solve",),
    ),
    "solvers.matching_pursuit": solver_line(solvers.matching_pursuit, prox=POSITIVE),
    **{
        f"solvers.{name}": solver_line(getattr(solvers, name), num_active=2, prox=SIGNED)
        for name in (
            "cosamp", "exhaustive", "gradient_pursuit", "iterative_hard_thresholding",
            "orthogonal_least_squares", "orthogonal_matching_pursuit", "subspace_pursuit",
        )
    },
    # each kind of solver on unusual signals, dictionaries and warm starts
    **{
        f"solve({name})": call(
            lambda signals, dictionary, solver=solver: sc.sparse_encode(
                signals, dictionary, 0.05, num_steps=3, solver=solver
            ),
            {"signals": SIGNALS, "dictionary": DICTIONARY}, rows=("signals",),
            via=("sparse_encode",),
        )
        for name, solver in {
            "lca": solvers.lca(),
            "coordinate_descent": solvers.coordinate_descent(),
            "matching_pursuit": solvers.matching_pursuit(prox=SIGNED),
            "cosamp": solvers.cosamp(1),
            "exhaustive": solvers.exhaustive(2),
            "gradient_pursuit": solvers.gradient_pursuit(2),
            "iterative_hard_thresholding": solvers.iterative_hard_thresholding(2),
            "orthogonal_least_squares": solvers.orthogonal_least_squares(2),
            "subspace_pursuit": solvers.subspace_pursuit(1),
        }.items()
    },
    "solve(working_set)": call(  # where a penalty is next to nothing many codes are right
        lambda signals, dictionary: dictionaries.reconstruct(
            sc.sparse_encode(
                signals, dictionary, 0.05, num_steps=9, solver=solvers.working_set((2, 4))
            ),
            dictionary,
        ),
        {"signals": SIGNALS, "dictionary": DICTIONARY}, rows=("signals",), via=("sparse_encode",),
    ),
    # encoders
    "encoders.linear": encoder_line(encoders.linear, use_bias=True, kinds={"use_bias": "flag"}),
    "encoders.gated": encoder_line(encoders.gated),
    "encoders.jump_relu": encoder_line(
        encoders.jump_relu, use_bias=True, threshold0=1e-3, bandwidth=1e-3,
    ),
    "encoders.mlp": encoder_line(encoders.mlp, hidden=(3,), kinds={"hidden": "shape"}),
    "encoders.residual_mlp": encoder_line(encoders.residual_mlp, width=3, num_blocks=2),
    **{
        f"encoders.{name}": encoder_line(getattr(encoders, name), num_active=2)._replace(
            optional=frozenset({"num_active"})
        )
        for name in ("abs_top_k", "batch_top_k", "top_k")
    },
    **{
        f"encoders.{name}": encoder_line(
            getattr(encoders, name), num_layers=2, prox=POSITIVE, via=("random",)
        )
        for name in ("alista", "lista", "lista_cp")
    },
    "encoders.unrolled": encoder_line(
        encoders.unrolled, solver=solvers.fista(), num_steps=2, penalty=0.1,
        kinds={"penalty": "static"},
    ),
    "encoders.free_codes": running(
        encoders.free_codes, {"num_samples": S, "num_atoms": N, "log_codes0": -10.0}, codes_of,
    ),
    "encoders.tied": running(encoders.tied, {"encoder": ENCODER}, codes_of),
    "encoders.centered": running(
        encoders.centered, {"encoder": ENCODER, "num_measurements": M, "tie": True}, codes_of,
        kinds={"tie": "flag"},
    ),
    "encoders.normalized": running(
        encoders.normalized, {"encoder": ENCODER, "scale": 2.0}, codes_of, drawn=True,
    ),
    "encoders.refined": running(
        encoders.refined, {"encoder": ENCODER, "num_steps": 1, "step_size": 0.25}, codes_of,
        kinds={"step_size": "static"}, drawn=True,
    ),
    "encoders.from_flax": running(
        encoders.from_flax, {"module": nn.Dense(N), "num_measurements": M}, codes_of,
    ),
    "encoders.as_flax_module": running(
        encoders.as_flax_module, {"encoder": ENCODER},
        lambda module: module.apply(module.init(KEY, SIGNALS), SIGNALS),
    ),
    "encoders.alista_weight": call(encoders.alista_weight, {"dictionary": DICTIONARY}),
    "encoders.alista_params": call(
        encoders.alista_params,
        {"dictionary": DICTIONARY, "penalty": PENALTY, "num_layers": 2, "weight": DICTIONARY},
    ),
    "encoders.lista_params": call(
        encoders.lista_params, {"dictionary": DICTIONARY, "penalty": PENALTY, "num_layers": 2}
    ),
    "encoders.lista_cp_params": call(
        encoders.lista_cp_params, {"dictionary": DICTIONARY, "penalty": PENALTY, "num_layers": 2}
    ),
    "encoders.batch_top_k_threshold": call(
        lambda **kw: jnp.exp(encoders.batch_top_k_threshold(PARAMS, **kw).log_threshold),
        {"signals": SIGNALS, "num_active": 2.0}, signature=encoders.batch_top_k_threshold,
        kinds={"num_active": "number"},
    ),
    **{
        f"apply({name})": call(
            lambda signals, encoder=encoder: codes_of(encoder, signals), {"signals": SIGNALS},
            rows=("signals",), via=(name,), **options,
        )
        for name, encoder, options in (
            ("linear", ENCODER, {}), ("top_k", encoders.top_k(M, N, num_active=2), {}),
            ("mlp", encoders.mlp(M, N), {}), ("gated", encoders.gated(M, N), {}),
            ("lista", encoders.lista(M, N, num_layers=2), {}),
            ("unrolled", encoders.unrolled(solvers.fista(), M, N, num_steps=2), {}),
            ("free_codes", encoders.free_codes(S, N), {"unmoved": True}),  # codes are parameters
        )
    },
    # training
    "training.fit": call(
        fitted,
        {"key": KEY, "encoder": ENCODER, "signals": SIGNALS, "num_atoms": N, "num_steps": 2,
         "penalty": 0.1, "target_l0": 2.0, "learning_rate": 1e-3},
        signature=training.fit, traced=False, drawn=True, via=("linear",),
        kinds={"learning_rate": "number", "target_l0": "number", "key": "keys",
               "signals": "source"},
    ),
    "training.fit(recipe)": call(
        fitted,
        {"key": KEY, "encoder": ENCODER, "signals": SIGNALS, "num_atoms": N, "num_steps": 2,
         "loss": losses.lasso, "optimizer": optax.adam, "batch_size": 3,
         "penalty_schedule": schedules.warmup(2), "average_decay": 0.9, "unit_atoms": True,
         "dead_after": 5, "frequency_decay": 0.9, "bias": "mean"},
        signature=lambda penalty_schedule=None, average_decay=None, dead_after=None, bias=None,
        batch_size=None, frequency_decay=None: 0, traced=False, drawn=True,
        kinds={"key": "keys", "signals": "source", "loss": "function",
               "optimizer": "function", "penalty_schedule": "function",
               "average_decay": "static", "unit_atoms": "flag", "dead_after": "count",
               "frequency_decay": "static",
               "bias": "bias"},
    ),
    "training.fit(codes)": call(
        fitted,
        {"key": KEY, "encoder": ENCODER, "signals": SIGNALS, "true_codes": CODES,
         "fixed_dictionary": DICTIONARY, "num_steps": 1},
        signature=lambda fixed_dictionary=None, true_codes=None: 0, traced=False, drawn=True,
        via=("linear",), kinds={"fixed_dictionary": "array", "key": "keys"},
    ),
    "training.scores": call(
        lambda **kw: training.scores(**kw)(training.Autoencoder(PARAMS, DICTIONARY)),
        {"encoder": ENCODER, "signals": SIGNALS, "true_codes": CODES,
         "true_dictionary": DICTIONARY},
        signature=training.scores, traced=False, via=("linear",),
    ),
    "schedules.warmup": running(schedules.warmup, {"num_steps": 4}, lambda f: f(1)),
    "schedules.cosine": running(
        schedules.cosine, {"num_steps": 4, "num_warmup": 1, "last": 0.1}, lambda f: f(2)
    ),
    "schedules.linear": running(
        schedules.linear, {"num_steps": 4, "first": 3.0, "last": 1.0}, lambda f: f(2),
        kinds={"first": "static"},
    ),
    "schedules.linear_decay": running(
        schedules.linear_decay, {"num_steps": 4, "num_warmup": 1, "num_decay": 2}, lambda f: f(3)
    ),
    "schedules.scheduled": running(
        schedules.scheduled, {"optimizer": optax.sgd, "schedule": schedules.warmup(3)},
        lambda f: f(0.1).init(SIGNALS), kinds={"optimizer": "function", "schedule": "function"},
    ),
    "losses.elastic_net": running(losses.elastic_net, {"ratio": 0.5}, loss_of),
    "losses.matryoshka": running(
        losses.matryoshka,
        {"sizes": (2, N), "loss": losses.lasso, "detached": True, "by_frequency": False}, loss_of,
        kinds={"sizes": "shape", "loss": "function", "detached": "flag", "by_frequency": "flag"},
    ),
    "losses.tilted": running(losses.tilted, {"tilt": 0.1}, loss_of),
    "losses.aux_k": running(
        losses.aux_k, {"loss": losses.lasso, "num_aux": 2, "weight": 0.1},
        lambda loss: loss(jnp.asarray(CODES), losses.Batch(
            SIGNALS, jnp.asarray(DICTIONARY), PENALTY, None, aux=sc.types.Aux(latents=NEAR),
            dead=jnp.arange(N) < 2)),
        kinds={"loss": "function", "weight": "static"},
    ),
    # dictionary learning
    "dictionary_learning.alternate": call(
        dictionary_learning.alternate,
        {"signals": SIGNALS, "dictionary": DICTIONARY, "penalties": WEIGHTS[:2], "num_steps": 2,
         "solver": solvers.ista(), "update": updates.projected_gradient(), "momentum": 0.5,
         "replacing": False, "key": KEY, "updated_codes": True, "codes0": CODES},
        kinds={"updated_codes": "flag"},
    ),
    "dictionary_learning.learn_dictionary": call(
        lambda **kw: dictionary_learning.learn_dictionary(progress=None, **kw)[:4],
        {"key": KEY, "signals": np.concatenate([SIGNALS, SIGNALS[::-1] + 0.1]), "num_atoms": N,
         "penalty": PENALTY, "num_rounds": 2, "num_steps": 2, "num_restarts": 1, "num_hops": 0,
         "num_refinement_rounds": 1, "solver": solvers.ista(),
         "update": updates.projected_gradient(), "dictionary0": DICTIONARY},
        signature=dictionary_learning.learn_dictionary, traced=False, drawn=True,
    ),
    "dictionary_learning.learn_dictionary(num_active)": call(
        lambda **kw: dictionary_learning.learn_dictionary(
            num_atoms=N, num_rounds=2, num_restarts=1, num_hops=0, progress=None, **kw)[:4],
        {"key": KEY, "signals": np.concatenate([SIGNALS, SIGNALS[::-1] + 0.1]), "num_active": 2,
         "bias": np.ones(M, np.float32)},
        signature=dictionary_learning.learn_dictionary, traced=False, drawn=True,
    ),
    "dictionary_learning.learn_dictionary_online": call(
        lambda signals, **kw: dictionary_learning.learn_dictionary_online(
            batches=[signals, signals], progress=None, **kw)[:3],
        {"key": KEY, "signals": np.concatenate([SIGNALS, SIGNALS[::-1] + 0.1]), "num_atoms": N,
         "penalty": PENALTY, "num_steps": 2, "num_epochs": 1, "solver": solvers.ista(),
         "update": updates.block_coordinate(), "dictionary0": DICTIONARY},
        signature=dictionary_learning.learn_dictionary_online, traced=False, drawn=True,
    ),
    "updates.approximate_k_svd": update_line(updates.approximate_k_svd),
    "updates.k_svd": update_line(updates.k_svd),
    "updates.method_of_optimal_directions": update_line(updates.method_of_optimal_directions),
    "updates.block_coordinate": update_line(
        updates.block_coordinate, forgetting=10.0, prior=2.0
    ),
    "updates.decorrelated": update_line(
        updates.decorrelated, update=updates.projected_gradient(), max_coherence=0.5,
        num_rotations=2,
    ),
    "updates.deflated": update_line(
        updates.deflated, update=updates.projected_gradient(), max_coherence=0.5
    ),
    "updates.neural_update": update_line(updates.neural_update, learning_rate=0.1),
    "updates.projected_gradient": update_line(updates.projected_gradient, learning_rate=0.1),
    # grids, counts
    "sweep": call(
        lambda fn, penalty: sc.sweep(fn, penalty=penalty),
        {"fn": double, "penalty": WEIGHTS}, kinds={"fn": "function", "penalty": "axes"},
    ),
    "sweep_chunked": call(
        lambda fn, penalty, chunk_size: sc.sweep_chunked(
            fn, penalty=penalty, chunk_size=chunk_size, progress=None
        ),
        {"fn": double, "penalty": WEIGHTS, "chunk_size": 4}, traced=False,
        kinds={"fn": "function", "penalty": "axes", "chunk_size": "chunk"},
    ),
    "flops.count_flops": call(
        lambda fun: flops.count_flops(fun)(SIGNALS).total(), {"fun": jnp.sin},
        kinds={"fun": "function"}, traced=False,
    ),
    "flops.eval_flops": call(
        lambda fun: flops.eval_flops(fun, SIGNALS).total(), {"fun": jnp.sin},
        kinds={"fun": "function"}, traced=False,
    ),
    "flops.value_and_flops": call(
        lambda fun, on_unknown: flops.value_and_flops(fun, on_unknown=on_unknown)(SIGNALS)[0],
        {"fun": jnp.sin, "on_unknown": "error"},
        kinds={"fun": "function", "on_unknown": "word"}, traced=False,
    ),
    "flops.mfu": call(
        lambda **kw: flops.mfu(flops.eval_flops(jnp.dot, SIGNALS, SIGNALS.T), **kw),
        {"seconds": 0.5, "peak": 1e9, "convention": "matmul"},
        kinds={"seconds": "other", "peak": "other", "convention": "word"}, traced=False,
        via=("class_weights",),
    ),
    "flops.with_flop_budget": call(
        lambda **kw: flops.with_flop_budget(jnp.sin, **kw)(SIGNALS)[0],
        {"budget": 1000, "convention": "arithmetic"},
        kinds={"budget": "other", "convention": "word"}, traced=False, via=("class_weights",),
    ),
    "flops.tally": call(
        lambda **kw: flops.count_flops(lambda x: flops.tally(x, **kw))(SIGNALS).total(
            work="algorithmic"
        ),
        {"n": 3, "per_unit": 2, "name": "lookups"},
        kinds={"n": "units", "per_unit": "operations", "name": "word"}, traced=False,
    ),
}  # fmt: skip

WITHOUT = {
    "synthetic.Tree": "built by synthetic.tree",
    "synthetic.tree": "integers of a tree: tests/test_features.py",
    "SparseCodes": "its methods: tests/test_sparse_codes.py",
    "solvers.sparse_encode": "the same function as sparse_encode",
    "losses.cosine": "is given a batch that training.fit has checked",
    "losses.gated": "is given a batch that training.fit has checked",
    "losses.l0": "is given a batch that training.fit has checked",
    "losses.l1": "is given a batch that training.fit has checked",
    "losses.lasso": "is given a batch that training.fit has checked",
    "losses.paper": "is given a batch that training.fit has checked",
    "losses.squared_error": "is given a batch that training.fit has checked",
    "flops.register_flop_rule": "takes primitives of JAX, for the whole process",
    "flops.register_flop_expansion": "takes primitives of JAX, for the whole process",
    "flops.register_flop_inline": "takes primitives of JAX, for the whole process",
    "io.load_checkpoint": "files: tests/test_io.py",
    "io.save_checkpoint": "files: tests/test_io.py",
    "io.load_results": "files: tests/test_io.py",
    "io.as_sae": "encoders and their parameters: tests/test_saes.py",
    "io.load_sae": "files: tests/test_saes.py",
    "io.save_sae": "files: tests/test_saes.py",
    "io.save_results": "files: tests/test_io.py",
    "activations.Block": "is checked by activations.write: tests/test_activations.py",
    "activations.LanguageModel": "built by activations.load_model",
    "activations.Normalization": "built by activations.normalization",
    "activations.Selection": "built by activations.select",
    "activations.Splice": "a model of PyTorch: tests/test_language_models.py",
    "activations.Store": "built by activations.load: tests/test_activations.py",
    "activations.capture": "a model of PyTorch: tests/test_language_models.py",
    "activations.fold": "an autoencoder: tests/test_activations.py",
    "activations.load": "files: tests/test_activations.py",
    "activations.load_model": "files: tests/test_language_models.py",
    "activations.read_texts": "files: tests/test_activations.py",
    "activations.select": "files: tests/test_activations.py",
    "activations.split_documents": "files: tests/test_activations.py",
    "activations.verify": "files: tests/test_activations.py",
    "activations.write": "files: tests/test_activations.py",
    "improve": "an autoencoder and its activations: tests/test_improve.py",
    "io.Run": "files: tests/test_runs.py",
    "training.load": "files: tests/test_saved.py",
    "training.save": "files: tests/test_saved.py",
    "training.init_state": "is given what training.fit has checked",
    "training.train_step": "is given what training.fit has checked",
    "training.project_gradients": "has no arguments",
    "prox.separable": "says of any object whether it is one of ours",
    "prox.ElasticNet": "built by prox.elastic_net",
    "prox.GroupSoftThreshold": "built by prox.group_soft_threshold",
}
