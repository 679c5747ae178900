"""Figures, drawn from results alone."""

from __future__ import annotations

import pathlib

import matplotlib

matplotlib.use("Agg")


def pareto(curves, path):
    return path
