"""Runs that are killed again and again, or race: ``python -m tests.kills TASK FOLDER``.

The process imports everything and starts no device; each run is a fork of it. A run that is to be
killed dies by SIGKILL at some operation on files, before or after it: inside a write, between two
files of a result, inside the deletion of what is over. The next run goes on from what it left.
"""

import contextlib
import importlib
import json
import os
import pathlib
import random
import signal
import sys
import time

import jax
import numpy as np

import sparsecode_jax as sc
from sparsecode_jax import encoders
from sparsecode_jax.cli import main
from sparsecode_jax.cli.outputs import Output
from sparsecode_jax.io import runs

fit_module = importlib.import_module("sparsecode_jax.training.fit")
search = importlib.import_module("sparsecode_jax.dictionary_learning.search")
for command in ("encode", "learn"):  # once, and not in every fork
    importlib.import_module(f"sparsecode_jax.cli.{command}")
OPERATIONS = ("fsync", "replace", "unlink", "rmdir")
SIGNALS = np.random.default_rng(0).normal(size=(160, 6)).astype(np.float32)
KEY = 0


def train(checkpoint="run"):
    keys = jax.random.split(jax.random.key(KEY), 2)
    found = sc.training.fit(
        keys, encoders.linear(6, 9), SIGNALS, num_atoms=9, num_steps=60,
        recipe=sc.training.Recipe(batch_size=7), checkpoint=checkpoint, progress=None,
        record=lambda p: p.dictionary, record_steps=[0, 10, 60],
    )  # fmt: skip
    return {"dictionary": found.params.dictionary, "records": found.records}


def learn(checkpoint="run"):
    found = sc.dictionary_learning.learn_dictionary(
        jax.random.key(KEY), SIGNALS, num_atoms=9, num_rounds=20, num_restarts=2, num_hops=2,
        checkpoint=checkpoint, progress=None,
    )  # fmt: skip
    return {name: value for name, value in found._asdict().items() if value is not None}


def online(checkpoint="run"):
    found = sc.dictionary_learning.learn_dictionary_online(
        jax.random.key(KEY), SIGNALS.reshape(16, 10, 6), num_atoms=9, num_steps=5,
        checkpoint=checkpoint, progress=None,
    )  # fmt: skip
    return {"dictionary": found.dictionary, "objectives": found.objectives}


def improved(checkpoint="run"):
    params = encoders.top_k(6, 9, num_active=2).init(jax.random.key(KEY))
    sae = sc.io.as_sae(encoders.top_k(6, 9, num_active=2), params, SIGNALS[:9] / 3)
    found = sc.improve(sae, SIGNALS, num_steps=[2], checkpoint=checkpoint, progress=None)
    return {"r2": found.r2, "l0": found.l0, "flops": np.asarray(found.flops, np.float64)}


def sweep(checkpoint="run"):
    def fn(a, b):
        return {"sum": jax.numpy.sin(a) + b, "product": a * b}

    axes = {"a": np.arange(7.0), "b": np.arange(5.0)}
    return sc.sweep_chunked(fn, chunk_size=4, checkpoint=checkpoint, progress=None, **axes)


def measured(checkpoint="run"):
    from experiments import common

    def measure(case):
        return {"square": float(np.square(SIGNALS[:case]).sum())}

    cases = [(case,) for case in range(3, 12)]
    out = pathlib.Path(checkpoint or "unkept")
    done = common.measured("squares", cases, KEY, measure, out)
    return {str(case): value["square"] for case, value in done.items()}


def shell(*words):
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        code = main(["--quiet" if word is None else str(word) for word in words])
    if code:
        raise SystemExit(code)


def encoded(checkpoint="codes"):
    name = checkpoint or "alone"
    shell("encode", "signals.npy", "--dictionary", "d.npy", "--penalty", 0.1, "--batch-size", 40,
          "--overwrite", "--output", name, None)  # fmt: skip
    return contents(name)


def learned(checkpoint="learned"):
    name = checkpoint or "alone"
    shell("learn", "signals.npy", "--num-atoms", 9, "--num-rounds", 20, "--num-restarts", 2,
          "--num-hops", 2, "--overwrite", "--output", name, None)  # fmt: skip
    return contents(name)


