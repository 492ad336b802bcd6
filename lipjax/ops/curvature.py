"""Proven bounds of the curvature of softplus heads h(y) = W2 softplus(W1 y + b1) + b2.

The Hessian of f = h_l − h_i at any y is W1ᵀ diag(w ∘ σ') W1 with w = w2_l − w2_i and 0 < σ' <= 1/4, so

    −m I ⪯ ∇²f ⪯ M I,    m(l, i) = λmax(W1ᵀ diag(c) W1),  c = 1/4 max(0, w2_i − w2_l)      and M(l, i) = m(i, l),

(Singla & Feizi, 2020; the paper's K_h is max(m, M)).  λmax(W1ᵀ diag(c) W1) = ‖diag(√c) W1‖² is a squared spectral norm,
bounded by one successful Cholesky factorisation of the smaller Gram matrix (see `bounds`): an estimate that is too low
fails there, it never enters a certificate.

λmax is monotone and subadditive in c >= 0.  With the mean r of the rows of W2,
max(0, w2_i − w2_l) <= max(0, w2_i − r) + max(0, r − w2_l), which bounds all K(K − 1) pairs by 2K such norms, and
c <= max(c) bounds each by ‖W1‖² max(c): the cheap bound is the smaller of the two.  No array has a pair and a hidden
unit for indices.
"""

import math

import numpy as np

from lipjax.ops.dense_bounds import dense_norm_bound

_EPS = float(np.finfo(np.float64).eps)
_RIVALS_AT_ONCE = 64  # rows of W2 that stay in the cache of a processor


def curvature_bound(w1, w2, pairs=None) -> np.ndarray:
    """Upper bounds of m(l, i) = 1/4 λmax(W1ᵀ diag(max(0, w2_i − w2_l)) W1), 0.03 % above it or closer.

    Cost: one Gram matrix and one Cholesky factorisation of side min(D, number of rows with c > 0) a pair.

    Args:
      w1: (H, D) and w2: (K, H), the head's weights, float32 or float64 (float32 is cast up).
      pairs: (P, 2) integers (l, i), or None for every ordered pair.

    Returns:
      (K, K) float64, m of f_l − f_i at [l, i] (M of it is [i, l]), diagonal 0; or (P,) for `pairs`.

    Raises:
      ValueError: weights of the wrong shape or dtype or not finite; pairs of the wrong shape or out of range.
    """
    w1, w2 = checked_weights(w1, w2)
    if pairs is not None:
        return np.array([pair_bound(w1, w2, j, i) for j, i in checked_pairs(pairs, len(w2))], dtype=np.float64)
    bounds = np.zeros((len(w2), len(w2)))
    for label, rival in np.argwhere(~np.eye(len(w2), dtype=bool)):
        bounds[label, rival] = pair_bound(w1, w2, label, rival)
    return bounds


def cheap_curvature_bound(w1, w2) -> np.ndarray:
    """Upper bounds of m for every ordered pair from 2K + 1 proven norms instead of K(K − 1); up to about 2 m.

    Args, returns and errors as `curvature_bound` without pairs: (H, D), (K, H) → (K, K), diagonal 0.
    """
    w1, w2 = checked_weights(w1, w2)
    centred = w2 - w2.mean(axis=0)
    return cheap_of_parts(w2, np.array([part_bound(w1, centred, part) for part in range(2 * len(w2) + 1)]))


def pair_bound(w1: np.ndarray, w2: np.ndarray, label: int, rival: int) -> float:
    """`curvature_bound` of one pair, checked weights in float64."""
    return _weighted_bound(w1, w2[rival] - w2[label])


def part_bound(w1: np.ndarray, centred: np.ndarray, part: int) -> float:
    """1/4 λmax(W1ᵀ diag(c) W1) for c = max(0, w2_k − r), part k; max(0, r − w2_k), part K + k; and 1, part 2K.

    `centred` (K, H) has the rows w2_k − r.
    """
    count = len(centred)
    if part == 2 * count:
        return _weighted_bound(w1, np.ones(len(w1)))
    difference = centred[part % count]
    return _weighted_bound(w1, difference if part < count else -difference)


