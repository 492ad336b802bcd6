"""Proven upper bounds of the spectral norm of matrices.

Estimates of a norm only propose a bound; a floating-point Cholesky factorisation that succeeds disposes.

* Matrices.  D is the matrix, N its larger side, G = fl(DᵀD).  If the factorisation of fl(b² I − G) succeeds, then
  b² I − G + E is positive semidefinite for a backward error ‖E‖ <= γ tr(b² I − G) <= γ N b²; with the rounding of G,
  ‖G − DᵀD‖ <= γ ‖D‖_F² and γ = (N + 8) u / (1 − (N + 8) u), u the unit roundoff,
      ‖D‖² <= b² + 2 γ (N b² + ‖D‖_F²).
  (Higham, Accuracy and Stability of Numerical Algorithms, theorems 10.3 and 3.5.)

* Matrices near orthonormal ones.  ‖D‖² = ‖DᵀD‖ <= 1 + ‖DᵀD − 1‖, where R = fl(G − 1) is small, and its norm, proven
  as above to a ten-thousandth of itself, smaller.  Subtracting 1 rounds the diagonal alone, by u ‖R‖; so
      ‖DᵀD − 1‖ <= ‖R‖ (1 + u) + γ ‖D‖_F²   and   ‖D‖² <= 1 + ‖DᵀD − 1‖.
"""

import functools
import math

import numpy as np
import scipy.linalg

from lipjax.ops.estimates import largest_eigenvalue

_EPS = float(np.finfo(np.float64).eps)


def at_unit_scale(bound):
    """Calls `bound` with the array scaled by a power of two to entries in [−1, 1], and scales its result back.

    Powers of two change no mantissa, so nothing is rounded but entries 1e-308 times smaller than the largest; without
    them squares of tiny or huge entries would leave the range of float64.  Beyond that range the bound is infinite.
    """

    @functools.wraps(bound)
    def scaled(array: np.ndarray, *arguments) -> float:
        largest = float(np.abs(array).max(initial=0.0))
        if largest == 0.0:
            return 0.0
        exponent = math.frexp(largest)[1]
        try:
            return math.nextafter(math.ldexp(bound(np.ldexp(array, -exponent), *arguments), exponent), math.inf)
        except OverflowError:
            return math.inf

    return scaled


@at_unit_scale
def dense_norm_bound(matrix: np.ndarray, margin: float = 1e-4) -> float:
    """An upper bound of the spectral norm of a real, finite float64 matrix, proven by one Cholesky factorisation.

    `margin`, relative, is how far above an estimate of the norm it starts: 1e-7 for all but orthogonal matrices.
    """
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    gram = matrix.T @ matrix
    frobenius_squared = float(np.einsum("ii->", gram))
    estimate = largest_eigenvalue(gram)
    gamma = _gram_error(len(matrix))
    while True:
        shift = estimate * (1 + margin) ** 2
        trial = -gram
        trial[np.diag_indices_from(trial)] += shift
        try:
            scipy.linalg.cholesky(trial, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            margin *= 4  # the estimate was low; ends, as a shift above the trace always factorises
            continue
        squared = shift + 2 * gamma * (len(gram) * shift + frobenius_squared * (1 + gamma))
        return math.nextafter(math.sqrt(squared * (1 + 4 * _EPS)), math.inf)


def near_orthogonal_norm_bound(matrix: np.ndarray, margin: float = 1e-4) -> float:
    """As `dense_norm_bound`, and far closer to 1 where the columns, or the rows, are nearly orthonormal."""
    return min(dense_norm_bound(matrix, margin), math.sqrt(1 + orthonormality_error(matrix)) * (1 + 4 * _EPS))


def orthonormality_error(matrix: np.ndarray) -> float:
    """A proven bound of ‖DᵀD − 1‖ for a real, finite float64 matrix D (of ‖DDᵀ − 1‖ where D has fewer rows)."""
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    if np.abs(matrix).max(initial=0.0) > 1e100:  # squares would leave the range of float64
        return math.inf
    residual, gamma = matrix.T @ matrix, _gram_error(len(matrix))
    lost = gamma * float(np.einsum("ii->", residual)) * (1 + 4 * gamma)
    residual[np.diag_indices_from(residual)] -= 1
    return (dense_norm_bound(residual) + lost) * (1 + 8 * _EPS)


def dense_rounding(shape: tuple[int, int]) -> float:
    """The largest part of `dense_norm_bound`, relative to it, that allows for rounding.

    About γ (N b² + ‖D‖_F²) / b² with the smaller side for N, as ‖D‖_F² <= N b²; 3 in place of 2 for the rest.
    """
    return 3 * _gram_error(max(shape)) * min(shape)


def _gram_error(side: int) -> float:
    """γ of sums of `side` products."""
    roundoff = (side + 8) * _EPS / 2
    return roundoff / (1 - roundoff)
