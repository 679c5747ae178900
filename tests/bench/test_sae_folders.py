"""Folders that SAELens writes and reads, where it is installed (the ``bench`` extra)."""

import jax
import numpy as np
import pytest

import sparsecode_jax as sc

from ..test_saes import HALVES, OURS, SIGNALS, M, N, close, drawn, wide
from . import sae_folders as theirs


@pytest.mark.parametrize("name", theirs.WRITERS)
def test_fresh_folders_agree_and_saelens_reads_them_back(tmp_path, name):
    expected = theirs.write(tmp_path / name, name)
    with jax.enable_x64(name.endswith("float64")):
        sae = sc.io.load_sae(tmp_path / name)
        dtype, signals = sae.config["dtype"], expected["signals"]
        tolerance = 0.01 if dtype == "bfloat16" else 0.001 if dtype == "float16" else 1e-6
        close(sae.encode(signals), expected["codes"], tolerance)
        close(sae.forward(signals), expected["forward"], tolerance)
        assert np.array_equal(wide(sae.encode(signals)) != 0, expected["codes"] != 0)
        if "sparsify" in name and "W_skip" in sae.tensors:
            return
        sc.io.save_sae(tmp_path / "ours", sae)
    again = theirs.read(tmp_path / "ours", name)
    close(again["codes"], expected["codes"], 1e-6)
    close(again["forward"], expected["forward"], 1e-6)


@pytest.mark.parametrize("size", [(64, 512), (100, 1000)])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated"])
def test_halves_of_a_common_size(tmp_path, architecture, dtype, size):
    """Sums of other orders round other numbers: few, and by one unit in the last place."""
    settings = {"d_in": size[0], "d_sae": size[1], "dtype": dtype}
    with theirs.quiet():
        model = theirs.saelens.SAE.from_dict({"architecture": architecture, **settings})
        theirs.fill(model, architecture).save_model(tmp_path)
    x = np.random.default_rng(0).normal(size=(50, size[0])).astype(np.float32)
    with theirs.torch.no_grad():
        given = theirs.torch.tensor(x).to(model.dtype)
        codes, found = (a.double().numpy() for a in (model.encode(given), model(given)))
    sae = sc.io.load_sae(tmp_path)
    unit = 2.0**-10 if dtype == "float16" else 2.0**-7
    for ours, expected in ((sae.encode(x), codes), (sae.forward(x), found)):
        assert (wide(ours) == expected).mean() > 0.95
        np.testing.assert_allclose(
            wide(ours), expected, rtol=0, atol=2 * unit * abs(expected).max()
        )


@pytest.mark.parametrize("name", OURS)
def test_saelens_reads_encoders_of_ours(tmp_path, name):
    params = drawn(OURS[name])
    dictionary = sc.dictionaries.random(jax.random.key(1), num_atoms=N, num_measurements=M)
    sae = sc.io.as_sae(OURS[name], params, dictionary, np.linspace(-1, 1, M))
    sc.io.save_sae(tmp_path, sae)
    with theirs.quiet():
        model = theirs.saelens.SAE.load_from_disk(tmp_path)
    with theirs.torch.no_grad():
        codes = model.encode(theirs.torch.tensor(np.array(SIGNALS))).numpy()
        found = model(theirs.torch.tensor(np.array(SIGNALS))).numpy()
    close(OURS[name].apply(params, SIGNALS), codes, 1e-5)
    close(sae.forward(SIGNALS), found, 1e-5)
