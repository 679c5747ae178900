"""Nominal counts of transforms and dense linear algebra.

These run inside vendor libraries, so their operations are textbook formulas (Golub and Van Loan,
*Matrix Computations*, 4th ed.), kept in a class of their own. Complex factorizations cost four
times the real ones.
"""

from collections.abc import Callable, Mapping, Sequence
from math import log2, prod
from typing import Any

from . import conventions as cls
from .rules_elementwise import Rule, is_complex, is_inexact

Params = dict[str, Any]
Avals = Sequence[Any]


def _batched(formula: Callable[[int, int, Avals, Avals, Params], int]) -> Rule:
    """Apply ``formula(m, n, ...)`` to each trailing matrix of the first operand."""

    def rule(ins: Avals, outs: Avals, params: Params) -> Mapping[str, int]:
        *batch, m, n = (int(length) for length in ins[0].shape)
        scale = (4 if is_complex(ins[0]) else 1) * is_inexact(ins[0])
        return {cls.NOMINAL: prod(batch) * scale * formula(m, n, ins, outs, params)}

    return rule


def cholesky_flops(n: int) -> int:
    """Return n³/3 + n²/2 + n/6, every square root and division counted."""
    return n * (n + 1) * (2 * n + 1) // 6


def lu_flops(m: int, n: int) -> int:
    """Return the divisions and updates of Gaussian elimination with partial pivoting."""
    return sum((m - k) * (1 + 2 * (n - k)) for k in range(1, min(m, n) + 1))


def qr_flops(m: int, n: int) -> int:
    """Return 2mn² - 2n³/3 (Householder, m >= n; the two change places otherwise)."""
    large, small = max(m, n), min(m, n)
    return 2 * small * small * (3 * large - small) // 3


def form_q_flops(m: int, n: int, k: int) -> int:
    """Return the cost of forming an m by n factor from k reflectors, 4mnk - 2(m+n)k² + 4k³/3."""
    return 4 * m * n * k - 2 * (m + n) * k * k + 4 * k**3 // 3


def svd_flops(m: int, n: int, vectors: bool, full: bool) -> int:
    """Return 6mn² + 20n³ thin, 4m²n + 22n³ full, 2mn² + 2n³ for values alone (m >= n)."""
    large, small = max(m, n), min(m, n)
    if not vectors:
        return 2 * large * small**2 + 2 * small**3
    if full and large > small:
        return 4 * large**2 * small + 22 * small**3
    return 6 * large * small**2 + 20 * small**3


def triangular_solve_flops(n: int, num_rhs: int, unit_diagonal: bool) -> int:
    """Return n² operations a right-hand side, less the n divisions of a unit diagonal."""
    return num_rhs * (n * n - (n if unit_diagonal else 0))


def fft_flops(length: int, real: bool) -> int:
    """Return 5 n log2 n to the nearest integer, half of it when one side is real."""
    return round((2.5 if real else 5.0) * length * log2(length)) if length > 1 else 0


def _triangular_solve(m: int, n: int, ins: Avals, outs: Avals, params: Params) -> int:
    num_rhs = int(ins[1].shape[-1 if params["left_side"] else -2])
    return triangular_solve_flops(n, num_rhs, params["unit_diagonal"])


def _svd(m: int, n: int, ins: Avals, outs: Avals, params: Params) -> int:
    return svd_flops(m, n, params["compute_uv"], params["full_matrices"])


def _qr(m: int, n: int, ins: Avals, outs: Avals, params: Params) -> int:
    columns = m if params["full_matrices"] else min(m, n)
    return qr_flops(m, n) + form_q_flops(m, columns, min(m, n))


def _householder_product(m: int, n: int, ins: Avals, outs: Avals, params: Params) -> int:
    return form_q_flops(m, n, int(ins[1].shape[-1]))


def _ormqr(m: int, n: int, ins: Avals, outs: Avals, params: Params) -> int:
    k = int(ins[1].shape[-1])
    rows, columns = (int(length) for length in ins[2].shape[-2:])
    order, other = (rows, columns) if params.get("left", True) else (columns, rows)
    return 4 * order * other * k - 2 * other * k * k


def _eig(m: int, n: int, ins: Avals, outs: Avals, params: Params) -> int:
    vectors = any(value for name, value in params.items() if "eigenvectors" in name)
    return (25 if vectors else 10) * n**3


def _symmetric_product(m: int, n: int, ins: Avals, outs: Avals, params: Params) -> int:
    return m * (m + 1) * n + m * (m + 1)


def _tridiagonal_solve(ins: Avals, outs: Avals, params: Params) -> Mapping[str, int]:
    *batch, n, num_rhs = (int(length) for length in ins[-1].shape)
    # Thomas: a division, a product and a sum per row; then 5 operations per row and right side.
    each = 3 * max(n - 1, 0) + num_rhs * max(5 * n - 4, 0)
    return {cls.NOMINAL: prod(batch) * each * (4 if is_complex(ins[-1]) else 1)}


def _fft(ins: Avals, outs: Avals, params: Params) -> Mapping[str, int]:
    lengths = [int(n) for n in params["fft_lengths"]]
    real = not (is_complex(ins[0]) and is_complex(outs[0]))
    wide = outs[0] if is_complex(ins[0]) and not is_complex(outs[0]) else ins[0]
    batch = prod(int(n) for n in wide.shape[: len(wide.shape) - len(lengths)])
    return {cls.NOMINAL: batch * fft_flops(prod(lengths), real)}


RULES: dict[str, Rule] = {
    "cholesky": _batched(lambda m, n, *_: cholesky_flops(n)),
    "cholesky_update": _batched(lambda m, n, *_: 3 * n * n),
    "lu": _batched(lambda m, n, *_: lu_flops(m, n)),
    "qr": _batched(_qr),
    **{name: _batched(lambda m, n, *_: qr_flops(m, n)) for name in ("geqrf", "geqp3")},
    "householder_product": _batched(_householder_product),
    "ormqr": _batched(_ormqr),
    "triangular_solve": _batched(_triangular_solve),
    "svd": _batched(_svd),
    "eigh": _batched(lambda m, n, *_: 9 * n**3),
    "eig": _batched(_eig),
    "schur": _batched(lambda m, n, *_: 25 * n**3),
    "hessenberg": _batched(lambda m, n, *_: 10 * n**3 // 3),
    "tridiagonal": _batched(lambda m, n, *_: 4 * n**3 // 3),
    "tridiagonal_solve": _tridiagonal_solve,
    "symmetric_product": _batched(_symmetric_product),
    "fft": _fft,
}