def cheap_of_parts(w2: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """`cheap_curvature_bound`, (K, K), from its parts (2K + 1,), see `part_bound`."""
    count = len(w2)
    above, below, whole = parts[:count], parts[count:-1], parts[-1]
    largest, buffer = np.zeros((count, count)), np.empty((_RIVALS_AT_ONCE, w2.shape[1]))
    for start in range(0, count, _RIVALS_AT_ONCE):
        rivals = w2[start : start + _RIVALS_AT_ONCE]
        for label, row in enumerate(w2):
            difference = np.subtract(rivals, row, out=buffer[: len(rivals)])
            largest[label, start : start + len(rivals)] = difference.max(axis=1)
    # 16 eps covers the roundings of the differences against the computed mean, of the sum and of the product.
    bounds = np.minimum(below[:, None] + above[None, :], whole * np.maximum(largest, 0)) * (1 + 16 * _EPS)
    return np.where(np.eye(count, dtype=bool), 0.0, bounds)


def _weighted_bound(w1: np.ndarray, difference: np.ndarray) -> float:
    """An upper bound of 1/4 λmax(W1ᵀ diag(max(0, difference)) W1).

    Rounding: difference (one subtraction), √ and the powers of two change row weights by factors within 1 ± 4 eps, and
    λmax is monotone in them; the entries √c w are rounded once, which moves the norm of B by at most
    eps ‖B‖_F <= eps √min(shape) ‖B‖.
    """
    positive = difference > 0
    weights, rows = difference[positive], w1[positive]
    largest_weight, largest_entry = weights.max(initial=0.0), np.abs(rows).max(initial=0.0)
    if largest_weight == 0.0 or largest_entry == 0.0:
        return 0.0
    # Powers of two keep the squares of tiny or huge entries inside the range of float64 (see `conv_norm_bound`).
    weight_exponent, row_exponent = math.frexp(largest_weight)[1], math.frexp(largest_entry)[1]
    scaled = np.sqrt(np.ldexp(weights, -weight_exponent))[:, None] * np.ldexp(rows, -row_exponent)
    squared = dense_norm_bound(scaled) ** 2 * (1 + (16 + 4 * math.sqrt(min(scaled.shape))) * _EPS)
    return math.nextafter(math.ldexp(squared, weight_exponent + 2 * row_exponent - 2), math.inf)


def checked_weights(w1, w2) -> tuple[np.ndarray, np.ndarray]:
    """The weights as float64 matrices (H, D) and (K, H); ValueError unless finite float32 or float64 that fit."""
    checked = []
    for name, value in (("w1", w1), ("w2", w2)):
        array = np.asarray(value)
        if array.dtype.name not in ("float32", "float64"):
            raise ValueError(f"{name}: dtype must be float32 or float64, got {array.dtype}")
        if array.ndim != 2 or 0 in array.shape:
            raise ValueError(f"{name}: must be a matrix, got shape {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: has entries that are not finite")
        checked.append(array.astype(np.float64))
    if checked[0].shape[0] != checked[1].shape[1]:
        raise ValueError(f"w2: shape must be (K, {len(checked[0])}) to fit w1, got {checked[1].shape}")
    return checked[0], checked[1]


def checked_pairs(pairs, num_classes: int) -> np.ndarray:
    """The pairs (P, 2) as int64; ValueError unless integers in [0, num_classes)."""
    array = np.asarray(pairs)
    if array.size == 0:
        array = np.zeros((0, 2), np.int64)
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iu":
        raise ValueError(f"pairs: must be (P, 2) integers, got shape {array.shape} of {array.dtype}")
    if array.size and not (0 <= array.min() and array.max() < num_classes):
        raise ValueError(f"pairs: must lie in [0, {num_classes}), got {array.min()} to {array.max()}")
    return array.astype(np.int64)
