"""Experiments: one claim each, thin scripts over :mod:`sparsecode_jax`."""
