"""``sparsecode-jax improve``: better codes of activations in the dictionary of an autoencoder."""

from __future__ import annotations

import argparse
import pathlib
import time
from typing import Any

import numpy as np
from tqdm import tqdm

from sparsecode_jax._improve import Frontier, improve
from sparsecode_jax.cli.codes import Joined, encode_batches, filled, sparse_part
from sparsecode_jax.cli.errors import InterruptedRunError, bad_input
from sparsecode_jax.cli.inputs import Signals, open_signals
from sparsecode_jax.cli.outputs import Output, without_nan, write_npz
from sparsecode_jax.io._atomic import write_bytes
from sparsecode_jax.io._identity import digest_of
from sparsecode_jax.io.results import manifest_text
from sparsecode_jax.io.saes import Sae, load_sae
from sparsecode_jax.types import Array

__all__ = ["run"]

_BATCH_CODES = 2**25  # numbers of a block of codes that is written at once, at most


def run(options: argparse.Namespace) -> None:
    """Compare inferences of a file, and write the codes of the recommended one."""
    suffixes = (".npz", ".json", ".png")
    with Output(options.output, suffixes, (options.signals,), "improve") as output:
        _run(options, output)


def _run(options: argparse.Namespace, output: Output) -> None:
    started = time.monotonic()
    signals = open_signals(options.signals)
    with bad_input("improve"):
        try:
            sae = load_sae(options.folder)
        except FileNotFoundError as error:
            raise ValueError(str(error)) from None
    heads = sae.config["reshape_activations"] == "hook_z"
    rows = signals.array if heads else signals.rows
    config = {
        "command": "improve",
        "signals": {
            "file": str(signals.path), "shape": list(signals.array.shape),
            "dtype": str(signals.array.dtype), "digest": digest_of(rows),
        },
        "autoencoder": {
            "folder": str(options.folder), "architecture": sae.config["architecture"],
            "shape": list(sae.dictionary.shape), "digest": digest_of(sae.tensors),
        },
        "num_active_given": options.num_active,
        "num_steps": options.num_steps,
        "num_choice_given": options.num_choice,
        "batch_size_given": options.batch_size,
    }  # fmt: skip
    output.begin(config, options.overwrite)
    if output.checkpoint().exists():
        print(f"going on with what is in {output.folder}")
    try:
        with bad_input("improve"):
            frontier = improve(
                sae, rows, num_active=options.num_active, max_flops=options.max_flops,
                num_steps=options.num_steps, num_choice=options.num_choice,
                batch_size=options.batch_size, checkpoint=output.checkpoint(),
                progress=None if options.quiet else "comparing",
            )  # fmt: skip
        num_parts = _encode_all(signals, sae, frontier, output, options.quiet)
    except KeyboardInterrupt:
        raise InterruptedRunError(output.kept("what was finished")) from None
    joined = Joined.of(output, num_parts, len(sae.dictionary))
    arrays = {**joined.matrix(output), **joined.usage(), **_columns(frontier)}
    write_npz(output.staged(".npz"), arrays)
    summary = {
        "names": list(frontier.names),
        "max_flops": options.max_flops,
        "best": frontier.names[frontier.best],
        "num_active": frontier.num_active,
        "num_scored": frontier.num_signals,
        "frontier": {name: values.tolist() for name, values in _columns(frontier).items()},
        "skipped": dict(frontier.skipped),
        "convention": "arithmetic",
        "codes": "scipy.sparse.load_npz",
        "seconds_of_the_last_run": time.monotonic() - started,
    }
    if options.figure:
        from sparsecode_jax.cli import plots

        about = (
            f"{pathlib.Path(options.folder).name}: {len(sae.dictionary):,} latents, K = "
            f"{frontier.num_active}; {frontier.num_signals:,} signals of {signals.path.name}"
        )
        plots.improved(frontier, options.max_flops, about, output.staged(".png"))
    shapes = {name: tuple(value.shape) for name, value in arrays.items()}
    text = manifest_text(without_nan({**config, **summary}), shapes)
    write_bytes(output.staged(".json"), text.encode())
    files = output.publish()
    print(frontier)
    print(
        f"R2, L0 and dead latents of {frontier.num_signals:,} signals; FLOPs per signal, in the "
        "convention arithmetic; * nothing as cheap explains as much; > recommended"
        + ("" if options.max_flops is None else f" within {options.max_flops:.4g} FLOPs")
    )
    print("wrote " + ", ".join(map(str, files)))


def _columns(frontier: Frontier) -> dict[str, np.ndarray]:
    """Return what is known of each inference."""
    names = ("r2", "l0", "dead_fraction", "flops", "flops_once", "seconds", "numbers", "efficient")
    return {name: np.asarray(getattr(frontier, name)) for name in names}


def _encode_all(signals: Signals, sae: Sae, frontier: Frontier, output: Output, quiet: bool) -> int:
    """Keep the codes of all signals by the recommended inference; return the number of parts."""
    rows = signals.array if sae.config["reshape_activations"] == "hook_z" else signals.rows
    size = min(4096, max(256, _BATCH_CODES // len(sae.dictionary)), len(rows))
    encode = frontier.inferences[frontier.best]

    def is_done(index: int) -> bool:  # by this inference: another budget may recommend another
        return output.done(index) and int(output.load(index)["inference"]) == frontier.best

    def one(index: int, bar: tqdm) -> None:
        batch = np.asarray(rows[index * size : (index + 1) * size], np.float32)
        codes: Any = np.asarray(_float32(encode(filled(batch, size))))[: len(batch)]
        output.save(index, {**sparse_part(codes), "inference": np.asarray(frontier.best)})

    return encode_batches("improve", one, is_done, output, len(rows), size, quiet)


def _float32(codes: Array) -> Array:
    return codes.astype(np.float32)
