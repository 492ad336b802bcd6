"""Lanczos estimates of norms, from below, in numpy: what the proofs of `bounds` and `symbols` start from."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

_STEPS, _PER_CHECK, _TOLERANCE = 400, 16, 1e-4


def largest_eigenvalue(gram: np.ndarray) -> float:
    """Lanczos estimate, from below, of the largest eigenvalue of a positive semidefinite matrix."""
    if len(gram) <= 64:
        return float(np.linalg.eigvalsh(gram)[-1])
    start = np.random.default_rng(0).normal(size=len(gram))
    try:
        eigenvalues = scipy.sparse.linalg.eigsh(gram, k=1, v0=start, tol=1e-6, return_eigenvectors=False)
        return float(eigenvalues[0])
    except scipy.sparse.linalg.ArpackNoConvergence:
        return float(np.linalg.norm(gram @ start) / np.linalg.norm(start))


def skew_norm_estimate(kernel: np.ndarray, size: tuple[int, int]) -> float:
    """Estimate of the norm of the zero-padded convolution with a skew kernel, in float32.

    A skew operator is skew-tridiagonal in its Krylov basis; with the signs dropped that matrix has the same norm.
    """
    return krylov_norm([_convolution(kernel, size)], (*size, kernel.shape[2]), 1.0)


def conv_norm_estimate(kernel: np.ndarray, size: tuple[int, int]) -> float:
    """The same for any kernel (k, l, C_in, C_out), k and l odd: by Golub and Kahan, with its adjoint."""
    adjoint = np.flip(kernel, (0, 1)).swapaxes(2, 3)
    both = [_convolution(kernel, size), _convolution(adjoint, size)]
    return krylov_norm(both, (*size, kernel.shape[2]), -1.0)


def _convolution(kernel: np.ndarray, size: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """x (H, W, C_in) → (H, W, C_out) in float32."""
    (height, width), (k, wide, channels, _) = size, kernel.shape
    taps = kernel.astype(np.float32).reshape(k * wide * channels, -1)
    padded = np.zeros((height + k - 1, width + wide - 1, channels), np.float32)
    image = padded[k // 2 : k // 2 + height, wide // 2 : wide // 2 + width]
    patches = np.lib.stride_tricks.sliding_window_view(padded, (k, wide), (0, 1)).transpose(0, 1, 3, 4, 2)

    def apply(x):
        image[:] = x
        return (patches.reshape(-1, k * wide * channels) @ taps).reshape(height, width, -1)

    return apply


def krylov_norm(operators: Sequence[Callable], shape: tuple[int, ...], sign: float) -> float:
    """Norm of the tridiagonal matrix of the Krylov space that operators applied in turn span from a random vector."""
    vector: np.ndarray = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    vector = vector / np.linalg.norm(vector)
    previous: np.ndarray | float = 0.0
    lengths, estimate = [0.0], 0.0
    for apply in itertools.cycle(operators):
        following = apply(vector) + sign * lengths[-1] * previous
        lengths.append(float(np.linalg.norm(following)))
        exhausted = lengths[-1] < 1e-6 or len(lengths) > vector.size
        if exhausted or len(lengths) % _PER_CHECK == 0:
            last, tridiagonal = estimate, (np.zeros(len(lengths)), np.array(lengths[1:]))
            estimate = float(scipy.linalg.eigvalsh_tridiagonal(*tridiagonal)[-1])
            if exhausted or estimate <= last * (1 + _TOLERANCE) or len(lengths) >= _STEPS:
                break
        previous, vector = vector, following / np.float32(lengths[-1])
    return estimate
