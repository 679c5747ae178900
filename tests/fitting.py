"""What the tests of training share: data, and a short fit with defaults of its own."""

import jax
import jax.numpy as jnp

from sparsecode_jax import encoders, training
from sparsecode_jax.training import Autoencoder, losses

from .contracts import M, N, sparse_problem

KEY = jax.random.key(0)
LINEAR = encoders.linear(M, N)
TOP_K = encoders.top_k(M, N, num_active=3)
SIGNALS, DICTIONARY, CODES = sparse_problem()


def arguments(signals, kwargs):
    """Sort flat options into what ``fit`` takes: a model, a recipe, signals with their codes."""
    kwargs = dict(kwargs)
    parts = {"fixed_dictionary": kwargs.pop("dictionary", None), "bias": kwargs.pop("bias", None)}
    start = kwargs.pop("params0", None)
    if start is not None:
        parts |= {k: v for k, v in start._asdict().items() if v is not None}
    kwargs["model"] = training.Model(**parts)
    recipe = {name: kwargs.pop(name) for name in training.Recipe._fields if name in kwargs}
    kwargs["recipe"] = training.Recipe(**{"loss": losses.paper, **recipe})
    codes = kwargs.pop("true_codes", None)
    return (signals if codes is None else (signals, codes)), kwargs


def fit(key=KEY, encoder=LINEAR, signals=SIGNALS, **kwargs):
    if not {"dictionary", "num_atoms", "params0"} & kwargs.keys():
        kwargs["num_atoms"] = N
    signals, kwargs = arguments(signals, {"num_steps": 12, **kwargs})
    return training.fit(
        key, encoder, signals, **{"learning_rate": 0.01, "progress": None, **kwargs}
    )


def by_hand(num_steps, *, params, update, loss=losses.paper, encoder=LINEAR):
    """Train with a loop of our own: ``update(gradients, params, step) -> params``."""
    history = [params]
    for step in range(num_steps):
        atoms = params.dictionary / jnp.linalg.norm(params.dictionary, axis=1, keepdims=True)
        params = params._replace(dictionary=atoms)

        def objective(p):
            batch = losses.Batch(SIGNALS, p.dictionary, jnp.float32(0.01), None, p.bias)
            return loss(encoder.apply(p.encoder, SIGNALS), batch)

        params = update(jax.grad(objective)(params), params, step)
        history.append(params)
    return history


def start():
    return fit(num_steps=0).params


PARAMS = Autoencoder(LINEAR.init(KEY), jnp.asarray(DICTIONARY))


def unit(params):
    atoms = params.dictionary / jnp.linalg.norm(params.dictionary, axis=1, keepdims=True)
    return params._replace(dictionary=atoms)
