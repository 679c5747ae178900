"""Compressed sensing: measurements and networks against NumPy, and the short version's results."""

import jax
import numpy as np
import pytest
import scipy.fft

import sparsecode_jax as sc
from experiments import compressed_sensing as sensing

RNG = np.random.default_rng(0)
ATOMS = np.asarray(sc.dictionaries.normalize(RNG.normal(size=(200, 144)))).astype(np.float32)
ROWS = sensing.projections(0, 20)
BETWEEN = np.float32([4, 20])


def test_projections_are_orthonormal_and_do_not_see_the_mean():
    np.testing.assert_allclose(ROWS @ ROWS.T, np.eye(20), atol=1e-5)
    np.testing.assert_allclose(ROWS.sum(axis=1), 0, atol=1e-5)
    np.testing.assert_array_equal(sensing.projections(0, 7), ROWS[:7])
    assert not np.allclose(sensing.projections(1, 20), ROWS)


def test_patches_are_those_of_the_image():
    left, right = sensing.photographs()
    patches = sensing.cut(right)
    assert patches.shape == (2 * 35 * 13, 144) and left.shape == (2, 427, 480)
    np.testing.assert_array_equal(patches[14].reshape(12, 12), right[0, 12:24, 12:24])
    np.testing.assert_array_equal(sensing.joined(patches, right), right)
    drawn = sensing.training_patches(3, 10)
    windows = np.lib.stride_tricks.sliding_window_view(left, (12, 12), axis=(1, 2))
    for place, patch in enumerate(drawn):
        same = (windows[int(place >= 5)] == patch.reshape(12, 12)).all(axis=(-1, -2))
        assert same.any()
    np.testing.assert_allclose(sensing.centered(drawn).mean(axis=1), 0, atol=1e-7)


def test_the_cosine_basis_is_that_of_scipy():
    image = RNG.normal(size=(12, 12))
    expected = scipy.fft.dctn(image, norm="ortho").ravel()[1:]
    np.testing.assert_allclose(sensing.cosines() @ image.ravel(), expected, atol=1e-4)


def test_psnr_is_of_the_clipped_images_and_knows_the_means():
    patches = np.full((4, 144), 0.5)
    patches[2:] = 0.95
    recovered = np.full((4, 144), 0.1)  # the second image saturates at 1: an error of .05
    expected = np.mean([-20 * np.log10(0.1), -20 * np.log10(0.05)])
    assert sensing.psnr(patches, recovered) == pytest.approx(expected)


def test_the_linear_map_is_least_squares():
    patches = sensing.centered(sensing.training_patches(0, 500)).astype(np.float64)
    expected = np.linalg.lstsq(patches @ ROWS.T.astype(float), patches, rcond=None)[0]
    found = sensing.linear_map(ROWS, patches)
    error, least = (
        np.square(patches @ ROWS.T @ x - patches).mean() for x in (found, expected)
    )  # fmt: skip
    assert least <= error < least * (1 + 1e-4)
    assert least < 0.7 * np.square(patches @ ROWS.T @ ROWS - patches).mean()


def soft(x, threshold):
    return np.sign(x) * np.maximum(np.abs(x) - threshold, 0)


def test_the_unrolled_network_is_its_layers_in_numpy():
    params = sensing.start_unrolled(ATOMS, ROWS, BETWEEN, 4)
    params = jax.tree.map(lambda x: np.array(x, np.float64), params)
    params.log_step[:, 1], params.slope[:] = 0.3, [0.1, -0.2, 0.5, 0.0]
    params.log_threshold[:] += 4 + RNG.normal(size=params.log_threshold.shape)
    params.decoder[:] = params.decoder[::-1]
    measured = RNG.normal(size=(5, 12))
    atoms = params.dictionary @ ROWS[:12].T
    rate = np.log(13 / 144)
    codes = before = np.zeros((5, 200))
    for t in range(4):
        ahead = codes + t / (t + 3) * (codes - before)
        step = np.exp(params.log_step[t, 0] + 0.3 * rate)
        gradient = (measured - ahead @ atoms) @ atoms.T
        threshold = np.exp(params.log_threshold[t] + params.slope[t] * rate)
        codes, before = soft(ahead + step * gradient, threshold), codes
    assert 0.05 < (codes != 0).mean() < 0.95
    found = sensing.unrolled_network(params, measured, atoms, 12)
    np.testing.assert_allclose(found, codes @ params.decoder, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("share", "count"), [(0.0, 4), (0.5, 9), (0.9999, 20)])
def test_networks_are_trained_on_what_they_recover_from(share, count):
    """A patch and its share give what the cut measurements give; the others see zeros."""
    assert count == int(4 * (21 / 4) ** share)
    patches = sensing.centered(sensing.training_patches(0, 3))
    given = np.concatenate([patches, np.full((3, 1), share, np.float32)], axis=1)
    made = ROWS[:count]
    unrolled = sensing.start_unrolled(ATOMS, ROWS, BETWEEN, 3)
    unrolled = unrolled._replace(slope=unrolled.slope + 0.3)
    expected = sensing.unrolled_network(unrolled, patches @ made.T, ATOMS @ made.T, count)
    found = sensing._train_unrolled(unrolled, given)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    lista = sensing.start_lista(ATOMS, ROWS, BETWEEN, 3)
    short = lista.layers._replace(weights=lista.layers.weights[..., :count])
    expected = sensing.lista_network(lista._replace(layers=short), patches @ made.T)
    found = sensing._train_lista(lista, given)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert np.abs(expected).max() > 1e-3


def test_training_draws_patches_without_mean_and_all_numbers_of_projections():
    given, patches = sensing.sampler(500)(jax.random.key(0), 0)
    np.testing.assert_array_equal(given[:, :-1], patches)
    np.testing.assert_allclose(patches.mean(axis=1), 0, atol=1e-6)
    params = sensing.start_lista(ATOMS, ROWS, BETWEEN, 2)
    measured, count, made = sensing._measured(params, given)
    assert set(np.unique(count)) == set(range(4, 21))
    np.testing.assert_array_equal(made.sum(axis=1), count[:, 0])
    np.testing.assert_allclose(measured, (patches @ ROWS.T) * made, atol=1e-5)


def test_the_short_version_writes_results_table_and_figures(tmp_path):
    config = sensing.QUICK
    sensing.main(config, tmp_path)
    arrays, manifest = sc.io.load_results(tmp_path / sensing.NAME)
    quality = {name: arrays[f"psnr/{name}"][0] for name in sensing.LABELS}
    assert all(x.shape == (3,) and np.isfinite(x).all() for x in quality.values())
    assert (quality["linear"] > quality["least_norm"] + 1).all()
    assert (quality["fista"] > quality["cosine"]).all()
    assert quality["linear"][2] > quality["linear"][0] + 2
    assert manifest["config"]["num_steps"] == config.num_steps
    linear, unrolled = (arrays[f"flops/{name}"][0] for name in ("linear", "unrolled"))
    np.testing.assert_array_equal(linear, [2 * count * 144 for count in config.counts])
    assert (unrolled > linear).all() and (np.diff(unrolled) > 0).all()
    assert arrays["picture/linear"].shape == (420, 156)
    text = (tmp_path / f"{sensing.NAME}.txt").read_text()
    assert "nan" not in text and all(label in text for label in sensing.LABELS.values())
    for name in ("", "_images"):
        assert (tmp_path / f"{sensing.NAME}{name}.png").read_bytes().startswith(b"\x89PNG")
