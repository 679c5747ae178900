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


def fit(key=KEY, encoder=LINEAR, signals=SIGNALS, **kwargs):
    if not {"dictionary", "num_atoms", "params0"} & kwargs.keys():
        kwargs["num_atoms"] = N
    if not {"num_steps", "max_flops"} & kwargs.keys():
        kwargs["num_steps"] = 12
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
