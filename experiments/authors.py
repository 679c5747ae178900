"""The paper's own data and initial weights, regenerated with NumPy alone.

The published curves (arXiv 2411.13117; repository charlieoneill11/sparse-inference) come from
NumPy's legacy generator for the codes and from torch's CPU generator for dictionaries and weights.
Torch's CPU generator is a Mersenne Twister with NumPy's legacy integer seeding, so both streams can
be reproduced without torch; with them, training curves agree with the published ones to four
decimals for thousands of steps.

The order in which the streams are consumed matters and is written down at each function.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NUM_SAMPLES = 1024  # in the training half and in the test half
NUM_MEASUREMENTS, NUM_ATOMS, NUM_ACTIVE = 8, 16, 3
KNOWN_SEED = 20240625  # known codes, known dictionary
UNKNOWN_SEED = 20240926  # unknown codes and dictionary
NUM_RUNS = 5


class TorchStream:
    """Torch's CPU random stream: ``uniform`` and ``normal`` as torch would draw them.

    Args:
      seed: the integer given to ``torch.manual_seed``.
    """

    def __init__(self, seed: int):
        bits = np.random.MT19937()
        bits._legacy_seeding(seed)  # torch seeds its Mersenne Twister as NumPy's legacy one
        self._bits = bits

    def _unit(self, count: int) -> np.ndarray:
        words = self._bits.random_raw(count).astype(np.uint64)
        return ((words & np.uint64(2**24 - 1)) * 2.0**-24).astype(np.float32)

    def uniform(self, shape: tuple[int, ...], bound: float) -> np.ndarray:
        """Draw U(-bound, bound), one 32-bit word an entry, row-major."""
        u = self._unit(int(np.prod(shape)))
        bound32 = np.float32(bound)
        return (u * (bound32 - -bound32) + -bound32).reshape(shape)

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Draw N(0, 1) by torch's blocks of 16: eight Box-Muller pairs a block.

        Only sizes of at least 16 are reproduced (torch takes another path below).
        """
        size = int(np.prod(shape))
        if size < 16:
            raise ValueError(
                f"TorchStream.normal: {size} entries; torch's blocks need at least 16."
            )
        out = self._unit(size)
        starts = list(range(0, size - 15, 16))
        for start in starts:
            out[start : start + 16] = _box_muller(out[start : start + 16])
        if size % 16:  # the last 16 entries are redrawn from 16 fresh uniforms
            out[size - 16 :] = _box_muller(self._unit(16))
        return out.reshape(shape)

    def linear(self, fan_in: int, fan_out: int, use_bias: bool) -> tuple:
        """Draw a torch Linear's default weight (fan_out, fan_in), then its bias or None."""
        bound = 1.0 / np.sqrt(fan_in)
        weight = self.uniform((fan_out, fan_in), bound)
        return weight, (self.uniform((fan_out,), bound) if use_bias else None)


def _box_muller(u: np.ndarray) -> np.ndarray:
    radius = np.sqrt(np.float32(-2.0) * np.log(np.float32(1.0) - u[:8]))
    theta = np.float32(2.0 * np.pi) * u[8:]
    return np.concatenate([radius * np.cos(theta), radius * np.sin(theta)]).astype(np.float32)


class AuthorsData(NamedTuple):
    """Train and test halves: signals (S, M), codes (S, N); the dictionary is (N, M)."""

    train_signals: np.ndarray
    train_codes: np.ndarray
    test_signals: np.ndarray
    test_codes: np.ndarray
    dictionary: np.ndarray


