"""What the compiled programs of whole calls gather between devices: no signals, codes or runs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import sparsecode_jax as sc
from sparsecode_jax import dictionary_learning, encoders, metrics, solvers, training

from .conftest import gathers, mesh_of, put
from .test_inference import CALLS, lasso
from .test_runs import KEYS, PENALTIES, score

pytestmark = pytest.mark.full_effort

ENCODER = encoders.top_k(16, 24, num_active=3)
BY_BATCH = encoders.batch_top_k(16, 24, num_active=3)
OPTIONS = {"num_atoms": 24, "progress": None}
TRAINING = {"num_steps": 3, "recipe": training.Recipe(batch_size=16), **OPTIONS}
LEARNING = {"num_restarts": 1, "num_hops": 0, "num_rounds": 3, **OPTIONS}
PURSUIT = solvers.orthogonal_matching_pursuit(3)


def total(codes):
    return jnp.sum(codes, axis=-1)


def encoded(seed, penalty):
    """Return more numbers than may be gathered."""
    problem = sc.synthetic.sample_problem(seed, 3, num_samples=16, num_measurements=8, num_atoms=12)
    return sc.sparse_encode(problem.signals, problem.dictionary, penalty, num_steps=2)


# Of signals x (64, 16), codes z (64, 24) and keys of runs r (8,), all split over eight devices.
OF_WHAT_IS_SPLIT = {
    **{name: lambda d, x, z, r, call=call: call(x, d) for name, call in CALLS.items()},
    "pursuit": lambda d, x, z, r: solvers.solve(PURSUIT, lasso(x, d), num_steps=3),
    "trajectory": lambda d, x, z, r: solvers.trajectory(
        solvers.fista(), lasso(x, d), num_steps=4, record=total
    ),
    "sweep": lambda d, x, z, r: sc.sweep(score, seed=r, penalty=PENALTIES),
    "sweep in chunks": lambda d, x, z, r: sc.sweep_chunked(
        encoded, seed=r, penalty=PENALTIES, chunk_size=8, progress=None
    ),
    "training of runs": lambda d, x, z, r: training.fit(r, ENCODER, jax.device_get(x), **TRAINING),
    "training on signals": lambda d, x, z, r: training.fit(KEYS[0], ENCODER, x, **TRAINING),
    "learner": lambda d, x, z, r: dictionary_learning.learn_dictionary(KEYS[0], x, **LEARNING),
    "online learner": lambda d, x, z, r: dictionary_learning.learn_dictionary_online(
        KEYS[0], [x] * 2, **OPTIONS
    ),
    "encoder": lambda d, x, z, r: ENCODER.apply(ENCODER.init(KEYS[0]), x),
    "encoder of batches": lambda d, x, z, r: BY_BATCH.apply(BY_BATCH.init(KEYS[0]), x),
    "sparse codes": lambda d, x, z, r: sc.SparseCodes.from_dense(z, num_active=3),
    "round": lambda d, x, z, r: dictionary_learning.alternate(x, d, np.full(2, 0.05), num_steps=3),
    "mcc": lambda d, x, z, r: metrics.mcc(z, z),
    "r2": lambda d, x, z, r: metrics.r2(z, z),
    "l0": lambda d, x, z, r: metrics.l0(z),
    "dead_fraction": lambda d, x, z, r: metrics.dead_fraction(z),
    "mse": lambda d, x, z, r: metrics.mse(x, x),
    "shrinkage": lambda d, x, z, r: metrics.shrinkage(x, x),
    "latent_correlation": lambda d, x, z, r: metrics.latent_correlation(z, z),
    "latent_f1": lambda d, x, z, r: metrics.latent_f1(z, z, true_dictionary=d, dictionary=d),
}


def gathered_by(call):
    """Return the shapes that are gathered in any program which a call compiles."""
    jax.clear_caches()
    client = jax.devices()[0].client
    others = {id(program) for program in client.live_executables()}
    kept = call()  # noqa: F841, so that its programs stay
    programs = [p for p in client.live_executables() if id(p) not in others]
    texts = [module.to_string() for p in programs for module in p.hlo_modules()]
    assert texts
    return set().union(*map(gathers, texts))


EXPLICIT = "steps", "tolerance", "slots", "sparse codes", "round"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("automatic", name) for name in OF_WHAT_IS_SPLIT),
        *(("explicit", name) for name in EXPLICIT),
    ],
)
def test_at_most_one_number_per_signal_is_gathered(data, kind, name):
    mesh = mesh_of(kind, signals=8)
    split = (put(x, mesh, "signals") for x in (data.signals, data.codes, KEYS))
    found = gathered_by(lambda: OF_WHAT_IS_SPLIT[name](data.dictionary, *split))
    assert all(math.prod(shape) <= 64 for shape in found), found


def test_what_is_gathered_is_seen(data):
    mesh = mesh_of("automatic", signals=8)
    signals = put(data.signals, mesh, "signals")
    whole = NamedSharding(mesh, PartitionSpec())
    assert gathered_by(lambda: jax.jit(jnp.sin, out_shardings=whole)(signals)) == {(64, 16)}
