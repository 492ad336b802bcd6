"""Kernels of BCOP and of LOT from their parameters, by the formulas of 1LipschitzLayersCompared, in float64."""

import numpy as np

ITERATIONS = 20  # of Björck's
NEWTON = 10


def bjorck(matrix: np.ndarray) -> np.ndarray:
    """W ← 3/2 W − 1/2 W WᵀW, 20 times: towards the nearest orthogonal matrix."""
    for _ in range(ITERATIONS):
        matrix = 1.5 * matrix - 0.5 * matrix @ (np.swapaxes(matrix, -1, -2) @ matrix)
    return matrix


def bcop_kernel(matrices: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(C, C, k, k) of 2 k − 1 matrices (C, C): H and pairs of projections P, Q, after Björck's iteration.

    Each matrix is divided by its norm first; the program takes 10 power iterations from a random vector for that, so
    that it computes another network each time, by as much as its iteration has not forgotten.
    """
    scaled = matrices / np.linalg.norm(matrices, 2, axis=(1, 2))[:, None, None]
    orthogonal = bjorck(scaled)
    halves = orthogonal[1:] * mask
    projections = halves @ halves.swapaxes(1, 2)
    if not len(projections):
        return orthogonal[0][:, :, None, None]
    kernel = _corner(projections[0], projections[1])
    for index in range(2, len(projections), 2):
        kernel = _product(kernel, _corner(projections[index], projections[index + 1]))
    return np.einsum("ab,ijbc->caji", orthogonal[0], kernel)


def _corner(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """[[P Q, P (1 − Q)], [(1 − P) Q, (1 − P)(1 − Q)]], (2, 2, C, C)."""
    eye = np.eye(len(p))
    return np.array([[p @ q, p @ (eye - q)], [(eye - p) @ q, (eye - p) @ (eye - q)]])


def _product(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Σ over i' + i'' = i, j' + j'' = j of the products of matrices (k, k, C, C)."""
    k, others, channels = len(first), len(second), first.shape[2]
    result = np.zeros((k + others - 1, k + others - 1, channels, channels))
    for i in range(others):
        for j in range(others):
            result[i : i + k, j : j + k] += first @ second[i, j]
    return result


def lot_kernel(raw: np.ndarray, side: int) -> np.ndarray:
    """(C, C, l, l) of the convolution with zeros around that LOT is on images of `side`² pixels.

    On the grid of side + k − 1 points, at each frequency, Z V, Z from Newton's iteration for the
    inverse root of V V* + 1e-4.  What is cut off afterwards leaves the entries of that circular kernel of all
    differences of two pixels, l = 2 side − 1.  Of k = 1 all frequencies are alike, and l = 1.
    """
    channels, _, k, _ = raw.shape
    grid = side + 2 * (k // 2)
    symbol = np.fft.fft2(raw, (grid, grid)).conj().transpose(2, 3, 0, 1)
    shift = np.exp(-2j * np.pi * ((k - 1) // 2) * np.arange(grid) / grid)
    symbol = symbol * (shift[:, None] * shift)[..., None, None]
    orthogonal = _inverse_root(symbol @ symbol.conj().swapaxes(-1, -2) + 1e-4 * np.eye(channels)) @ symbol
    whole = np.fft.fft2(orthogonal, axes=(0, 1)).real / grid**2
    if k == 1:
        return whole[0, 0][:, :, None, None]
    places = np.arange(-side + 1, side) % grid
    return whole[places][:, places].transpose(2, 3, 0, 1)


def _inverse_root(gram: np.ndarray) -> np.ndarray:
    """Towards S^(−½), by ten steps of Newton's iteration on S over its Frobenius norm."""
    norm = np.linalg.norm(gram, axis=(-2, -1), keepdims=True) + 1e-4
    y, eye = gram / norm, np.eye(gram.shape[-1])
    z = np.broadcast_to(eye, gram.shape).astype(complex)
    for _ in range(NEWTON):
        t = 0.5 * (3 * eye - z @ y)
        y, z = y @ t, t @ z
    return z / np.sqrt(norm)
