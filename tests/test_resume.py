"""Training in chunks and from checkpoints: bit by bit what an uninterrupted run gives."""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsecode_jax as sc
from sparsecode_jax import encoders
from sparsecode_jax.io import _identity
from sparsecode_jax.training import _programs, losses

from .contracts import M, N
from .training_settings import (
    DICTIONARY,
    KEY,
    SIGNALS,
    assert_same_bits,
    each_setting,
    fit,
    fit_module,
    identity,
)

# --- chunks --------------------------------------------------------------------------------------


@each_setting
def test_results_do_not_depend_on_where_a_run_is_cut(setting, monkeypatch):
    straight = fit(num_steps=50, **setting)
    recorded = fit(num_steps=50, record=identity, record_steps=[0, 1, 2, 3, 9, 31, 50], **setting)
    assert_same_bits(straight.state, recorded.state)
    assert_same_bits(straight.params, recorded.params)
    monkeypatch.setattr(fit_module, "_CHUNK_SECONDS", 0.0)  # single steps
    assert_same_bits(straight.state, fit(num_steps=50, **setting).state)
    monkeypatch.setattr(fit_module, "_CHUNK_SECONDS", 1e9)  # chunks of 1, 10, 39
    assert_same_bits(straight.state, fit(num_steps=50, **setting).state)


def test_other_numbers_compile_nothing(compilations):
    def run(keys, scale, num_steps):
        fit(
            keys,
            num_steps=num_steps,
            penalty=0.1 * scale,
            learning_rate=0.01 * scale,
            signals=scale * SIGNALS,
            dictionary=scale * DICTIONARY,
            batch_size=7,
            record=identity,
            record_steps=[0, 3, num_steps],
        )

    keys, others = jax.random.split(KEY, 2), jax.random.split(jax.random.key(1), 2)
    run(keys, 1, 15)
    assert compilations.count > 0
    compilations.count = 0
    run(keys, 2, 15)
    run(others, 3, 40)
    assert compilations.count == 0


# --- checkpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [KEY, jax.random.split(KEY, 2)], ids=["one_run", "two_runs"])
@each_setting
def test_a_longer_run_continues_bit_by_bit(setting, runs, tmp_path):
    kwargs = {"record": identity, "record_steps": [0, 10, 30], **setting}
    fit(runs, num_steps=30, checkpoint=tmp_path / "c", **kwargs)
    resumed = fit(runs, num_steps=60, checkpoint=tmp_path / "c", **kwargs)
    straight = fit(runs, num_steps=60, **kwargs)
    assert_same_bits(resumed, straight)
    again = fit(runs, num_steps=60, checkpoint=tmp_path / "c", **kwargs)
    assert_same_bits(again, straight)


class Interrupted(BaseException):
    """Stands for a Ctrl-C that arrives between two chunks."""


@pytest.mark.parametrize("stop", [1, 10, 33, 59])
def test_an_interrupted_run_continues_bit_by_bit(stop, tmp_path, monkeypatch):
    kwargs = {
        "num_steps": 60,
        "batch_size": 7,
        "record": identity,
        "record_steps": [0, 10, 33, 34, 60],
    }
    straight = fit(**kwargs)
    trained, interrupted = [], []

    def run(state, curve, data, done, length, every, **static):
        if sum(trained) == stop and not interrupted:
            interrupted.append(stop)
            raise Interrupted
        trained.append(length)
        return original(state, curve, data, done, length, every, **static)

    original = _programs.run
    monkeypatch.setattr(_programs, "run", run)
    monkeypatch.setattr(fit_module, "_CHUNK_SECONDS", 0.0)  # single steps
    with pytest.raises(Interrupted):
        fit(checkpoint=tmp_path / "c", **kwargs)
    assert sum(trained) == stop
    resumed = fit(checkpoint=tmp_path / "c", **kwargs)
    assert sum(trained) == 60  # nothing was trained twice
    assert_same_bits(resumed, straight)


CHILD = """
import functools, sys
import jax, numpy as np, optax
from sparsecode_jax import dictionary_learning, encoders, training
from sparsecode_jax.io import runs
fit_module = sys.modules["sparsecode_jax.training.fit"]
runs.SAVE_SECONDS = 0.02
fit_module._CHUNK_SECONDS = 0.01
training.fit(
    jax.random.split(jax.random.key(0), 2), encoders.linear(8, 16), np.load(sys.argv[1]),
    num_atoms=16, num_steps=int(sys.argv[3]), learning_rate=0.01, progress=None,
    checkpoint=sys.argv[2],
    recipe=training.Recipe(training.losses.paper, {optimizer}, batch_size=7),
)
"""


def start_child(tmp_path, optimizer, num_steps):
    np.save(tmp_path / "signals.npy", SIGNALS)
    root = pathlib.Path(sc.__file__).parents[1]
    program = CHILD.format(optimizer=optimizer)
    arguments = [str(tmp_path / "signals.npy"), str(tmp_path / "c"), str(num_steps)]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def steps_in(checkpoint):
    """The steps of a checkpoint, which is replaced in one stroke; 0 if there is none yet."""
    if not checkpoint.exists():
        return 0
    with np.load(checkpoint) as content:
        return int(np.max(content["0"]))


def test_a_killed_run_continues_bit_by_bit(tmp_path):
    num_steps = 20_000
    child = start_child(tmp_path, "optax.adam", num_steps)
    try:
        deadline = time.monotonic() + 120
        while steps_in(tmp_path / "c") == 0 and time.monotonic() < deadline:
            assert child.poll() is None
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    keys = jax.random.split(KEY, 2)
    kwargs = {"num_steps": num_steps, "batch_size": 7}
    left = [p for p in tmp_path.iterdir() if p.name.startswith("c")]
    assert tmp_path / "c" in left  # and perhaps a temporary file that the kill left
    assert 0 < steps_in(tmp_path / "c") < num_steps
    resumed = fit(keys, checkpoint=tmp_path / "c", **kwargs)
    assert_same_bits(resumed, fit(keys, **kwargs))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "signals.npy"]


