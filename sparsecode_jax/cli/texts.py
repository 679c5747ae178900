"""What --help says."""

__all__ = [
    "ENCODE",
    "ENCODE_END",
    "FIRST_STEPS",
    "FLOPS",
    "FLOPS_END",
    "IMPROVE",
    "IMPROVE_END",
    "LEARN",
    "LEARN_END",
    "MAIN",
    "SUMMARIES",
]

MAIN = """\
Sparse coding from the shell: write signals as sparse combinations of dictionary atoms.

Signals are a .npy file (numpy.save) of shape (S, M): S signals of M measurements each.
A dictionary is N atoms as rows, (N, M); codes are (S, N); codes @ dictionary approximates them."""

FIRST_STEPS = """\
first steps:
  python -c "import numpy; numpy.save('signals.npy', numpy.random.rand(2000, 16))"
  sparsecode-jax learn signals.npy --num-atoms 32
  sparsecode-jax encode signals.npy --dictionary learned.npz

exit codes: 0 done; 1 the run failed; 2 the command or its input is wrong;
  130 interrupted, 143 by SIGTERM: what was computed is kept, and the same command goes on"""

LEARN = """\
Learn a dictionary: N unit atoms in which the signals have sparse codes.

Minimizes the mean of 1/2 |x - z D|^2 + penalty * |z|_1 over codes z and atoms D, by alternating
minimization from several random starts, side by side; then from copies of the best with some atoms
replaced (basin hopping). The best of all is kept and, after hops, refined: learned on at .3 of the
penalty, which draws atoms less towards one another; its scores are at the penalty itself."""

LEARN_END = """\
writes, with --output learned:
  learned.npz   dictionary (N, M); of each atom atom_usage, the fraction of signals that use it,
                and atom_mean, its mean magnitude where used; objective, of the result; the
                objectives of all restarts, and hops, the best objective after each hop
  learned.json  the options, what was read, the scores, versions, seconds, FLOPs
  learned.png   the objective of every restart and hop, and how much each atom is used

An interrupted run keeps its rounds in learned.partial; the same command goes on. The result is that
of sparsecode_jax's learn_dictionary with the same seed.

examples:
  sparsecode-jax learn signals.npy --num-atoms 32
  sparsecode-jax learn signals.npy --num-atoms 32 --num-restarts 4 --num-hops 2 --seed 1
  sparsecode-jax learn signals.npy --num-atoms 256 --penalty 0.05 --signed --output atoms"""

ENCODE = """\
Encode signals: find the sparse codes z of each signal x in a dictionary D,
the minimum of 1/2 |x - z D|^2 + penalty * |z|_1, non-negative unless --signed.

The file is read in batches through a memory map, so it may be larger than the memory."""

ENCODE_END = """\
writes, with --output codes:
  codes.npz   the codes as a sparse matrix: scipy.sparse.load_npz("codes.npz") is (S, N);
              also atom_usage, atom_mean (of each atom) and batch_objective (of each batch)
  codes.npy   with --dense, the codes as an array: numpy.load("codes.npy", mmap_mode="r")
  codes.json  the options, what was read, the scores, versions, seconds, FLOPs
  codes.png   the objective along the file, active atoms per signal, how much each atom is used

An interrupted run keeps its finished batches in codes.partial; the same command goes on.

examples:
  sparsecode-jax encode signals.npy --dictionary learned.npz
  sparsecode-jax encode signals.npy --dictionary atoms.npy --penalty 0.05 --signed --dense
  sparsecode-jax encode signals.npy --dictionary atoms.npy --solver ols --num-active 5"""

IMPROVE = """\
Find better codes for the dictionary of a sparse autoencoder that you have: explained variance,
active and dead latents against the operations per signal of its own encoder, of least squares on
the encoder's support, of solvers that begin at the encoder's codes, and of pursuits.

Penalties, thresholds and the recommendation are chosen on the first signals, which are not
scored."""

IMPROVE_END = """\
writes, with --output improved:
  improved.npz   the recommended codes of all signals as a sparse matrix, for scipy.sparse.load_npz;
                 the table: r2, l0, dead_fraction, flops, ...; atom_usage, atom_mean
  improved.json  the table with names, the options, what was read, versions, seconds
  improved.png   explained variance against operations per signal

An interrupted run keeps what it has finished in improved.partial; the same command goes on.

examples:
  sparsecode-jax improve sae activations.npy
  sparsecode-jax improve sae activations.npy --num-active 32 --max-flops 1e7"""

FLOPS = """\
Count floating-point operations without running anything, from shapes alone.

PROGRAM is "encode" (codes in a given dictionary), "learn" (a dictionary), or a JAX function of
yours: path/to/file.py:function, with the shapes of its arguments in --shapes. The file is executed
to have the function, as "python path/to/file.py" would: count nothing that you would not run."""

FLOPS_END = """\
"encode" is counted for a number of steps: a run by tolerance says its own count when it is done.

Conventions: "matmul" counts matrix products and convolutions; "arithmetic" every operation that
makes a new number (a multiply-add is 2); "all" adds comparisons and sign changes;
"ops" is "arithmetic" and products of integers.

examples:
  sparsecode-jax flops encode --num-measurements 16 --num-atoms 32 --num-signals 1024
  sparsecode-jax flops learn --num-measurements 16 --num-atoms 32 --num-signals 1024 --json
  sparsecode-jax flops model.py:apply --shapes 1024,16 float32[32,16]"""

SUMMARIES = {
    "learn": "find a dictionary for your signals",
    "encode": "find the sparse codes of signals in a dictionary",
    "improve": "find better codes for the dictionary of a sparse autoencoder",
    "flops": "count floating-point operations, also of your own JAX function",
}
