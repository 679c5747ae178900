"""Numbers at the ends of their range, and those that are none: right, or told, but never wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model

import sparsecode_jax as sc
from sparsecode_jax import Lasso, dictionaries, encoders, metrics, prox, solvers, training

from .contracts import M, N, S, sparse_problem, spoiled
from .encoder_cases import ENCODERS, _batch_top_k

SIGNALS, DICTIONARY, CODES = sparse_problem()
OTHER = sparse_problem(1)
KEY = jax.random.key(0)
SCALES = (1e-30, 1e-20, 1e20, 1e30)
each_scale = pytest.mark.parametrize("scale", SCALES)


# --- metrics -------------------------------------------------------------------------------------

NEAR = CODES + 0.1 * np.random.default_rng(2).normal(size=CODES.shape).astype(np.float32)
SCORES = {
    "mcc": lambda s: metrics.mcc(CODES, s * NEAR),
    "latent_correlation": lambda s: metrics.latent_correlation(s * CODES, NEAR),
    "dictionary_mcc": lambda s: metrics.dictionary_mcc(DICTIONARY, s * OTHER.dictionary),
    "pearson_dictionary_mcc": lambda s: metrics.pearson_dictionary_mcc(
        s * DICTIONARY, OTHER.dictionary
    ),
    "matched_dictionary_mcc": lambda s: metrics.matched_dictionary_mcc(
        s * DICTIONARY, OTHER.dictionary
    ),
    "shrinkage": lambda s: metrics.shrinkage(s * OTHER.signals, s * SIGNALS / 5),
    "nearest_neighbor_cosine": lambda s: metrics.nearest_neighbor_cosine(s * DICTIONARY),
    "r2": lambda s: metrics.r2(s * SIGNALS, s * (SIGNALS + OTHER.signals / 10)),
    "coherence": lambda s: dictionaries.coherence(s * DICTIONARY),
}


@each_scale
@pytest.mark.parametrize("name", SCORES)
def test_scores_do_not_see_the_scale(name, scale):
    expected = SCORES[name](np.float32(1))
    assert 0.1 < float(expected) < 1
    np.testing.assert_allclose(SCORES[name](np.float32(scale)), expected, rtol=2e-6)


def test_scores_do_not_see_the_scale_of_one_atom_or_latent():
    some = np.logspace(-30, 30, N, dtype=np.float32)
    for name, ours in (("mcc", NEAR * some), ("latent_correlation", NEAR * some)):
        expected = getattr(metrics, name)(CODES, NEAR)
        np.testing.assert_allclose(getattr(metrics, name)(CODES, ours), expected, rtol=2e-6)
    ours = metrics.dictionary_mcc(DICTIONARY, OTHER.dictionary * some[:, None])
    np.testing.assert_allclose(ours, SCORES["dictionary_mcc"](1), rtol=2e-6)
    zero = np.zeros((1, M), np.float32)
    for scale in (1, *SCALES):
        atoms = np.concatenate([DICTIONARY, zero]) * np.float32(scale)
        value = metrics.dictionary_mcc(atoms, atoms)  # a zero atom is like none
        np.testing.assert_allclose(value, N / (N + 1), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_mean_squared_error_is_that_of_float64(scale):
    ours = metrics.mse(SIGNALS * np.float32(scale), np.zeros_like(SIGNALS))
    np.testing.assert_allclose(ours, np.mean(SIGNALS.astype(np.float64) ** 2) * scale**2, rtol=1e-5)
    largest = np.full((4, 2), 1.5e19, np.float32)  # whose sum of squares overflows
    np.testing.assert_allclose(metrics.mse(largest, 0 * largest), 1.5e19**2, rtol=1e-6)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
@pytest.mark.parametrize("name", ["l0", "dead_fraction"])
def test_counts_of_what_is_no_number_are_none(name, wrap):
    metric = wrap(getattr(metrics, name))
    stack = np.stack([CODES, CODES])
    stack[1, 2, 3] = np.nan
    got = metric(stack)
    assert got[0] == metric(CODES) and np.isnan(got[1])
    assert np.isnan(metric(CODES, threshold=np.nan))


TRACED = {
    "mcc": (metrics.mcc, CODES, CODES),
    "latent_correlation": (metrics.latent_correlation, CODES, CODES),
    "dictionary_mcc": (metrics.dictionary_mcc, DICTIONARY, DICTIONARY),
    "pearson_dictionary_mcc": (metrics.pearson_dictionary_mcc, DICTIONARY, DICTIONARY),
    "matched_dictionary_mcc": (metrics.matched_dictionary_mcc, DICTIONARY, DICTIONARY),
    "mse": (metrics.mse, SIGNALS, SIGNALS),
    "shrinkage": (metrics.shrinkage, SIGNALS, SIGNALS),
    "r2": (metrics.r2, SIGNALS, SIGNALS),
    "l0": (metrics.l0, CODES),
    "dead_fraction": (metrics.dead_fraction, CODES),
    "nearest_neighbor_cosine": (metrics.nearest_neighbor_cosine, DICTIONARY),
    "coherence": (dictionaries.coherence, DICTIONARY),
    "spectral_norm": (dictionaries.spectral_norm, DICTIONARY),
}


@pytest.mark.parametrize("metric", [metrics.dictionary_mcc, metrics.matched_dictionary_mcc])
def test_an_atom_that_is_no_number_is_not_left_unmatched(metric):
    broken = np.array(DICTIONARY)
    broken[2, 3] = np.nan
    assert np.isnan(jax.jit(metric)(broken, OTHER.dictionary[:4]))


@pytest.mark.parametrize("name", TRACED)
def test_metrics_of_what_is_no_number_are_none(name):
    fn, *arrays = TRACED[name]
    arrays[-1] = np.array(arrays[-1])
    arrays[-1][2, 3] = np.nan
    assert np.isnan(jax.jit(fn)(*arrays))


# --- solvers -------------------------------------------------------------------------------------

LASSO = {
    "ista": solvers.ista(),
    "fista": solvers.fista(),
    "fista_restart": solvers.fista(restart=solvers.gradient_restart),
    "lca": solvers.lca(),
    "coordinate_descent": solvers.coordinate_descent(),
    "sparsa": solvers.sparsa(),
    "sparsa_signed": solvers.sparsa(prox=prox.soft_threshold),
    "sparsa_groups": solvers.sparsa(prox=prox.group_soft_threshold(2)),
    "working_set": solvers.working_set((4, 8)),
}
PURSUITS = {
    "matching_pursuit": solvers.matching_pursuit(),
    "gradient_pursuit": solvers.gradient_pursuit(3),
    "cosamp": solvers.cosamp(3),
    "subspace_pursuit": solvers.subspace_pursuit(3),
    "iterative_hard_thresholding": solvers.iterative_hard_thresholding(3),
    "orthogonal_matching_pursuit": solvers.orthogonal_matching_pursuit(3),
    "orthogonal_least_squares": solvers.orthogonal_least_squares(3),
    "exhaustive": solvers.exhaustive(2),
}
EVERY = LASSO | PURSUITS
each_solver = pytest.mark.parametrize("name", EVERY)


def problem(solver, scale=1.0, penalty=0.05, signals=SIGNALS):
    choose = solver.step_size or dictionaries.step_size
    numbers = np.float32(scale) * np.float32(penalty), choose(jnp.asarray(DICTIONARY))
    return Lasso(np.float32(scale) * signals, DICTIONARY, *numbers)


@each_solver
@pytest.mark.parametrize("exponent", [-84, -72, 66, 100])  # 5e-26, 2e-22, 7e19, 1e30
def test_codes_scale_with_the_signals_to_the_last_bit(name, exponent):
    solver, scale = EVERY[name], 2.0**exponent
    codes = [solvers.solve(solver, problem(solver, s), num_steps=12) for s in (1, scale)]
    np.testing.assert_array_equal(codes[1] / np.float32(scale), codes[0])
    if name not in ("orthogonal_matching_pursuit", "orthogonal_least_squares"):
        start = CODES[:, ::-1].copy()
        warm = [
            solvers.solve(solver, problem(solver, s), num_steps=3, codes0=np.float32(s) * start)
            for s in (1, scale)
        ]
        np.testing.assert_array_equal(warm[1] / np.float32(scale), warm[0])


@each_solver
@pytest.mark.parametrize("exponent", [-84, 100])
def test_gaps_do_not_see_the_scale(name, exponent):
    solver, scale = EVERY[name], 2.0**exponent
    infos = [
        solvers.solve_to_tolerance(solver, problem(solver, s), tolerance=1e-3, max_steps=40)[1]
        for s in (1, scale)
    ]
    np.testing.assert_array_equal(infos[1].num_steps, infos[0].num_steps)
    np.testing.assert_array_equal(infos[1].gap, infos[0].gap)


@pytest.mark.parametrize("name", ["sparsa", "working_set"])
def test_an_elastic_net_scales_with_signals_penalty_and_one_over_its_ratio(name):
    codes = []
    for scale in (1.0, 2.0**-80, 2.0**70):
        penalty = prox.elastic_net(0.5 / scale)
        solver = {"sparsa": solvers.sparsa, "working_set": lambda prox: solvers.working_set(
            (8, 16), prox=prox)}[name](prox=penalty)  # fmt: skip
        found, info = solvers.solve_to_tolerance(
            solver, problem(solver, scale), tolerance=1e-4, max_steps=300
        )
        assert bool(info.converged.all())
        codes.append(found / np.float32(scale))
    np.testing.assert_array_equal(codes[1], codes[0])
    np.testing.assert_array_equal(codes[2], codes[0])


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("exponent", [-84, -72, 66, 100])
def test_refits_scale_with_the_signals_to_the_last_bit(exponent, nonnegative):
    scale = np.float32(2.0**exponent)
    refit = functools.partial(
        solvers.refit,
        num_active=6,
        prox=prox.nonnegative_soft_threshold if nonnegative else prox.soft_threshold,
    )
    codes = refit(NEAR, SIGNALS, DICTIONARY)
    assert np.any(codes != 0)
    np.testing.assert_array_equal(refit(NEAR, scale * SIGNALS, DICTIONARY) / scale, codes)


@each_scale
def test_codes_to_a_tolerance_are_scikit_learns_at_any_scale(scale):
    ours = sc.sparse_encode(
        np.float32(scale) * SIGNALS, DICTIONARY, np.float32(scale * 0.05), tolerance=1e-6
    )
    signals, atoms = (x.astype(np.float64) for x in (SIGNALS, DICTIONARY))
    theirs = sklearn.linear_model.Lasso(
        0.05 / M, fit_intercept=False, positive=True, tol=1e-12, max_iter=100_000
    ).fit(atoms.T, signals.T)
    np.testing.assert_allclose(ours / np.float32(scale), theirs.coef_, atol=2e-3)


def test_a_tiny_signal_and_its_large_warm_start_are_left_behind():
    """The unit is that of the larger of both."""
    signals, start = np.float32(1e-25) * SIGNALS, CODES[:, ::-1].copy()
    signed = {"prox": prox.soft_threshold}
    for solver in (
        solvers.sparsa(),
        solvers.cosamp(3, **signed),
        solvers.matching_pursuit(**signed),
    ):
        codes = solvers.solve(
            solver, problem(solver, 1e-25, signals=SIGNALS), num_steps=200, codes0=start
        )
        assert np.all(np.isfinite(codes))
        error = np.abs(codes @ DICTIONARY - signals).max()
        assert error < 0.02 * np.abs(start @ DICTIONARY).max()


@each_solver
def test_a_signal_that_is_no_number_has_no_codes_and_leaves_the_others_alone(name):
    solver = EVERY[name]

    @jax.jit
    def solve(signals):
        lasso = problem(solver)._replace(signals=signals)
        to = solvers.solve_to_tolerance(solver, lasso, tolerance=1e-3, max_steps=20)
        return solvers.solve(solver, lasso, num_steps=6), *to

    expected, got = solve(SIGNALS), solve(spoiled(SIGNALS, np.nan))
    rest = np.arange(len(SIGNALS)) != 2
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        np.testing.assert_array_equal(np.asarray(other)[rest], np.asarray(one)[rest])
    codes, reached, info = got
    assert np.all(np.isnan(codes[2])) and np.all(np.isnan(reached[2]))
    assert np.isnan(info.gap[2]) and not info.converged[2]


@pytest.mark.parametrize("name", [n for n in PURSUITS if n != "iterative_hard_thresholding"])
def test_atoms_whose_squares_are_out_of_range_have_no_codes(name):
    solver = PURSUITS[name]

    @jax.jit
    def encode(dictionary):
        signals = jnp.asarray(SIGNALS, dictionary.dtype)
        return solvers.solve(solver, Lasso(signals, dictionary, 0.0, 1.0), num_steps=3)

    expected = encode(DICTIONARY)
    for scale in (1e-12, 1e12):
        np.testing.assert_allclose(
            encode(scale * DICTIONARY) * scale, expected, rtol=1e-3, atol=1e-4
        )
    for scale in (1e-30, 1e-20, 1e20, 1e30):
        assert np.all(np.isnan(encode(np.float32(scale) * DICTIONARY)))
    one = DICTIONARY.copy()
    one[4] *= 1e25
    assert np.all(np.isnan(encode(one)))
    if name in ("cosamp", "subspace_pursuit", "exhaustive"):
        return  # for float16 JAX has no Cholesky factor
    half = encode(jnp.asarray(100 * DICTIONARY, jnp.float16))  # whose squares are 10,000
    assert np.all(np.isfinite(half)) and np.any(half)
    assert np.all(np.isnan(encode(jnp.asarray(1000 * DICTIONARY, jnp.float16))))


def test_a_step_that_is_no_number_is_seen_in_the_codes():
    """Every move would be turned down, and a warm start come back as the solution."""
    for start in (None, CODES):
        lasso = problem(solvers.sparsa())._replace(step_size=np.float32(np.nan))
        solve = jax.jit(lambda p, z: solvers.solve(solvers.sparsa(), p, num_steps=4, codes0=z))
        assert np.all(np.isnan(solve(lasso, start)))


def test_refits_of_what_is_no_number_are_none():
    refit = jax.jit(functools.partial(solvers.refit, num_active=3))
    expected, rest = refit(CODES, SIGNALS, DICTIONARY), np.arange(len(SIGNALS)) != 2
    for codes, signals in ((CODES, spoiled(SIGNALS, np.nan)), (spoiled(CODES, np.nan), SIGNALS)):
        got = refit(codes, signals, DICTIONARY)
        assert np.all(np.isnan(got[2]))
        np.testing.assert_array_equal(got[rest], expected[rest])
    atoms = DICTIONARY.copy()
    atoms[0] = np.nan  # in a slot that no code needs: the fit would be 0
    one = (np.arange(N) == 5) * np.ones((len(SIGNALS), 1), np.float32)
    assert np.all(np.isnan(refit(one, SIGNALS, atoms)))


@pytest.mark.parametrize("name", LASSO)
@pytest.mark.parametrize("penalty", [-0.05, np.nan])
@pytest.mark.parametrize("shape", [(), (N,)])
def test_no_signal_is_done_under_a_penalty_that_is_none(name, penalty, shape):
    solver = LASSO[name]

    @jax.jit
    def solve(penalty):
        lasso = problem(solver)._replace(penalty=penalty)
        return solvers.solve_to_tolerance(solver, lasso, tolerance=1e-3, max_steps=20)[1]

    weights = np.full(shape, 0.05, np.float32)
    assert not np.any(np.isnan(solve(weights).gap))
    weights = np.where(np.arange(weights.size).reshape(shape) == 0, penalty, weights)
    info = solve(weights.astype(np.float32))
    assert np.all(np.isnan(info.gap)) and not np.any(info.converged)


def encode_with_a_thousand_atoms(name):
    solver = getattr(solvers, name)(1000)
    return solvers.solve(solver, problem(solver), num_steps=2)


@pytest.mark.parametrize("name", [n for n in (*PURSUITS, "refit") if n != "matching_pursuit"])
def test_more_atoms_than_there_are_is_refused(name):
    call = functools.partial(encode_with_a_thousand_atoms, name)
    if name == "refit":
        call = functools.partial(solvers.refit, CODES, SIGNALS, DICTIONARY, num_active=1000)
    with pytest.raises(ValueError, match=f"{name}: num_active is 1000 but there are {N} atoms"):
        call()


# --- encoders ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ENCODERS)
@pytest.mark.parametrize("shape", [(S, 1), (S, M + 1), (S, 0), (1,), ()])
def test_encoders_refuse_signals_of_another_number_of_measurements(case, shape):
    encoder = case.encoder()
    if isinstance(params := encoder.init(KEY), encoders.FreeCodesParams):
        return  # it does not look at the signals
    for fn in (encoder.apply, encoder.aux or encoder.apply):
        with pytest.raises(
            ValueError, match=rf"^[a-z_]+: the signals have shape .*; \(\.\.\., {M}\)"
        ):
            fn(params, jnp.ones(shape))


@pytest.mark.parametrize("case", ENCODERS)
def test_encoders_of_a_signal_that_is_no_number(case):
    encoder = case.encoder()
    if isinstance(params := encoder.init(KEY), encoders.FreeCodesParams):
        return
    apply = jax.jit(encoder.apply)
    expected, got = apply(params, SIGNALS), apply(params, spoiled(SIGNALS, np.nan))
    assert np.any(np.isnan(got[2]))
    rest = np.arange(S) != 2
    assert not np.any(np.isnan(got[rest]))
    if case.reference is not _batch_top_k:  # whose signals share their codes
        np.testing.assert_array_equal(got[rest], expected[rest])


def test_more_atoms_than_an_encoder_has_is_refused():
    with pytest.raises(ValueError, match="num_active is 7 but there are 4 atoms"):
        encoders.top_k(3, 4, num_active=7)
    solver = solvers.orthogonal_matching_pursuit(7)
    encoder = encoders.unrolled(solver, 3, 4, num_steps=7)
    with pytest.raises(ValueError, match="num_active is 7 but there are 4 atoms"):
        encoder.apply(encoder.init(jax.random.key(0)), jnp.ones(3))


# --- masks and imaginary parts -------------------------------------------------------------------

COMPLEX = DICTIONARY + 1j
MASKED = np.ma.masked_array(DICTIONARY, DICTIONARY > 0.5)
FIT = {"num_steps": 1, "progress": None}
CASTS = {
    "fit_dictionary": lambda d: training.fit(
        KEY, encoders.linear(M, N), SIGNALS, model=training.Model(fixed_dictionary=d), **FIT
    ),
    "fit_signals": lambda d: training.fit(KEY, encoders.linear(M, N), d, num_atoms=N, **FIT),
    "fit_true_codes": lambda d: training.fit(
        KEY, encoders.linear(M, N), (SIGNALS[:N], d), num_atoms=N, **FIT
    ),
    "fit_params0": lambda d: training.fit(
        KEY, encoders.linear(M, N), SIGNALS,
        model=training.Autoencoder(encoders.LinearParams(d, None), DICTIONARY), **FIT,
    ),
    "fit_stream": lambda d: training.fit(
        KEY, encoders.linear(M, N), iter([SIGNALS[:N], d]), num_atoms=N, **{**FIT, "num_steps": 2}
    ),
    "sparse_encode": lambda d: sc.sparse_encode(SIGNALS, d, 0.1, num_steps=1),
    "sparse_encode_penalty": lambda d: sc.sparse_encode(SIGNALS, DICTIONARY, d[:, 0], num_steps=1),
    "solve": lambda d: solvers.solve(
        solvers.ista(), Lasso(SIGNALS, DICTIONARY, d[:, 0], 0.1), num_steps=1
    ),
    "refit": lambda d: solvers.refit(CODES, SIGNALS, d, num_active=2),
    "lasso": lambda d: sc.objectives.lasso(SIGNALS, d, CODES, 0.1),
    "duality_gap": lambda d: sc.objectives.duality_gap(SIGNALS, DICTIONARY, CODES, d[:, 0]),
    "normalize": dictionaries.normalize,
    "coherence": dictionaries.coherence,
    "spectral_norm": dictionaries.spectral_norm,
    "mcc": lambda d: metrics.mcc(d, DICTIONARY),
    "mcc_chance": lambda d: metrics.mcc_chance(KEY, d, DICTIONARY),
    "l0": metrics.l0,
    "dead_fraction": metrics.dead_fraction,
    "nearest_neighbor_cosine": metrics.nearest_neighbor_cosine,
    "dictionary_mcc_chance": lambda d: metrics.dictionary_mcc_chance(KEY, d),
    "mse": lambda d: metrics.mse(d, DICTIONARY),
    "lista_params": lambda d: encoders.lista_params(d, 0.1, num_layers=2),
    "alista_weight": encoders.alista_weight,
    "alista_params": lambda d: encoders.alista_params(DICTIONARY, 0.1, num_layers=2, weight=d),
    "batch_top_k_threshold": lambda d: encoders.batch_top_k_threshold(
        encoders.LinearParams(DICTIONARY, None), d, num_active=2
    ),
    "sample_problem": lambda d: sc.synthetic.sample_problem(
        KEY, 2, num_samples=3, num_measurements=M, num_atoms=N, dictionary=d
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASTS)
def test_masks_and_imaginary_parts_are_not_dropped(name):
    with pytest.raises(TypeError, match=r"^[a-z0-9_]+: got complex.* numbers; real numbers"):
        CASTS[name](COMPLEX)
    with pytest.raises(TypeError, match=r"^[a-z0-9_]+: got a masked array .* masked entries; numb"):
        CASTS[name](MASKED)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_half_to_a_tolerance_and_in_gradients(dtype):
    problem = sc.synthetic.sample_problem(
        jax.random.key(3), 3, num_samples=20, num_measurements=16, num_atoms=24
    )
    signals, dictionary = problem.signals, problem.dictionary
    half = signals.astype(dtype), dictionary.astype(dtype)
    for solver in (solvers.sparsa(), solvers.working_set((8, 16))):
        lasso = Lasso(*half, jnp.asarray(0.2, dtype), sc.dictionaries.step_size(half[1]))
        codes, info = solvers.solve_to_tolerance(solver, lasso, tolerance=0.05, max_steps=50)
        assert codes.dtype == info.gap.dtype == dtype and bool(info.converged.all())
        exact = sc.objectives.lasso(
            signals, dictionary, codes.astype(jnp.float32), 0.2
        ) - sc.objectives.lasso(
            signals, dictionary, sc.sparse_encode(signals, dictionary, 0.2, tolerance=1e-5), 0.2
        )
        assert float(jnp.max(exact / (0.5 * jnp.sum(signals**2, axis=-1)))) < 0.06

    def total(dictionary, signals):
        return sc.sparse_encode(signals, dictionary, 0.2, tolerance=0.05).sum()

    found = jax.grad(total)(half[1], half[0])
    assert found.dtype == dtype and bool(jnp.isfinite(found).all())


@pytest.mark.parametrize("build", [solvers.cosamp, solvers.subspace_pursuit])
def test_pursuits_that_factorize_refuse_half_precision(build):
    half = jnp.ones((2, 8), jnp.bfloat16), jnp.eye(8, dtype=jnp.bfloat16)
    message = "signals have dtype bfloat16; float32 or float64 is expected"
    with pytest.raises(TypeError, match=message):
        sc.sparse_encode(*half, num_active=2, solver=build)