def test_a_partial_optimizer_resumes_in_another_process(tmp_path):
    optimizer = "functools.partial(optax.adam, b1=0.5)"
    child = start_child(tmp_path, optimizer, 20)
    assert child.wait(timeout=120) == 0
    keys = jax.random.split(KEY, 2)
    kwargs = {"batch_size": 7, "optimizer": functools.partial(optax.adam, b1=0.5), "num_steps": 40}
    resumed = fit(keys, checkpoint=tmp_path / "c", **kwargs)
    assert_same_bits(resumed, fit(keys, **kwargs))


SCALE = 2.0


def scaled(x):
    return SCALE * x


def test_programs_are_known_by_what_they_compute(monkeypatch):
    program, x = _identity.program_of, jnp.ones(3)

    def held(array):
        return lambda x: jax.lax.scan(lambda c, a: (c * a, c), x, array)[0]

    many = np.arange(2000.0).reshape(-1, 1)  # in full, though it is not printed so
    more = many + (many == 1000)
    named = [
        program(held(many), x),
        program(held(more), x),
        program(jnp.exp, x),
        program(jnp.exp, jnp.ones(4)),
        program(lambda x: jnp.exp(x) + 1, x),
        program(jax.jit(held(many)), x),
        program(lambda x: scaled(x), x),
    ]
    assert len(set(named)) == len(named)
    assert program(held(many.copy()), x) == named[0]
    assert program(lambda y: jnp.exp(y), x) == named[2]  # whatever it is called
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 3.0)
    assert program(lambda x: scaled(x), x) != named[-1]  # what a global name stands for


def test_host_callbacks_are_known_by_their_code_and_what_they_hold():
    def program(function):
        return _identity.program_of(lambda x: jax.pure_callback(function, x, x), jnp.ones(3))

    def times(factor):
        return lambda x: x * factor

    array = np.arange(4.0)
    functions = (
        np.sin, np.cos, lambda x: np.sin(x), lambda x: np.cos(x), times(2.0), times(3.0),
        times(array[:1]), times(array[1:2]), functools.partial(np.power, 2),
        functools.partial(np.power, 3),
    )  # fmt: skip
    found = list(map(program, functions))
    assert len(set(found)) == len(found)
    assert program(times(2.0)) == program(times(2.0)) == found[4]

    def counting(last):
        def down(x):
            return down(x - 1) if x[0] > last else x

        return down

    assert program(counting(1)) == program(counting(1)) != program(counting(2))

    def in_a_loop(function):
        def step(carry, _):
            return jax.pure_callback(function, carry, carry), None

        return _identity.program_of(lambda x: jax.lax.scan(step, x, None, 2), jnp.ones(3))

    assert in_a_loop(times(2.0)) == in_a_loop(times(2.0)) != in_a_loop(times(3.0))


def test_a_run_is_named_alike_in_every_process():
    """No address of an object may enter its identity."""
    program = """
import jax, jax.numpy as jnp, sparsecode_jax as sc
from sparsecode_jax.io._identity import program_of
layers = [jax.nn.relu, lambda x: sc.sparse_encode(x, jnp.eye(3), 0.1, tolerance=1e-3)]
derivative = jax.grad(lambda x: layers[1](x).sum())
small = lambda x: x if x.dtype.name in {"float32", "float64", "int8"} else 2 * x
host = lambda x: jax.pure_callback(small, x, x)
fns = *layers, derivative, jnp.linalg.qr, host
print([program_of(fn, jnp.ones((2, 3))) for fn in fns])
"""
    said = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert said[0].stdout == said[1].stdout and said[0].stdout


@pytest.mark.parametrize(
    "other",
    [
        {"key": jax.random.key(1)},
        {"signals": SIGNALS + 1e-6},
        {"learning_rate": 0.02},
        {"penalty": 0.02},
        {"batch_size": 8},
        {"optimizer": optax.sgd},
        {"optimizer": functools.partial(optax.adam, b1=0.5)},
        {"loss": losses.lasso},
        {"encoder": encoders.linear(M, N, use_bias=False)},
        {"encoder": encoders.mlp(M, N, hidden=())},
        {"record": identity, "record_steps": [3]},
        {"dictionary": DICTIONARY},
        {"key": jax.random.split(KEY, 2)},
        {"resample_every": 2, "dead_after": 1},
    ],
    ids=lambda other: "-".join(other),
)
def test_a_checkpoint_of_another_run_is_refused_and_left(other, tmp_path):
    named = {"optimizer": "training step", "loss": "training step", "encoder": "initial parameters"}
    name = next(iter(other))
    fit(num_steps=3, batch_size=7, checkpoint=tmp_path / "c")
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(
        ValueError, match=f"fit: .*c belongs to another run .*{named.get(name, name)}"
    ):
        fit(**{"num_steps": 3, "batch_size": 7, "checkpoint": tmp_path / "c", **other})
    assert (tmp_path / "c").read_bytes() == before


def test_a_checkpoint_beyond_the_last_step_is_refused(tmp_path):
    fit(num_steps=30, checkpoint=tmp_path / "c")
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(ValueError, match=r"fit: .*30"):
        fit(num_steps=10, checkpoint=tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == before


def test_a_file_that_is_no_checkpoint_is_refused_and_left(tmp_path):
    (tmp_path / "c").write_bytes(b"precious")
    with pytest.raises(ValueError, match="c is not a checkpoint"):
        fit(checkpoint=tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"precious"
