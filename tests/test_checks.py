"""What bad input is told: which function, what is wrong, what is expected, what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax import (
    dictionaries,
    encoders,
    metrics,
    objectives,
    solvers,
    training,
)
from sparsecode_jax.prox import soft_threshold
from sparsecode_jax.synthetic import sample_problem

from .contracts import M, N, S, raises, sparse_problem, spoiled
from .fitting import arguments

SIGNALS, DICTIONARY, CODES = sparse_problem()
KEY = jax.random.key(0)


LINEAR = encoders.linear(M, N)
SAMPLE = {"num_samples": 5, "num_measurements": M, "num_atoms": N}


def fit(key=KEY, encoder=LINEAR, signals=SIGNALS, **kwargs):
    if not {"dictionary", "num_atoms", "params0"} & kwargs.keys():
        kwargs["num_atoms"] = N
    signals, kwargs = arguments(signals, {"num_steps": 2, "progress": None, **kwargs})
    return training.fit(key, encoder, signals, **kwargs)


def sample(num_active=2, **kwargs):
    return sample_problem(KEY, num_active, **{**SAMPLE, **kwargs})


START = training.Autoencoder(LINEAR.init(KEY), None)

ERRORS = {
    # dictionaries
    "random_atoms": (
        "random: num_atoms is 0; an integer >= 1",
        lambda: dictionaries.random(KEY, num_atoms=0, num_measurements=3),
    ),
    "random_measurements": (
        "random: num_measurements is 2.5; an integer",
        lambda: dictionaries.random(KEY, num_atoms=3, num_measurements=2.5),
    ),
    "spectral_norm_vector": ("spectral_norm: ", lambda: dictionaries.spectral_norm(np.ones(3))),
    "spectral_norm_stack": (
        "spectral_norm: ",
        lambda: dictionaries.spectral_norm(np.ones((2, 3, 4))),
    ),
    "spectral_norm_squarings": (
        "spectral_norm: num_squarings is",
        lambda: dictionaries.spectral_norm(DICTIONARY, num_squarings=-1),
    ),
    "step_size_vector": ("(step_size|spectral_norm): ", lambda: dictionaries.step_size(np.ones(3))),
    "coherence_vector": ("coherence: ", lambda: dictionaries.coherence(np.ones(3))),
    "coherence_one_atom": ("coherence: ", lambda: dictionaries.coherence(np.ones((1, 3)))),
    # objectives
    "lasso_transposed": (
        r"lasso: .*pass dictionary\.T",
        lambda: objectives.lasso(SIGNALS, DICTIONARY.T, CODES, 0.1),
    ),
    "error_transposed": (
        r"reconstruction_error: .*pass dictionary\.T",
        lambda: objectives.reconstruction_error(SIGNALS, DICTIONARY.T, CODES),
    ),
    "paper_loss_transposed": (
        r"paper_loss: .*pass dictionary\.T",
        lambda: objectives.paper_loss(SIGNALS, DICTIONARY.T, CODES, 0.1),
    ),
    "gap_transposed": (
        r"duality_gap: .*pass dictionary\.T",
        lambda: objectives.duality_gap(SIGNALS, DICTIONARY.T, CODES, 0.1),
    ),
    "kkt_transposed": (
        r"kkt_residual: .*pass dictionary\.T",
        lambda: objectives.kkt_residual(SIGNALS, DICTIONARY.T, CODES, 0.1),
    ),
    "lasso_codes_of_other_signals": (
        "lasso: ",
        lambda: objectives.lasso(SIGNALS, DICTIONARY, CODES[:1], 0.1),
    ),
    "lasso_penalty_per_signal": (
        "lasso: the penalty has shape",
        lambda: objectives.lasso(SIGNALS, DICTIONARY, CODES, np.ones((S, 1))),
    ),
    # synthetic
    "k_above_n": (
        "sample_problem: num_active is 17 but there are 16 atoms; an integer from 0 to 16",
        lambda: sample(17),
    ),
    "k_negative": ("sample_problem: num_active is -1 but", lambda: sample(-1)),
    "k_fraction": ("sample_problem: num_active is 2.5", lambda: sample(2.5)),
    "k_vector": ("sample_problem: num_active", lambda: sample(np.arange(N))),
    "no_samples": (
        "sample_problem: num_samples is 0; an integer >= 1",
        lambda: sample(num_samples=0),
    ),
    "fractional_measurements": (
        "sample_problem: num_measurements is 8.0; an integer",
        lambda: sample(num_measurements=8.0),
    ),
    "negative_noise": (
        r"sample_problem: noise is -0\.1; a standard deviation >= 0",
        lambda: sample(noise=-0.1),
    ),
    "nan_noise": (
        "sample_problem: noise is nan; a standard deviation >= 0",
        lambda: sample(noise=np.nan),
    ),
    "sample_transposed": (
        r"sample_problem: the dictionary has shape \(8, 16\); \(16, 8\) is expected",
        lambda: sample(dictionary=DICTIONARY.T),
    ),
    "sample_zero_atom": (
        "sample_problem: the dictionary has 1 zero atoms",
        lambda: sample(dictionary=spoiled(DICTIONARY, 0, 5)),
    ),
    "sample_nan_dictionary": (
        "sample_problem: dictionary holds 1 non-finite",
        lambda: sample(dictionary=spoiled(DICTIONARY, np.nan)),
    ),
    # metrics
    "mcc_samples": (
        r"mcc: true codes \(20, 16\) and codes \(19, 16\) must agree .*pass codes\.T",
        lambda: metrics.mcc(CODES, CODES[:19]),
    ),
    "mcc_leading": (
        r"mcc: true codes \(1, 20, 16\) and codes \(20, 16\) must agree",
        lambda: metrics.mcc(CODES[None], CODES),
    ),
    "mcc_vector": (
        r"mcc: the codes have shape \(20,\); a non-empty \(samples, latents\)",
        lambda: metrics.mcc(CODES, CODES[:, 0]),
    ),
    "mcc_empty": (
        r"mcc: the true codes have shape \(0, 16\); a non-empty",
        lambda: metrics.mcc(CODES[:0], CODES[:0]),
    ),
    "mcc_one_sample": (
        "mcc: 1 sample; a correlation needs at least 2",
        lambda: metrics.mcc(CODES[:1], CODES[:1]),
    ),
    "mcc_nan": (
        r"mcc: codes holds 1 non-finite numbers \(the first at index \(2, 3\)\)",
        lambda: metrics.mcc(CODES, spoiled(CODES, np.nan)),
    ),
    "mcc_nan_truth": (
        "mcc: true_codes holds 1 non-finite",
        lambda: metrics.mcc(spoiled(CODES, np.inf), CODES),
    ),
    "latent_correlation_latents": (
        r"latent_correlation: true codes \(20, 16\) and codes \(20, 15\) differ; .*Use mcc",
        lambda: metrics.latent_correlation(CODES, CODES[:, 1:]),
    ),
    "latent_correlation_nan": (
        "latent_correlation: codes holds 1 non-finite",
        lambda: metrics.latent_correlation(CODES, spoiled(CODES, np.nan)),
    ),
    "dictionary_mcc_measurements": (
        "dictionary_mcc: .*must agree",
        lambda: metrics.dictionary_mcc(DICTIONARY, DICTIONARY.T),
    ),
    "dictionary_mcc_vector": (
        r"dictionary_mcc: the dictionary has shape \(8,\); \(N, M\) is expected",
        lambda: metrics.dictionary_mcc(DICTIONARY, DICTIONARY[0]),
    ),
    "dictionary_mcc_empty": (
        "dictionary_mcc: ",
        lambda: metrics.dictionary_mcc(DICTIONARY, DICTIONARY[:0]),
    ),
    "dictionary_mcc_nan": (
        r"dictionary_mcc: dictionary holds 1 non-finite numbers \(the first at index \(2, 3\)\)",
        lambda: metrics.dictionary_mcc(DICTIONARY, spoiled(DICTIONARY, np.nan)),
    ),
    "matched_measurements": (
        "matched_dictionary_mcc: .*must agree",
        lambda: metrics.matched_dictionary_mcc(DICTIONARY, DICTIONARY.T),
    ),
    "uniqueness_stack": (
        r"uniqueness: the dictionary has shape \(2, 16, 8\); \(N, M\) .*use jax.vmap",
        lambda: metrics.uniqueness(DICTIONARY, np.stack([DICTIONARY] * 2)),
    ),
    "latent_f1_atoms": (
        r"latent_f1: the codes have shape \(20, 15\); \(S, 16\) is expected",
        lambda: metrics.latent_f1(
            CODES, CODES[:, 1:], true_dictionary=DICTIONARY, dictionary=DICTIONARY
        ),
    ),
    "latent_f1_samples": (
        r"latent_f1: true codes \(20, 16\) and codes \(19, 16\) have different numbers",
        lambda: metrics.latent_f1(
            CODES, CODES[1:], true_dictionary=DICTIONARY, dictionary=DICTIONARY
        ),
    ),
    "shrinkage_shapes": (
        r"shrinkage: signals \(20, 8\) and reconstruction \(19, 8\); two arrays of one shape",
        lambda: metrics.shrinkage(SIGNALS, SIGNALS[1:]),
    ),
    "pearson_measurements": (
        "pearson_dictionary_mcc: .*must agree",
        lambda: metrics.pearson_dictionary_mcc(DICTIONARY, DICTIONARY.T),
    ),
    "pearson_scalar": (
        "pearson_dictionary_mcc: the true dictionary has shape",
        lambda: metrics.pearson_dictionary_mcc(1.0, DICTIONARY),
    ),
    "pearson_nan": (
        r"pearson_dictionary_mcc: dictionary holds 1 non-finite .*\(the first at index \(2, 3\)\)",
        lambda: metrics.pearson_dictionary_mcc(DICTIONARY, spoiled(DICTIONARY, np.nan)),
    ),
    "chance_draws": (
        "mcc_chance: num_draws is 0; an integer >= 1",
        lambda: metrics.mcc_chance(KEY, CODES, CODES, num_draws=0),
    ),
    "dictionary_chance_draws": (
        "dictionary_mcc_chance: num_draws is 1.5; an integer",
        lambda: metrics.dictionary_mcc_chance(KEY, DICTIONARY, num_draws=1.5),
    ),
    "dictionary_chance_atoms": (
        "dictionary_mcc_chance: num_atoms is 0; an integer >= 1",
        lambda: metrics.dictionary_mcc_chance(KEY, DICTIONARY, num_atoms=0, num_draws=1),
    ),
    "dictionary_chance_vector": (
        "dictionary_mcc_chance: ",
        lambda: metrics.dictionary_mcc_chance(KEY, DICTIONARY[0], num_draws=1),
    ),
    "mse_shapes": (
        r"mse: signals \(20, 8\) and reconstruction \(19, 8\); two arrays of one shape",
        lambda: metrics.mse(SIGNALS, SIGNALS[:19]),
    ),
    "mse_vector": (
        r"mse: signals \(8,\) and reconstruction \(8,\); two arrays",
        lambda: metrics.mse(SIGNALS[0], SIGNALS[0]),
    ),
    "mse_empty": ("mse: ", lambda: metrics.mse(SIGNALS[:0], SIGNALS[:0])),
    "r2_shapes": (
        r"r2: signals \(20, 8\) and reconstruction \(8, 20\); two arrays",
        lambda: metrics.r2(SIGNALS, SIGNALS.T),
    ),
    "r2_empty": ("r2: ", lambda: metrics.r2(SIGNALS[:0], SIGNALS[:0])),
    "r2_one_sample": ("r2: ", lambda: metrics.r2(SIGNALS[:1], SIGNALS[:1])),
    "l0_vector": ("l0: ", lambda: metrics.l0(CODES[0])),
    "l0_empty": ("l0: ", lambda: metrics.l0(CODES[:0])),
    "dead_fraction_vector": ("dead_fraction: ", lambda: metrics.dead_fraction(CODES[0])),
    "dead_fraction_empty": ("dead_fraction: ", lambda: metrics.dead_fraction(CODES[:, :0])),
    "nearest_neighbor_one_atom": (
        "nearest_neighbor_cosine: ",
        lambda: metrics.nearest_neighbor_cosine(DICTIONARY[:1]),
    ),
    "nearest_neighbor_vector": (
        "nearest_neighbor_cosine: ",
        lambda: metrics.nearest_neighbor_cosine(DICTIONARY[0]),
    ),
    # statistics
    "mean_interval_scalar": ("mean_interval: ", lambda: sc.statistics.mean_interval(3.0)),
    # encoders
    "linear_measurements": (
        "linear: num_measurements is 0; an integer >= 1",
        lambda: encoders.linear(0, N),
    ),
    "linear_atoms": ("linear: num_atoms is 2.5; an integer", lambda: encoders.linear(M, 2.5)),
    "linear_float_after_integer": (
        r"linear: num_measurements is 8\.0; an integer",
        lambda: encoders.linear(float(M), N),
    ),
    "mlp_width": (
        "mlp: a layer's width is 0; an integer >= 1",
        lambda: encoders.mlp(M, N, hidden=(4, 0)),
    ),
    "free_codes_samples": (
        "free_codes: num_samples is -1; an integer",
        lambda: encoders.free_codes(-1, N),
    ),
    "free_codes_atoms": (
        "free_codes: num_atoms is 0; an integer",
        lambda: encoders.free_codes(S, 0),
    ),
    "free_codes_other_signals": (
        r"free_codes: \(19,\) signals but codes for \(20,\); it encodes exactly its training",
        lambda: encoders.free_codes(S, N).apply(encoders.free_codes(S, N).init(KEY), SIGNALS[:19]),
    ),
    "from_flax_measurements": (
        "from_flax: num_measurements is 0; an integer",
        lambda: encoders.from_flax(LINEAR, 0),
    ),
    # learning
    "fit_keys": (
        r"fit: keys of shape \(2, 2\); one key, or a vector of keys is expected",
        lambda: fit(jax.random.split(KEY, (2, 2))),
    ),
    "fit_vector": (
        r"fit: signals of shape \(8,\) with one run; 2 axes are expected, or 3 with the runs first",
        lambda: fit(signals=SIGNALS[0]),
    ),
    "fit_runs": (
        r"fit: signals of shape \(2, 20, 8\) with one run; 2 axes are expected",
        lambda: fit(signals=np.stack([SIGNALS] * 2)),
    ),
    "fit_other_runs": (
        r"fit: penalty of shape \(3,\) with 2 runs; 0 axes are expected, or 1 with the runs first",
        lambda: fit(jax.random.split(KEY, 2), penalty=np.ones(3)),
    ),
    "fit_empty": (r"fit: signals are empty \(shape \(0, 8\)\)", lambda: fit(signals=SIGNALS[:0])),
    "fit_nan": (
        r"fit: signals holds 1 non-finite numbers \(the first at index \(2, 3\)\)",
        lambda: fit(signals=spoiled(SIGNALS, np.nan)),
    ),
    "fit_nan_dictionary": (
        "fit: dictionary holds 1 non-finite",
        lambda: fit(dictionary=spoiled(DICTIONARY, np.nan)),
    ),
    "fit_nan_codes": (
        "fit: true_codes holds 1 non-finite",
        lambda: fit(
            dictionary=DICTIONARY, true_codes=spoiled(CODES, np.nan), loss=training.losses.cosine
        ),
    ),
    "fit_nan_penalty": ("fit: .*penalty", lambda: fit(penalty=np.nan)),
    "fit_negative_penalty": (
        r"fit: the penalty is -0\.1.*; a number >= 0 is expected",
        lambda: fit(penalty=-0.1),
    ),
    "fit_learning_rate": (
        r"fit: learning_rate is 0\.0; a finite number > 0",
        lambda: fit(learning_rate=0.0),
    ),
    "fit_learning_rates": (
        r"fit: learning_rate is \[1\.0, nan\]; a finite number > 0",
        lambda: fit(jax.random.split(KEY, 2), learning_rate=np.array([1, np.nan])),
    ),
    "fit_transposed": (
        r"fit: signals have 8 measurements .*pass dictionary\.T",
        lambda: fit(dictionary=DICTIONARY.T),
    ),
    "fit_zero_atom": (
        "fit: the dictionary has 1 zero atoms",
        lambda: fit(dictionary=spoiled(DICTIONARY, 0, 5)),
    ),
    "fit_neither": (
        "fit: neither num_atoms= .* nor a dictionary in the model; pass one",
        lambda: training.fit(KEY, LINEAR, SIGNALS, num_steps=1, progress=None),
    ),
    "fit_both": (
        "fit: both num_atoms= .* and a fixed_dictionary in the model; pass one",
        lambda: fit(num_atoms=N, dictionary=DICTIONARY),
    ),
    "fit_both_in_params0": (
        "fit: both a dictionary to learn and a fixed_dictionary in the model; pass one",
        lambda: fit(params0=START._replace(dictionary=DICTIONARY), dictionary=DICTIONARY),
    ),
    "fit_params0": (
        "fit: the encoder's parameters in the model do not have the structure, shapes and dtypes",
        lambda: fit(
            params0=START._replace(encoder=encoders.linear(M, 4).init(KEY)), dictionary=DICTIONARY
        ),
    ),
    "fit_atoms": (
        r"fit: the encoder gives 16 codes but the dictionary has 15 atoms \(shape \(15, 8\)\)",
        lambda: fit(num_atoms=15),
    ),
    "fit_fixed_atoms": (
        r"fit: the encoder gives 16 codes but the dictionary has 15 atoms",
        lambda: fit(dictionary=DICTIONARY[:15]),
    ),
    "fit_no_atoms": ("fit: num_atoms is 0; an integer >= 1", lambda: fit(num_atoms=0)),
    "fit_codes": (
        "fit: the encoder gives 16 codes but true_codes have 15; they must agree",
        lambda: fit(true_codes=CODES[:, :15]),
    ),
    "fit_code_rows": (
        "fit: 20 signals but 19 true codes; one row of codes per signal",
        lambda: fit(true_codes=CODES[:19]),
    ),
    "fit_encoder": ("fit: ", lambda: fit(encoder=encoders.linear(7, N))),
    "fit_num_steps": ("fit: num_steps is -1; an integer >= 0", lambda: fit(num_steps=-1)),
    "fit_batch_size": ("fit: batch_size is 0; an integer >= 1", lambda: fit(batch_size=0)),
    "fit_free_codes_batches": (
        r"free_codes: \(7,\) signals but codes for \(20,\).*Train without batch_size",
        lambda: fit(encoder=encoders.free_codes(S, N), batch_size=7),
    ),
    "fit_record_alone": (
        "fit: record and record_steps go together; pass both or neither",
        lambda: fit(record=lambda p: p),
    ),
    "fit_steps_alone": (
        "fit: record and record_steps go together; pass both or neither",
        lambda: fit(record_steps=[1]),
    ),
    "fit_record_order": (
        r"fit: record_steps are \[2, 1\]; increasing integers from 0 to num_steps \(2\)",
        lambda: fit(record=lambda p: p, record_steps=[2, 1]),
    ),
    "fit_record_twice": (
        r"fit: record_steps are \[1, 1\]; increasing integers",
        lambda: fit(record=lambda p: p, record_steps=[1, 1]),
    ),
    "fit_record_beyond": (
        r"fit: record_steps are \[3\]; increasing integers from 0 to num_steps \(2\)",
        lambda: fit(record=lambda p: p, record_steps=[3]),
    ),
    "fit_record_fraction": (
        r"fit: record_steps are",
        lambda: fit(record=lambda p: p, record_steps=[0.5]),
    ),
    "fit_cosine": (
        r"losses\.cosine: there are no true codes; give fit .signals, true_codes.",
        lambda: fit(loss=training.losses.cosine),
    ),
    "fit_no_dictionary": (
        r"losses\.paper: there is no dictionary; pass dictionary=",
        lambda: fit(params0=START),
    ),
}
TYPE_ERRORS = {
    "mlp_number": (
        r"mlp: hidden is 4; a tuple of widths such as \(256,\) is expected",
        lambda: encoders.mlp(M, N, hidden=4),
    ),
    "mlp_list": (
        r"mlp: hidden is \[4\]; a tuple of widths such as \(256,\) is expected",
        lambda: encoders.mlp(M, N, hidden=[4]),
    ),
    "from_flax_class": (
        "from_flax: got <class .*; an instance of a flax.linen Module is expected",
        lambda: encoders.from_flax(__import__("flax.linen").linen.Dense, M),
    ),
    "from_flax_function": (
        "from_flax: got <function .*; an instance of a flax.linen Module",
        lambda: encoders.from_flax(fit, M),
    ),
    "mcc_complex": (
        r"mcc: got complex\d+ numbers; real numbers are expected",
        lambda: metrics.mcc(CODES * 1j, CODES),
    ),
    "r2_complex": (
        r"r2: got complex\d+ numbers; real numbers are expected",
        lambda: metrics.r2(SIGNALS * 1j, SIGNALS),
    ),
    "dictionary_mcc_complex": (
        r"dictionary_mcc: got complex\d+ numbers; real numbers",
        lambda: metrics.dictionary_mcc(DICTIONARY * 1j, DICTIONARY),
    ),
    "pearson_complex": (
        r"pearson_dictionary_mcc: got complex\d+ numbers; real numbers",
        lambda: metrics.pearson_dictionary_mcc(DICTIONARY * 1j, DICTIONARY),
    ),
    "fit_complex": (
        r"fit: got complex\d+ numbers; real numbers are expected",
        lambda: fit(signals=SIGNALS * 1j),
    ),
    "fit_key": ("fit: .*key", lambda: fit(0)),
    "fit_traced_steps": ("fit: .*traced", lambda: jax.jit(lambda n: fit(num_steps=n))(3)),
    "sample_traced_atoms": (
        "sample_problem: num_atoms is traced, but it decides shapes; pass a Python integer",
        lambda: jax.jit(lambda n: sample(num_atoms=n))(3),
    ),
    "random_traced_atoms": (
        "random: num_atoms is traced, but it decides shapes; pass a Python integer",
        lambda: jax.jit(lambda n: dictionaries.random(KEY, num_atoms=n, num_measurements=3))(3),
    ),
}


@pytest.mark.parametrize(("message", "call"), ERRORS.values(), ids=ERRORS)
def test_bad_values(message, call):
    raises(ValueError, f"^{message}", call)


@pytest.mark.parametrize(("message", "call"), TYPE_ERRORS.values(), ids=TYPE_ERRORS)
def test_bad_types(message, call):
    raises(TypeError, f"^{message}", call)


def test_values_of_metrics_and_samples_pass_silently_under_jit():
    jax.jit(metrics.mcc)(CODES, spoiled(CODES, np.nan))
    jax.jit(metrics.dictionary_mcc)(DICTIONARY, spoiled(DICTIONARY, np.nan))
    jax.jit(lambda k, s: sample(k, noise=s))(17, -0.1)


def test_shapes_of_metrics_are_checked_under_jit_too():
    raises(ValueError, "^mcc: true codes", lambda: jax.jit(metrics.mcc)(CODES, CODES[:19]))
    raises(ValueError, "^r2: signals", lambda: jax.jit(metrics.r2)(SIGNALS, SIGNALS[:19]))
    call = jax.jit(lambda d: sample(dictionary=d))
    raises(ValueError, "^sample_problem: the dictionary has shape", lambda: call(DICTIONARY.T))


def test_concrete_arrays_closed_over_by_a_traced_function_are_still_checked():
    spoiled_signals, missing = jnp.asarray(spoiled(SIGNALS, np.nan)), jnp.asarray(DICTIONARY)
    call = jax.jit(lambda p: sc.sparse_encode(spoiled_signals, missing, p, num_steps=1))
    raises(ValueError, "^sparse_encode: signals holds 1 non-finite", lambda: call(0.1))
    zeroed = jnp.asarray(spoiled(DICTIONARY, 0, 5))
    call = jax.jit(lambda x: sc.sparse_encode(x, zeroed, 0.1, num_steps=1))
    raises(ValueError, "^sparse_encode: the dictionary has 1 zero atoms", lambda: call(SIGNALS))
    negative = jnp.float32(-0.1)
    call = jax.jit(lambda x: sc.sparse_encode(x, DICTIONARY, negative, num_steps=1))
    raises(ValueError, "^sparse_encode: the penalty is negative", lambda: call(SIGNALS))


def test_a_list_of_batches_is_no_pair_of_signals_and_codes():
    message = (
        r"^fit: signals are a list of 2 arrays; an array, or a tuple \(signals, true_codes\), is "
        r"expected\. For a batch per step pass iter\(batches\)"
    )
    raises(TypeError, message, lambda: fit(signals=[SIGNALS, SIGNALS]))


def test_signed_problems_with_zero_penalty_are_fine():
    solver = solvers.fista(prox=soft_threshold)
    codes = sc.sparse_encode(SIGNALS, DICTIONARY, 0, solver=solver, num_steps=5)
    assert bool(jnp.all(jnp.isfinite(codes)))
