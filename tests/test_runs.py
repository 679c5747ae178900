"""Runs on disk: one writer, an identity in every part, and nothing lost however they end."""

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsecode_jax as sc
from sparsecode_jax.io import BusyError, Run, runs

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def kills(tmp_path_factory):
    """Return a function that runs ``tests.kills`` in a folder of its own, and what it says."""
    cache = tmp_path_factory.mktemp("cache")

    def run(*words):
        folder = tmp_path_factory.mktemp(words[0])
        # Processes that are killed while they write keep the programs of others whole.
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
        }
        command = [sys.executable, "-m", "tests.kills", words[0], str(folder)]
        command += [str(word) for word in words[1:]]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=1500, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.parametrize(
    ("task", "least"),
    [
        ("train", 8),
        ("sweep", 10),
        ("measured", 10),
        ("encoded", 2),
        pytest.param("encoded", 12, marks=pytest.mark.slow),
        pytest.param("learn", 12, marks=pytest.mark.slow),
        pytest.param("online", 12, marks=pytest.mark.slow),
        pytest.param("improved", 12, marks=pytest.mark.slow),
        pytest.param("learned", 12, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_in_the_same_bits_and_leaves_nothing(kills, task, least):
    said = kills(task, least)
    assert said["kills"] >= least
    assert said["same"] and said["left"] == [] and said["lost"] == []
    if task in ("encoded", "learned"):
        assert said["swaps"] >= (5 if least >= 10 else 1)


@pytest.mark.slow  # those with one checkpoint, below, run every day
@pytest.mark.parametrize("task", ["encode", "learn"])
def test_of_two_runs_with_one_output_the_second_is_refused(kills, task):
    said = kills("race", task, 0.0, 0.1, 0.3, 0.5, 1.0)
    assert len(said) == 10
    for pair in said:
        assert pair["codes"] == [0, 2], pair
        assert pair["named"] and pair["same"] and pair["left"] == [], pair
        assert pair["first won"] or pair["offset"] == 0, pair


@pytest.mark.parametrize(
    "task",
    [
        "train",
        "sweep",
        "measured",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("learn", "online")),
    ],
)
def test_of_two_runs_with_one_checkpoint_the_second_is_refused(kills, task):
    assert kills("checkpoint", task) == {"codes": [2, 0], "named": True, "same": True}


# --- the lock ------------------------------------------------------------------------------------


def test_a_run_has_one_writer(tmp_path):
    path = tmp_path / "deep" / "er" / "run"
    with Run(path, {}, name="first"):
        with pytest.raises(
            BusyError, match=rf"second: .*run is being written by process {os.getpid()} "
        ):
            Run(path, {}, name="second").__enter__()
        assert path.with_name("run.lock").exists()
    assert not list(tmp_path.iterdir())  # the folders made for the lock are gone with it
    with pytest.raises(KeyError), Run(path, {}, name="first"):
        raise KeyError
    with Run(path, {}, name="third") as run:
        run.save({"a": np.arange(3)})
    assert [p.name for p in path.parent.iterdir()] == ["run"]


def test_a_lock_that_somebody_deletes_is_taken_again(tmp_path):
    path = tmp_path / "out" / "run"
    with Run(path, {}, name="first") as run:
        run.save({"a": np.arange(3)})
        shutil.rmtree(path.parent)
        run.save({"a": np.arange(4)})
        with pytest.raises(BusyError, match="second"):
            Run(path, {}, name="second").__enter__()
    assert [p.name for p in path.parent.iterdir()] == ["run"]


def test_of_two_runs_between_which_the_lock_was_deleted_the_first_writes_no_more(tmp_path):
    path = tmp_path / "run"
    with Run(path, {}, name="second") as second:
        held = second._lock
        path.with_name("run.lock").unlink()
        with Run(path, {}, name="third") as third:
            third.save({"a": np.arange(3)})
            with pytest.raises(BusyError, match="second: .*run is being written by process"):
                second.save({"a": np.arange(4)})
            assert second._lock == held
            second._release()
            assert path.with_name("run.lock").exists()  # it is the third's
        assert third.load()["a"].shape == (3,)


def test_a_link_and_what_it_links_to_are_one_run(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with Run(tmp_path / "link", {}, name="one"), pytest.raises(BusyError):
        Run(tmp_path / "real", {}, name="other").__enter__()


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with (
        Run(tmp_path / "file", {}, name="sweep_chunked") as run,
        pytest.raises(ValueError, match="sweep_chunked: .*file is a file; the path of a folder"),
    ):
        run.once("part", lambda: {"x": np.arange(3)})
    (tmp_path / "folder").mkdir()
    with (
        Run(tmp_path / "folder", {}, name="fit") as run,
        pytest.raises(ValueError, match="fit: .*folder is a folder; the path of a file"),
    ):
        run.has()
    assert (tmp_path / "file").read_text() == "mine"


def test_without_a_path_nothing_is_kept():
    with Run(None, {}, name="none") as run:
        run.save({"a": 1})
        run.keep({"a": 1}, "all")
        assert not run.has() and run.once("part", lambda: {"a": 2})["a"] == 2


# --- identity ------------------------------------------------------------------------------------


def test_parts_of_another_run_are_refused_by_what_differs(tmp_path):
    with Run(tmp_path / "run", {"seed": 0, "data": "ab" * 20}, name="learn") as run:
        run.once("part", lambda: {"x": np.arange(3)})
    before = (tmp_path / "run" / "part.npz").read_bytes()
    for identity, said in (
        ({"seed": 1, "data": "ab" * 20}, "seed was 0, is 1"),
        ({"seed": 0, "data": "cd" * 20}, "data"),
        ({"seed": 0}, "data"),
        ({"seed": 0, "data": "ab" * 20, "record": None, "more": 1.5}, "more was None, is 1.5"),
    ):
        with Run(tmp_path / "run", identity, name="learn") as run:
            assert run.has("part")
            with pytest.raises(ValueError, match=rf"learn: .*part.npz belongs to .*\({said}\)"):
                run.once("part", lambda: {"x": np.arange(3)})
    np.savez(tmp_path / "run" / "part.npz", x=np.arange(3))  # arrays of no run
    with (
        Run(tmp_path / "run", {}, name="learn") as run,
        pytest.raises(ValueError, match=r"learn: .*part.npz is not a checkpoint"),
    ):
        run.load(part="part")
    assert before != (tmp_path / "run" / "part.npz").read_bytes()


@pytest.mark.parametrize(
    ("differs", "change"),
    [
        ("key", {"key": jax.random.key(1)}),
        ("signals", {"signals": np.eye(20, 4) + 1e-6}),
        ("penalty", {"penalty": 0.3}),
        ("dictionary0", {"dictionary0": np.eye(6, 4) + 0.1}),
        ("num_atoms", {"num_atoms": 5}),
        ("num_rounds", {"num_rounds": 4}),
        ("num_steps", {"num_steps": 2}),
        ("num_hops", {"num_hops": 2}),
        ("num_restarts", {"num_restarts": 3}),
        ("num_refinement_rounds", {"num_refinement_rounds": 3}),
        ("round", {"solver": sc.solvers.fista()}),
        ("round", {"update": sc.dictionary_learning.updates.block_coordinate()}),
    ],
)
def test_a_checkpoint_of_another_search_is_refused(tmp_path, differs, change):
    options = {"num_atoms": 6, "num_rounds": 3, "num_steps": 3, "num_restarts": 2, "num_hops": 1,
               "num_refinement_rounds": 2, "progress": None,
               "checkpoint": tmp_path / "c"}  # fmt: skip
    given = {"key": jax.random.key(0), "signals": np.eye(20, 4), **options}
    sc.dictionary_learning.learn_dictionary(**given)
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(
        ValueError, match=rf"learn_dictionary: .*c belongs to another run .*{differs}"
    ):
        sc.dictionary_learning.learn_dictionary(**{**given, **change})
    assert (tmp_path / "c").read_bytes() == before


def spoil(path, name):
    """Put a NaN into an array of a checkpoint."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    names = [leaf[0] for leaf in json.loads(entries["checkpoint.json"])["leaves"]]
    entry = f"{names.index(name)}.npy"
    array = np.lib.format.read_array(io.BytesIO(entries[entry]))
    array[(-1,) * array.ndim] = np.nan
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    with zipfile.ZipFile(path, "w") as archive:
        for other, data in (entries | {entry: buffer.getvalue()}).items():
            archive.writestr(other, data)


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("fit", "0/params/encoder/weight"),
        ("learn_dictionary", "4/dictionary"),
        ("learn_dictionary_online", "0/dictionary"),
    ],
)
def test_a_checkpoint_with_nan_is_refused(tmp_path, task, name):
    signals = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    key, options = jax.random.key(0), {"checkpoint": tmp_path / "c", "progress": None}

    def run():
        if task == "fit":
            encoder = sc.encoders.linear(4, 6)
            sc.training.fit(key, encoder, signals, num_atoms=6, num_steps=4, **options)
        elif task == "learn_dictionary":
            sc.dictionary_learning.learn_dictionary(
                key, signals, num_atoms=6, num_rounds=3, num_restarts=2, num_hops=1, **options
            )
        else:
            sc.dictionary_learning.learn_dictionary_online(
                key, [signals, signals], num_atoms=6, num_steps=3, **options
            )

    run()
    run()
    spoil(tmp_path / "c", name)
    with pytest.raises(ValueError, match=rf"^{task}: .*c holds 1 non-finite numbers"):
        run()
    if task == "learn_dictionary":
        spoil(tmp_path / "c", "4/value")
        run()  # a search of which all copies have diverged ends as it would have


def test_a_search_tells_what_it_has_and_may_be_stopped(tmp_path):
    heard = []

    def hear(news):
        heard.append(news)
        return news.round >= 4

    problem = sc.synthetic.sample_problem(
        jax.random.key(0), 2, num_samples=60, num_measurements=6, num_atoms=8
    )
    options = {"num_atoms": 8, "num_rounds": 10, "num_restarts": 2, "num_hops": 2, "progress": None}
    found = sc.dictionary_learning.learn_dictionary(
        jax.random.key(1), problem.signals, callback=hear, **options
    )
    assert [news.round for news in heard] == sorted({news.round for news in heard})
    assert heard[0].num_rounds == 10 + 2 * 6 + 30 and heard[-1].dictionary.shape == (8, 6)
    assert found.hops.shape == (0,) and np.isfinite(found.objective)
    assert heard[-1].seconds > 0 and np.isfinite(heard[-1].objective)
    told = []
    whole = sc.dictionary_learning.learn_dictionary(
        jax.random.key(1), problem.signals, callback=told.append, **options
    )
    again = sc.dictionary_learning.learn_dictionary(jax.random.key(1), problem.signals, **options)
    np.testing.assert_array_equal(whole.dictionary, again.dictionary)
    assert told[-1].round == told[-1].num_rounds
    told.clear()
    stopped = {"callback": lambda news: told.append(news.round) or news.round >= 4, **options}
    sc.dictionary_learning.learn_dictionary(
        jax.random.key(1), problem.signals, checkpoint=tmp_path / "stopped", **stopped
    )
    resumed = sc.dictionary_learning.learn_dictionary(
        jax.random.key(1), problem.signals, checkpoint=tmp_path / "stopped", **options
    )  # goes on where it was stopped
    np.testing.assert_array_equal(resumed.dictionary, whole.dictionary)

    def traced(signals):
        return sc.dictionary_learning.learn_dictionary(
            jax.random.key(1), signals, checkpoint=tmp_path / "c", **options
        ).dictionary

    with pytest.raises(TypeError, match="a callback or a checkpoint under jit, vmap or grad"):
        jax.jit(traced)(problem.signals)


# --- interruptions -------------------------------------------------------------------------------


def test_what_an_interrupted_run_keeps_is_said_in_one_sentence(tmp_path):
    class Stop(KeyboardInterrupt):
        pass

    def stop(progress):
        if progress.step >= 3:
            raise Stop

    signals = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    with pytest.raises(Stop) as caught:
        sc.training.fit(
            jax.random.key(0), sc.encoders.linear(4, 6), signals, num_atoms=6, num_steps=40,
            checkpoint=tmp_path / "c", callback=stop, progress=None,
        )  # fmt: skip
    (note,) = caught.value.__notes__
    assert note.startswith("fit: ") and "c keeps step " in note
    assert note.endswith("the same call goes on from it.")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    with Run(tmp_path / "c", {}, name="fit") as run:
        run.save({"a": jnp.arange(3)})
        before = (tmp_path / "c").read_bytes()

        def full(*_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space"):
                run.save({"a": jnp.arange(4)})
    assert (tmp_path / "c").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_saving_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Run(tmp_path / "c", {}, name="fit") as run:
        saved = []

        def save(tree, part=None):
            saved.append(now[0])
            now[0] += 1.0  # what writing takes
            run._saved, run._cost, run._pending = now[0], 1.0, None

        monkeypatch.setattr(run, "save", save)
        while now[0] < 100:
            now[0] += 0.5
            run.keep({}, "all")
    assert 4 <= len(saved) <= 6 and saved[0] > runs.SAVE_SECONDS
