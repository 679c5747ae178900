"""Greedy and thresholded solvers by loops in NumPy, one signal at a time; no code of ours."""

import itertools

import numpy as np
from scipy.optimize import nnls


def cut(codes, signed):
    return codes if signed else np.maximum(codes, 0)


def best_first(values, signed, count):
    """Return the places of the largest values, or magnitudes, in falling order."""
    return list(np.argsort(-(np.abs(values) if signed else values), kind="stable")[:count])


def least_squares(signal, atoms, support):
    codes = np.zeros(len(atoms))
    support = sorted(support)
    codes[support] = np.linalg.lstsq(atoms[support].T, signal, rcond=None)[0]
    return codes


def nonnegative_least_squares(signal, atoms, support):
    codes = np.zeros(len(atoms))
    support = sorted(support)
    if support:
        codes[support] = nnls(atoms[support].T, signal)[0]
    return codes


def prune(codes, signed, num_active):
    kept = np.zeros_like(codes)
    places = best_first(codes, signed, num_active)
    kept[places] = cut(codes[places], signed)
    return kept


def correlated(signal, atoms, codes, signed, count):
    """Return the atoms, at most so many, that correlate most with the residual."""
    correlations = atoms @ (signal - codes @ atoms)
    score = np.abs(correlations) if signed else correlations
    return [j for j in best_first(correlations, signed, count) if score[j] > 1e-9]


def matching_pursuit(signal, atoms, num_active, num_steps, signed):
    codes = np.zeros(len(atoms))
    for _ in range(num_steps):
        for j in correlated(signal, atoms, codes, signed, 1):
            codes[j] += atoms[j] @ (signal - codes @ atoms)
    return codes


def gradient_pursuit(signal, atoms, num_active, num_steps, signed):
    codes, support = np.zeros(len(atoms)), set()
    for _ in range(num_steps):
        for j in correlated(signal, atoms, codes, signed, 1):
            if len(support) < num_active:
                support.add(int(j))
        places = sorted(support)
        residual = signal - codes @ atoms
        gradient = atoms[places] @ residual
        image = gradient @ atoms[places]
        if np.max(np.abs(gradient), initial=0) > 1e-9:
            codes[places] += (residual @ image) / (image @ image) * gradient
        codes = cut(codes, signed)
        support = set(np.flatnonzero(codes).tolist())
    return codes


def cosamp(signal, atoms, num_active, num_steps, signed):
    codes = np.zeros(len(atoms))
    for _ in range(num_steps):
        found = correlated(signal, atoms, codes, signed, 2 * num_active)
        merged = set(found) | set(np.flatnonzero(codes))
        codes = prune(least_squares(signal, atoms, merged), signed, num_active)
        if not signed:
            codes = nonnegative_least_squares(signal, atoms, np.flatnonzero(codes))
    return codes


def subspace_pursuit(signal, atoms, num_active, num_steps, signed):
    codes = np.zeros(len(atoms))
    for _ in range(num_steps):
        found = correlated(signal, atoms, codes, signed, num_active)
        merged = set(found) | set(np.flatnonzero(codes))
        pruned = prune(least_squares(signal, atoms, merged), signed, num_active)
        fit = least_squares if signed else nonnegative_least_squares
        new = fit(signal, atoms, np.flatnonzero(pruned))
        if np.sum((signal - new @ atoms) ** 2) >= np.sum((signal - codes @ atoms) ** 2) - 1e-12:
            break
        codes = new
    return codes


def exhaustive(signal, atoms, num_active, num_steps, signed):
    best, least = np.zeros(len(atoms)), np.inf
    for subset in itertools.combinations(range(len(atoms)), num_active):
        columns = atoms[list(subset)].T
        codes = (
            np.linalg.lstsq(columns, signal, rcond=None)[0] if signed else nnls(columns, signal)[0]
        )
        error = np.sum((signal - columns @ codes) ** 2)
        if error < least:
            least, best = error, np.zeros(len(atoms))
            best[list(subset)] = codes
    return best


def iterative_hard_thresholding(signal, dictionary, num_active, num_steps, signed, step_size):
    codes = np.zeros(len(dictionary))
    for _ in range(num_steps):
        gradient = dictionary @ (signal - codes @ dictionary)
        codes = prune(codes + step_size * gradient, signed, num_active)
    return codes
