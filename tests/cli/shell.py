"""The commands in this process, and small sizes for them."""

from sparsecode_jax.cli import main

M, N, S = 8, 12, 500
PENALTY = 0.05
ROUNDS, HOPS = 60, 2
SMALL_LEARN = ["--num-atoms", N, "--num-rounds", ROUNDS, "--num-restarts", 3, "--num-hops", HOPS,
               "--quiet"]  # fmt: skip


def run(*words):
    return main([str(word) for word in words])


def run_encode(*words, penalty=PENALTY):
    given = () if penalty is None else ("--penalty", penalty)
    return run(
        "encode", "signals.npy", "--dictionary", "d.npz", *given, "--batch-size", 200, "--quiet",
        "--no-figure", *words,
    )  # fmt: skip
