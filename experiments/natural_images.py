"""The comparison on real data: whitened 12x12 patches of scikit-learn's two sample photographs.

Claim: on natural image patches too, iterative inference explains more at equal sparsity than the
one-pass encoder trained for it, for a known price in FLOPs a patch.

Command: ``python -m experiments.natural_images`` (1 minute on 2 cores; ``--quick`` 10 seconds;
``--plot-only`` redraws the figures from the results).
Expected: at the middle penalty SAE R² is below that of SAE + FISTA at a similar L0; the mosaic
shows oriented edges. One seed: the spread over seeds is not measured here.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time

import numpy as np

from experiments import common, truth_free
from experiments.truth_free import Config

NAME = "natural_images"
SIDE = 12
NUM_PATCHES = 20_000
IMAGES = Config(target_l0=10.0)


def whiten(image: np.ndarray) -> np.ndarray:
    """Flatten an image's spectrum: frequency f times exp(-(f / 0.4)^4), f in cycles a pixel.

    Raising amplitudes in proportion to f undoes the 1/f fall of natural images; the exponential
    removes the corners of the frequency square (Olshausen and Field, 1997).
    """
    vertical = np.fft.fftfreq(image.shape[0])[:, None]
    horizontal = np.fft.fftfreq(image.shape[1])[None, :]
    frequency = np.hypot(vertical, horizontal)
    response = frequency * np.exp(-((frequency / 0.4) ** 4))
    filtered = np.real(np.fft.ifft2(np.fft.fft2(image - image.mean()) * response))
    return filtered / filtered.std()


def patches(
    num_patches: int = NUM_PATCHES, seed: int = 0, side: int = SIDE
) -> tuple[np.ndarray, np.ndarray]:
    """Cut training patches from the left 3/4 of the photographs and test patches from the rest."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    halves: tuple[list, list] = ([], [])
    for photograph in load_sample_images().images:
        image = whiten(photograph.astype(np.float64).mean(axis=-1))
        border = 3 * image.shape[1] // 4
        for part, half in ((image[:, :border], halves[0]), (image[:, border:], halves[1])):
            count = num_patches // 2 if half is halves[0] else num_patches // 8
            rows = rng.integers(0, part.shape[0] - side + 1, count)
            columns = rng.integers(0, part.shape[1] - side + 1, count)
            windows = np.lib.stride_tricks.sliding_window_view(part, (side, side))
            half.append(windows[rows, columns].reshape(count, -1))
    train, test = (np.concatenate(half) for half in halves)
    train, test = (x - x.mean(axis=1, keepdims=True) for x in (train, test))
    return truth_free.scale(rng.permutation(train), rng.permutation(test))


def main(config: Config = IMAGES, out: pathlib.Path = common.RESULTS) -> None:
    """Run the comparison, write results, table and figures."""
    started = time.monotonic()
    train, test = patches(seed=config.seed)
    with common.stages(out, NAME, config) as stages:
        result = truth_free.compare(train, test, config, stages)
        paths = truth_free.save(out, NAME, result, config, started, patch_side=SIDE)
    report(out, paths)


def report(out: pathlib.Path, paths: tuple[pathlib.Path, ...] = ()) -> None:
    """Print the table and draw the figures from the results alone."""
    from experiments import plots

    result = truth_free.load(out, NAME)
    text = truth_free.table(result)
    (out / f"{NAME}.txt").write_text(text + "\n")
    title = f"whitened {SIDE}x{SIDE} patches of two photographs"
    figure = plots.truth_free(result, title, out / f"{NAME}.png")
    mosaic = plots.mosaic(result, SIDE, out / f"{NAME}_atoms.png")
    print(f"\n{text}\n\nwrote " + ", ".join(map(str, (*paths, figure, mosaic))))


if __name__ == "__main__":
    options = common.parser(__doc__)
    options.add_argument("--plot-only", action="store_true", help="redraw from the results")
    arguments = options.parse_args()
    if arguments.plot_only:
        report(arguments.out)
    else:
        quick = dataclasses.replace(truth_free.QUICK, target_l0=IMAGES.target_l0)
        main(quick if arguments.quick else IMAGES, arguments.out)