def data(
    seed: int,
    *,
    num_samples: int = NUM_SAMPLES,
    num_measurements: int = NUM_MEASUREMENTS,
    num_atoms: int = NUM_ATOMS,
    num_active: int = NUM_ACTIVE,
    stream: TorchStream | None = None,
    weights: np.ndarray | None = None,
) -> AuthorsData:
    """Draw the paper's data: half-normal codes with exactly ``num_active`` ones a sample.

    For each sample ``abs(normal(0, 1, N))`` and then ``choice(N, K, replace=False)`` from NumPy's
    legacy generator; the dictionary is torch's ``randn(N, M)`` with unit rows. Weights (N,), which
    sum to one, are the ``p`` of that choice, and magnitudes are multiplied by them plus .1, as the
    authors do for Zipf latents (:func:`zipf_weights`).
    """
    rng = np.random.RandomState(seed)
    scale = np.ones(num_atoms) if weights is None else weights + 0.1
    codes = np.zeros((2 * num_samples, num_atoms))
    for row in codes:
        magnitudes = np.abs(rng.normal(0, 1, num_atoms))
        support = rng.choice(num_atoms, num_active, replace=False, p=weights)
        row[support] = (magnitudes * scale)[support]
    codes = codes.astype(np.float32)
    stream = stream or TorchStream(seed)
    dictionary = stream.normal((num_atoms, num_measurements))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    signals = codes @ dictionary
    n = num_samples
    return AuthorsData(signals[:n], codes[:n], signals[n:], codes[n:], dictionary)


def zipf_weights(num_atoms: int = NUM_ATOMS) -> np.ndarray:
    """Return the authors' Zipf weights, in proportion to 1 / i for atom i of 1 to N."""
    weights = 1 / np.arange(1, num_atoms + 1)
    return weights / np.sum(weights)


class InitialWeights(NamedTuple):
    """Encoder layers (weight (out, in), bias or None) and the dictionary's start (N, M)."""

    layers: tuple
    dictionary: np.ndarray | None


def initial_weights(
    stream: TorchStream | int,
    *,
    hidden: tuple[int, ...] = (),
    use_bias: bool = False,
    learn_dictionary: bool = True,
    num_measurements: int = NUM_MEASUREMENTS,
    num_atoms: int = NUM_ATOMS,
) -> InitialWeights:
    """Draw the weights of the authors' SAE (``hidden=()``) or MLP.

    Consumed in order: the encoder's Linear layers, a decoder Linear that is drawn and discarded,
    and ``randn(M, N)``, the decoder, if the dictionary is learned.

    Args:
      stream: a stream to continue, or a run's seed, to which the authors add 42.
      hidden: hidden widths.
      use_bias: whether the Linear layers have biases.
      learn_dictionary: whether the decoder is drawn.
      num_measurements: M.
      num_atoms: N.
    """
    if not isinstance(stream, TorchStream):
        stream = TorchStream(stream + 42)
    widths = (num_measurements, *hidden, num_atoms)
    layers = tuple(
        stream.linear(fan_in, fan_out, use_bias)
        for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True)
    )
    stream.linear(num_atoms, num_measurements, use_bias)  # drawn and discarded
    dictionary = stream.normal((num_measurements, num_atoms)).T if learn_dictionary else None
    return InitialWeights(layers, dictionary)


def initial_dictionary(
    seed: int, *, num_measurements: int = NUM_MEASUREMENTS, num_atoms: int = NUM_ATOMS
) -> np.ndarray:
    """Draw the start of sparse coding's dictionary: ``randn(M, N)`` of the run's seed + 42."""
    return TorchStream(seed + 42).normal((num_measurements, num_atoms)).T


def known_codes_weights(run: int, *, hidden: tuple[int, ...] = ()) -> InitialWeights:
    """Draw the weights of the known-codes experiment, which are built before the run's seed is set.

    The MLP of run i starts from a generator seeded seed + i; the SAE of run 0 continues the
    stream after the data's dictionary, and that of run i >= 1 starts from seed + i - 1.
    """
    stream = TorchStream(KNOWN_SEED + run if hidden else KNOWN_SEED + max(run - 1, 0))
    if not hidden and run == 0:
        stream.normal((NUM_ATOMS, NUM_MEASUREMENTS))
    return initial_weights(stream, hidden=hidden, use_bias=True, learn_dictionary=False)