def contents(name):
    """Return the arrays of a result; its figure and manifest are there too."""
    arrays, _ = sc.io.load_results(name)
    assert pathlib.Path(f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return arrays


TASKS = {f.__name__: f for f in (train, learn, online, improved, sweep, measured, encoded, learned)}


def forked(action):
    """Run ``action()`` in a fork; return its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        runs.SAVE_SECONDS, runs._SAVE_SHARE = -1.0, 0
        fit_module._CHUNK_SECONDS = search._CHUNK_SECONDS = 0.0
        action()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def ended(child):
    """Wait for a process; return its exit code, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def bomb(fuse, late):
    """Let this process die at an operation on files, after so many of them."""
    left = [fuse]

    def wrap(original):
        def run(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0 and not late:
                os.kill(os.getpid(), signal.SIGKILL)
            done = original(*args, **kwargs)
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return run

    for name in OPERATIONS:
        setattr(os, name, wrap(getattr(os, name)))


def save(task, name, checkpoint):
    np.savez(name, **{k: np.asarray(v) for k, v in TASKS[task](checkpoint).items()})


def killed(task, least):
    """Kill a task until it has died often enough, let it finish, and compare."""
    folder = pathlib.Path()
    np.save("signals.npy", SIGNALS)
    np.save("d.npy", np.random.default_rng(1).normal(size=(9, 6)).astype(np.float32))
    where = {"encoded": "codes", "learned": "learned"}.get(task, "run")
    assert ended(forked(lambda: save(task, "expected.npz", None))) == 0
    before = {}
    if task in ("encoded", "learned"):  # an earlier result, which is replaced at once
        other = {"encoded": ["encode", "signals.npy", "--dictionary", "d.npy", "--penalty", 0.3],
                 "learned": ["learn", "signals.npy", "--num-atoms", 3]}[task]  # fmt: skip
        assert ended(forked(lambda: shell(*other, "--output", where, None))) == 0
        before = {p.name: p.read_bytes() for p in folder.glob(f"{where}.*")}
    rng, kills, finished, lost = random.Random(7), 0, 0, []
    while kills < least:
        fuse, late = rng.randint(1, 9 if before else 5), rng.random() < 0.5

        def run(fuse=fuse, late=late):
            bomb(fuse, late)
            save(task, "found.npz", where)

        code = ended(forked(run))
        kills += code == -signal.SIGKILL
        finished += code == 0
        if code not in (0, -signal.SIGKILL):
            lost.append(f"exit {code}")
            break
        if before and not finished and not journal(where):
            now = {p.name: p.read_bytes() for p in folder.glob(f"{where}.*") if p.is_file()}
            now.pop(f"{where}.partial.lock", None)
            if now != before and not complete(where):
                lost.append(sorted(now))
        if code == 0:  # anew
            clean(folder, where, before)
    assert ended(forked(lambda: save(task, "found.npz", where))) == 0
    same = equal("expected.npz", "found.npz")
    swaps = 0
    # While the result takes its places: at every operation, or at three of them in a short run.
    for fuse in range(1, 10, 1 if least >= 10 else 4) if before else ():
        clean(folder, where, before)

        def run(fuse=fuse):
            publish = Output.publish

            def armed(self):
                bomb(fuse, fuse % 2)
                return publish(self)

            Output.publish = armed
            save(task, "found.npz", where)

        code = ended(forked(run))
        swaps += code == -signal.SIGKILL
        now = {p.name: p.read_bytes() for p in folder.glob(f"{where}.*") if p.is_file()}
        now.pop(f"{where}.partial.lock", None)
        if now != before and not journal(where) and not complete(where):
            lost.append(sorted(now))
        # Any command finishes the swap, whatever it is told.
        ended(forked(lambda: shell("learn", "signals.npy", "--num-atoms", 5, "--output", where)))
        if journal(where):
            lost.append("a swap that nobody finished")
        assert ended(forked(lambda: save(task, "found.npz", where))) == 0
        same &= equal("expected.npz", "found.npz")
    left = sorted(p.name for p in folder.rglob("*") if p.suffix in (".new", ".lock", ".partial"))
    return {
        "kills": kills, "swaps": swaps, "finished": finished, "same": bool(same), "left": left,
        "lost": lost,
    }  # fmt: skip


def equal(one, other):
    """Compare two files of arrays to the bit."""
    one, other = (dict(np.load(name)) for name in (one, other))
    return one.keys() == other.keys() and all(
        np.array_equal(one[k], other[k], equal_nan=one[k].dtype.kind == "f") for k in one
    )


def journal(name):
    return pathlib.Path(f"{name}.partial/publish.json").exists()


def complete(name):
    """Say whether the new result is there, whole."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        arrays, manifest = sc.io.load_results(name)
        return manifest.get("penalty") == 0.1 or manifest.get("num_atoms") == 9
    return False


def clean(folder, where, before):
    """Put things as they were before the first run."""
    import shutil

    for path in folder.glob(f"{where}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, data in before.items():
        (folder / name).write_bytes(data)


# Two runs that race differ in a number; each writes so slowly that the other one finds it at work.
RACES = {
    "encode": (["--dictionary", "d.npy", "--batch-size", 40, "--penalty"], (0.5, 0.01), 0.5),
    "learn": (["--num-atoms", 9, "--num-rounds", 10, "--num-restarts", 2, "--num-hops", 1,
               "--seed"], (0, 1), 0.05),
}  # fmt: skip


def raced(task, offsets):
    """Start two runs with one output, some time apart, in both orders; return what they said."""
    np.save("signals.npy", SIGNALS)
    np.save("d.npy", np.random.default_rng(1).normal(size=(9, 6)).astype(np.float32))
    words, numbers, seconds = RACES[task]

    def run(number, name):
        def action():
            with open(f"{name}-{number}.err", "w") as file, contextlib.redirect_stderr(file):
                shell(task, "signals.npy", *words, number, "--no-figure", "--output", name, None)

        return forked(action)

    for number in numbers:
        assert ended(run(number, f"alone{number}")) == 0
    save_, runs.Run.save = runs.Run.save, lambda *a, **k: (time.sleep(seconds), save_(*a, **k))
    said = []
    for offset in offsets:
        for first, second in (numbers, numbers[::-1]):
            name = f"raced-{offset}-{first}"
            one = run(first, name)
            time.sleep(offset)
            two = run(second, name)
            codes = {first: (ended(one), one), second: (ended(two), two)}
            winner = min(codes, key=lambda number: codes[number][0])
            loser = second if winner == first else first
            message = pathlib.Path(f"{name}-{loser}.err").read_text()
            said.append({
                "offset": offset,
                "codes": [codes[winner][0], codes[loser][0]],
                "first won": winner == first,
                "named": f"process {codes[winner][1]} on" in message and message.count("\n") == 1,
                "same": equal(f"{name}.npz", f"alone{winner}.npz"),
                "left": [p.name for p in pathlib.Path().glob(f"{name}.partial*")],
            })  # fmt: skip
    return said


def raced_checkpoint(task):
    """Start two runs with one checkpoint; return what the second said."""

    def slow(self, *args, **kwargs):
        time.sleep(0.1)
        return keep(self, *args, **kwargs)

    def second():
        with open("second.err", "w") as file, contextlib.redirect_stderr(file):
            try:
                TASKS[task]("run")
            except sc.io.BusyError as error:
                print(error, file=file)
                raise SystemExit(2) from None

    keep, runs.Run.keep = runs.Run.keep, slow
    save_, runs.Run.save = runs.Run.save, lambda *a, **k: (time.sleep(0.1), save_(*a, **k))
    one = forked(lambda: save(task, "found.npz", "run"))
    while not list(pathlib.Path().glob("run*")):
        time.sleep(0.01)
    time.sleep(0.5)
    codes = ended(forked(second)), ended(one)
    runs.Run.keep, runs.Run.save = keep, save_
    assert ended(forked(lambda: save(task, "expected.npz", None))) == 0
    same = equal("expected.npz", "found.npz")
    message = pathlib.Path("second.err").read_text()
    return {"codes": codes, "named": f"process {one} on" in message, "same": same}


if __name__ == "__main__":
    what, folder, *rest = sys.argv[1:]
    os.chdir(folder)
    if what == "race":
        print(json.dumps(raced(rest[0], [float(offset) for offset in rest[1:]])))
    elif what == "checkpoint":
        print(json.dumps(raced_checkpoint(rest[0])))
    else:
        print(json.dumps(killed(what, int(rest[0]))))
