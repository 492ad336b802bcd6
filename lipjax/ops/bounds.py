"""Proven upper bounds of the spectral norm of zero-padded convolutions.

Two bounds, both valid for every real kernel with k odd:

* Dense (small operators).  D is the matrix of the convolution, N its larger side, G = fl(DᵀD).  If the floating-point
  Cholesky factorisation of fl(b² I − G) succeeds, then b² I − G + E is positive semidefinite for a backward error
  ‖E‖ <= γ tr(b² I − G) <= γ N b²; with the rounding of G, ‖G − DᵀD‖ <= γ ‖D‖_F² and γ = (N + 8) u / (1 − (N + 8) u),
  u the unit roundoff,
      ‖D‖² <= b² + 2 γ (N b² + ‖D‖_F²).
  (Higham, Accuracy and Stability of Numerical Algorithms, theorems 10.3 and 3.5.)  An estimate of the norm only
  proposes b; the factorisation disposes.

* Circulant (large operators).  On a cyclic grid of m >= n + ⌊k/2⌋ points a side, the zero-padded n×n convolution is a
  sub-matrix of the cyclic one: outputs in [0, n) read inputs in [−⌊k/2⌋, n + ⌊k/2⌋), and those outside [0, n) fall on
  grid points that the sub-matrix leaves out.  (On the n-grid itself they would wrap around into the image: no bound.)
  The cyclic convolution is block diagonal in Fourier space, so its norm is the largest singular value of the symbols
  K̂(ω) = Σ_d K[d] e^{iω·d}.  A real kernel has K̂(−ω) = conj K̂(ω), so half of the frequencies are enough.
"""

import functools
import math

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from lipjax.ops.convolution import dense_operator

_EPS = float(np.finfo(np.float64).eps)
_DENSE_LIMIT = 4096  # unknowns up to which the dense bound is affordable ...
_SMALL_IMAGE_LIMIT = 16384  # ... and up to which it is worth its cost, as the grid is loose for small images


def conv_norm_bound(kernel, size: int) -> float:
    """An upper bound of the norm of the zero-padded, stride-1, size×size convolution with `kernel`.

    Dense when size²·C <= 4096 (16384 when size <= 4; C the larger channel count), circulant otherwise; all in float64.

    Args:
      kernel: (k, k, C_in, C_out) HWIO, k odd, any real entries (skew or not).
      size: height and width of the image, in pixels.

    Raises:
      ValueError: kernel of another shape, an even k, entries that are not finite, or size < 1.
    """
    if np.iscomplexobj(kernel):
        raise ValueError("conv_norm_bound: the kernel must be real")
    kernel = np.asarray(kernel, dtype=np.float64)
    if kernel.ndim != 4 or kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
        raise ValueError(f"conv_norm_bound: kernel must be (k, k, C_in, C_out) with k odd, got shape {kernel.shape}")
    if not np.isfinite(kernel).all():
        raise ValueError("conv_norm_bound: the kernel has entries that are not finite")
    if size < 1:
        raise ValueError(f"conv_norm_bound: size must be at least 1, got {size}")
    unknowns = size**2 * max(kernel.shape[2:])
    if unknowns <= (_SMALL_IMAGE_LIMIT if size <= 4 else _DENSE_LIMIT):
        return dense_norm_bound(dense_operator(kernel, size, size))
    return circulant_norm_bound(kernel, size + kernel.shape[0] // 2)


def _at_unit_scale(bound):
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


@_at_unit_scale
def dense_norm_bound(matrix: np.ndarray) -> float:
    """An upper bound of the spectral norm of a real float64 matrix, proven by one successful Cholesky factorisation."""
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    gram = matrix.T @ matrix
    frobenius_squared = float(np.einsum("ii->", gram))
    estimate = _largest_eigenvalue(gram)
    roundoff = (matrix.shape[0] + 8) * _EPS / 2
    gamma = roundoff / (1 - roundoff)
    margin = 1e-4
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


def _largest_eigenvalue(gram: np.ndarray) -> float:
    """Lanczos estimate, from below, of the largest eigenvalue of a positive semidefinite matrix."""
    if len(gram) <= 64:
        return float(np.linalg.eigvalsh(gram)[-1])
    start = np.random.default_rng(0).normal(size=len(gram))
    try:
        eigenvalues = scipy.sparse.linalg.eigsh(gram, k=1, v0=start, tol=1e-6, return_eigenvectors=False)
        return float(eigenvalues[0])
    except scipy.sparse.linalg.ArpackNoConvergence:
        return float(np.linalg.norm(gram @ start) / np.linalg.norm(start))


@_at_unit_scale
def circulant_norm_bound(kernel: np.ndarray, grid: int) -> float:
    """An upper bound of the norm of the cyclic convolution with a real kernel on a grid×grid torus.

    The rounding term covers the symbols, each a sum of k² products (Σ_d ‖K_d‖_F bounds their norms), and the backward
    error of the eigenvalue or singular value solver, taken generously as 32 C eps times that norm.
    """
    k, _, c_in, c_out = kernel.shape
    skew = c_in == c_out and np.array_equal(kernel, -np.flip(kernel, (0, 1)).swapaxes(2, 3))
    phases = np.exp(2j * np.pi / grid * np.outer(np.arange(grid), np.arange(k) - k // 2))
    largest = 0.0
    for row in range(grid // 2 + 1):
        symbols = np.einsum("wb,bio->wio", phases, np.einsum("a,abio->bio", phases[row], kernel))
        if skew:  # i K̂ is Hermitian; both ends of its spectrum count
            largest = max(largest, float(np.abs(np.linalg.eigvalsh(1j * symbols)).max()))
        else:
            largest = max(largest, float(np.linalg.svd(symbols, compute_uv=False).max()))
    size = float(np.sqrt((kernel**2).sum(axis=(2, 3))).sum())
    return (largest + (32 * max(c_in, c_out) + 4 * k * k) * _EPS * size) * (1 + 4 * _EPS)
