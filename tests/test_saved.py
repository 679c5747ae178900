"""Autoencoders on disk, and what fit refuses."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsecode_jax import encoders, io, training
from sparsecode_jax.training import losses, schedules

from .contracts import M, N
from .fitting import DICTIONARY, KEY, LINEAR, PARAMS, SIGNALS, TOP_K, fit


def test_saved_parameters_are_named_and_refuse_another_encoder(tmp_path):
    params = fit(bias="mean").params
    npz, manifest = training.save(tmp_path / "model", params, manifest={"encoder": "linear"})
    with np.load(npz) as arrays:
        assert set(arrays) == {"encoder.weight", "encoder.bias", "dictionary", "bias"}
    assert '"encoder": "linear"' in manifest.read_text()
    for other in (encoders.gated(M, N), encoders.linear(M, N + 1), encoders.mlp(M, N)):
        with pytest.raises(ValueError, match="is expected by this one"):
            training.load(tmp_path / "model", other)
    runs = fit(jax.random.split(KEY, 3)).params
    training.save(tmp_path / "runs", runs)
    chex.assert_trees_all_equal(training.load(tmp_path / "runs", LINEAR), runs)
    with pytest.raises(FileNotFoundError):
        training.load(tmp_path / "nothing", LINEAR)


def test_free_codes_are_saved_with_their_dictionary(tmp_path):
    encoder = encoders.free_codes(len(SIGNALS), N)  # takes so many signals, no more and no fewer
    params = fit(encoder=encoder).params
    training.save(tmp_path / "model", params)
    chex.assert_trees_all_equal(training.load(tmp_path / "model", encoder), params)
    around = encoders.centered(encoder, M)
    assert around.num_signals == len(SIGNALS)
    params = fit(encoder=around).params
    training.save(tmp_path / "around", params)
    chex.assert_trees_all_equal(training.load(tmp_path / "around", around), params)
    undeclared = encoder._replace(num_signals=None)  # is asked for the codes of one signal
    with pytest.raises(ValueError, match="does not fit the encoder's signals and codes"):
        training.load(tmp_path / "model", undeclared)


def test_saved_half_precision_comes_back_as_it_was(tmp_path):
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), fit().params)
    params = params._replace(dictionary=params.dictionary.astype(jnp.float32))
    training.save(tmp_path / "model", params)
    chex.assert_trees_all_equal(training.load(tmp_path / "model", LINEAR), params)
    assert training.load(tmp_path / "model", LINEAR).encoder.weight.dtype == jnp.bfloat16


def test_whole_numbers_of_active_codes_come_back(tmp_path):
    encoder = encoders.top_k(M, N, num_active=None)
    params = encoder.init(KEY)._replace(num_active=jnp.int32(3))
    training.save(tmp_path / "model", training.Autoencoder(params, DICTIONARY))
    assert training.load(tmp_path / "model", encoder).encoder.num_active == 3


@pytest.mark.parametrize("name", ["encoder.weight", "encoder.bias", "dictionary", "bias"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: np.where(x == x.flat[-1], np.nan, x), "numbers that are not finite"),
        (lambda x: np.where(x == x.flat[-1], -np.inf, x), "numbers that are not finite"),
        (lambda x: np.full(x.shape, 1e300), "numbers that are not finite"),  # in float32
        (lambda x: x.astype("int8"), "int8 values"),
        (lambda x: x.astype(bool), "bool values"),
        (lambda x: x.astype("complex64"), "complex64 values"),
        (lambda x: x.astype(str), "<U32 values"),
    ],
    ids=["nan", "infinite", "too large", "int8", "bool", "complex64", "text"],
)
def test_weights_that_are_not_finite_real_floats_are_refused(tmp_path, change, said, name):
    training.save(tmp_path / "model", fit(bias="mean").params)
    arrays, _ = io.load_results(tmp_path / "model")
    io.save_results(tmp_path / "model", {**arrays, name: change(arrays[name])}, {})
    message = rf"^load: .*model holds {said} in {name}; finite real floats are expected\. .*"
    with pytest.raises(ValueError, match=message) as caught:
        training.load(tmp_path / "model", LINEAR)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("said", [3, None, True, "weight"])
def test_a_manifest_that_says_something_else_is_refused(tmp_path, said):
    training.save(tmp_path / "model", fit().params)
    arrays, _ = io.load_results(tmp_path / "model")
    io.save_results(tmp_path / "model", arrays, {"bfloat16": said})
    with pytest.raises(ValueError, match=r"^load: the manifest of .* a list of names is expected"):
        training.load(tmp_path / "model", LINEAR)


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_weights_of_other_floats_are_read(tmp_path, dtype):
    training.save(tmp_path / "model", fit().params)
    arrays, _ = io.load_results(tmp_path / "model")
    arrays["encoder.weight"] = arrays["encoder.weight"].astype(dtype)
    io.save_results(tmp_path / "model", arrays, {})
    weight = training.load(tmp_path / "model", LINEAR).encoder.weight
    np.testing.assert_array_equal(weight, arrays["encoder.weight"])
    assert weight.dtype == {"float16": "float16"}.get(dtype, "float32")


@pytest.mark.parametrize(
    "change",
    [
        {"dictionary": jnp.ones((N + 1, M))},
        {"dictionary": jnp.ones((N, M + 1))},
        {"dictionary": jnp.ones((3, N, M))},
        {"bias": jnp.ones(M - 1)},
        {"bias": jnp.ones((2, M))},
    ],
)
def test_a_decoder_that_does_not_fit_the_encoder_is_refused(tmp_path, change):
    params = fit(bias="mean").params
    training.save(tmp_path / "model", params._replace(**change))
    with pytest.raises(ValueError, match=f"holds a {next(iter(change))} of shape"):
        training.load(tmp_path / "model", LINEAR)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": None}, "num_steps is not given"),
        ({"num_steps": training.MaxFlops(10.0)}, "at least one step is expected to fit"),
        ({"resample_every": 5}, "resample_every without dead_after"),
        (
            {"resample_every": 5, "dead_after": 3, "encoder": encoders.mlp(M, N)},
            "roles say where the direction",
        ),
        ({"average_decay": 1.5}, "average_decay is 1.5"),
        ({"frequency_decay": 1.0}, "frequency_decay is 1.0"),
        ({"active_schedule": schedules.linear(3, first=2.0)}, "no number of active codes among"),
        ({"penalty_schedule": lambda step: jnp.ones(2)}, "penalty_schedule gives"),
        ({"loss": losses.matryoshka((4, N), by_frequency=True)}, "pass frequency_decay"),
        ({"dead_after": 0}, "dead_after is 0"),
        ({"signals": iter([])}, "the stream of signals is empty"),
        ({"signals": iter([np.ones(M)])}, r"has shape \(8,\); \(B, M\)"),
        ({"signals": iter([SIGNALS]), "batch_size": 4}, "stream of batches"),
        ({"loss": losses.aux_k(num_aux=2)}, "give fit a Recipe with dead_after"),
        ({"dictionary": DICTIONARY, "unit_atoms": False}, "a dictionary that is not learned"),
        ({"dictionary": DICTIONARY, "num_atoms": N}, "both num_atoms= .* and a fixed_dictionary"),
        ({"dictionary": DICTIONARY, "params0": PARAMS}, "both a dictionary to learn and a fixed"),
        ({"bias": "median"}, "the bias in the model is 'median'"),
        ({"params0": PARAMS._replace(bias=jnp.zeros(1))}, r"bias in the model has shape \(1,\)"),
        ({"params0": PARAMS, "num_atoms": 5}, r"shape \(16, 8\); \(5, 8\)"),
        ({"params0": PARAMS._replace(dictionary=0 * DICTIONARY)}, "16 zero atoms"),
        ({"key": jax.random.split(KEY, 0)}, "keys of shape"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        fit(**{"num_steps": 3, **options})


def test_an_optimizer_that_was_built_already():
    with pytest.raises(TypeError, match="such as optax.adam itself"):
        fit(optimizer=optax.adam(1e-3))


def test_what_is_no_recipe_and_no_model():
    with pytest.raises(TypeError, match="the recipe is a dict; a Recipe is expected"):
        training.fit(KEY, LINEAR, SIGNALS, num_atoms=N, num_steps=1, recipe={"batch_size": 3})
    with pytest.raises(TypeError, match="the model is a dict; a Model or an Autoencoder"):
        training.fit(KEY, LINEAR, SIGNALS, num_atoms=N, num_steps=1, model={"dictionary": 3})


def test_fit_has_few_parameters_and_the_librarys_objective():
    assert len(inspect.signature(training.fit).parameters) <= 15
    assert training.Recipe().loss is losses.lasso


def test_a_factory_that_was_not_called():
    with pytest.raises(TypeError, match="fit: got a factory that was not called"):
        fit(encoder=encoders.linear)


def test_checkpoints_of_other_settings_are_refused(tmp_path):
    fit(encoder=TOP_K, checkpoint=tmp_path / "run")
    for other in (
        {"encoder": encoders.top_k(M, N, num_active=4)},
        {"encoder": TOP_K, "optimizer": optax.adamw},
        {"encoder": TOP_K, "optimizer": schedules.scheduled(optax.adam, schedules.warmup(3))},
    ):
        with pytest.raises(ValueError, match="belongs to another run"):
            fit(checkpoint=tmp_path / "run", **other)
    fit(checkpoint=tmp_path / "plain")
    with pytest.raises(ValueError, match="belongs to another run"):
        fit(encoder=encoders.tied(LINEAR), checkpoint=tmp_path / "plain")

    def sampler(signals):
        return lambda key, step: signals

    fit(signals=sampler(SIGNALS), checkpoint=tmp_path / "drawn")
    with pytest.raises(ValueError, match="belongs to another run"):
        fit(signals=sampler(2 * SIGNALS), checkpoint=tmp_path / "drawn")

    def through(name):  # functions of one name that call others
        return {
            "lasso": lambda codes, batch: losses.lasso(codes, batch),
            "squared": lambda codes, batch: losses.squared_error(codes, batch),
            "pair": lambda codes, batch: losses.lasso(codes, batch) * (0.1, 0.2)[0],
            "other pair": lambda codes, batch: losses.lasso(codes, batch) * (0.3, 0.2)[0],
        }[name]

    class Weighted:
        def __init__(self, weight):
            self.weight = weight

        def loss(self, codes, batch):
            return self.weight * losses.lasso(codes, batch)

    def keyword(weight):
        return lambda codes, batch, *, weight=weight: weight * losses.lasso(codes, batch)

    for name, one, other in (
        ("methods", Weighted(0.1).loss, Weighted(0.2).loss),
        ("keywords", keyword(0.1), keyword(0.2)),
    ):
        fit(loss=one, checkpoint=tmp_path / name)
        with pytest.raises(ValueError, match="belongs to another run"):
            fit(loss=other, checkpoint=tmp_path / name)
    for one, other in (("lasso", "squared"), ("pair", "other pair")):
        fit(loss=through(one), checkpoint=tmp_path / one)
        fit(loss=through(one), checkpoint=tmp_path / one)
        with pytest.raises(ValueError, match="belongs to another run"):
            fit(loss=through(other), checkpoint=tmp_path / one)
    fit(encoder=TOP_K, penalty_schedule=schedules.warmup(3), checkpoint=tmp_path / "warm")
    with pytest.raises(ValueError, match="belongs to another run"):
        fit(encoder=TOP_K, penalty_schedule=schedules.warmup(4), checkpoint=tmp_path / "warm")
