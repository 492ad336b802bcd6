"""Certified radii in feature space.  Float64 numpy throughout; inputs are cast up, never down.

A certificate for features y with label l is a radius r such that h predicts l, strictly, at every y + δ with ‖δ‖ < r.
Dividing r by a Lipschitz bound of the backbone turns it into a radius for the image (paper, Proposition 1).
"""

import math
from fractions import Fraction

import numpy as np

from lipjax.certificates.certificate import EXACT, Certificate, checked_array, checked_labels, checked_slack


def certify_lln(features, weight, bias, labels, rivals: int | None = None, slack=0.0) -> Certificate:
    """Exact certificates of the LLN head f = (W / row norms) y + b, over all rivals (Singla et al., 2022).

    For label l and rival i, f_l − f_i is affine in y with slope w_l − w_i, so the nearest point where i draws level is
    at distance (f_l − f_i) / ‖w_l − w_i‖, and the radius is the minimum over all i ≠ l.  Differences of rows are taken
    before any product or norm: 2(1 − cos) of nearly parallel rows would cancel.  A rival with w_i = w_l and f_l > f_i
    never wins: its distance is infinite.  The float64 rounding of all this is subtracted.

    Args:
      features: (N, D), float32 or float64, at which the head is certified.
      weight: (K, D) raw rows, normalised here; bias: (K,).
      labels: (N,) integers in [0, K).
      rivals: None for all.  An integer restricts to that many classes of largest logit besides the label: the paper's
        protocol for CIFAR-100 (rivals=9), not a proof, since a class that is left out may be nearer.
      slack: by how much the logit of the label is to be larger than every other within the radius; or (N,).

    Returns:
      A `Certificate` in feature-space l2 units; a radius is `exact` unless its rounding, which is subtracted, counts:
      where a rival's row is parallel to the label's to some nine digits, or the margin is as small.

    Raises:
      ValueError: shapes that do not fit, half precision, entries that are not finite, a zero row, labels out of range,
        a slack that is negative.
    """
    arrays = _checked(features, weight, bias, labels, rivals, slack)
    weight = arrays[1]
    rows = _unit_rows(weight)
    return _certified(arrays, rows, rivals, lambda label, other: _is_parallel(rows, weight, label, other))


def certify_linear(features, weight, bias, labels, rivals: int | None = None, slack=0.0) -> Certificate:
    """Exact certificates of a linear head f = W y + b, over all rivals: as `certify_lln`, of the rows as they are.

    All of W, b and the slack are divided by one power of two, so that no row is longer than 1, which changes no
    distance (f_l − f_i) / ‖w_l − w_i‖.

    Args, returns and raises: those of `certify_lln`; a row may be zero.
    """
    features, weight, bias, labels, slack = _checked(features, weight, bias, labels, rivals, slack)
    exponent = _exponent(weight)
    rows, bias, slack = (np.ldexp(array, -exponent) for array in (weight, bias, slack))
    arrays = features, weight, bias, labels, slack
    return _certified(arrays, rows, rivals, lambda label, other: np.array_equal(weight[label], weight[other]))


def linear_distances(weight: np.ndarray) -> np.ndarray:
    """(K, K) bounds of ‖w_l − w_i‖ of the rows of a float64 weight (K, D), as `certify_linear` divides by."""
    exponent = _exponent(weight)
    return np.ldexp(_distances(np.ldexp(weight, -exponent)), exponent)


def _exponent(weight: np.ndarray) -> int:
    """e, no row being longer than 2^e: 2^e >= √D · largest entry."""
    largest = float(np.abs(weight).max(initial=0.0))
    return math.frexp(largest)[1] + math.frexp(math.sqrt(weight.shape[1]))[1] if largest else 0


def _checked(features, weight, bias, labels, rivals, slack) -> tuple[np.ndarray, ...]:
    """(features, weight, bias, labels, slack (N,)); ValueError for others than the docstrings say."""
    features = checked_array("features", features, (None, None))
    weight = checked_array("weight", weight, (None, features.shape[1]))
    bias = checked_array("bias", bias, (len(weight),))
    labels, slack = checked_labels(labels, len(features), len(weight)), checked_slack(slack, len(features))
    if rivals is not None and (isinstance(rivals, bool) or not isinstance(rivals, int | np.integer) or rivals < 1):
        raise ValueError(f"rivals: must be None or an integer of at least 1, got {rivals!r}")
    return features, weight, bias, labels, slack


def _certified(arrays: tuple[np.ndarray, ...], rows: np.ndarray, rivals: int | None, is_parallel) -> Certificate:
    """Of f = rows · y + b, no row longer than 1 but for rounding; `is_parallel`: whether logits differ by a constant.

    With u = eps/2: rows are off by (D/2 + 3) u each, a product of D terms by D u times the norms, so that margins are
    off by (3 D + 6) u ‖y‖ + 2 u (|b_l| + |b_i|) at most, slopes by (D + 6) u and their norms by (D/2 + 2) u relative.
    """
    features, weight, bias, labels, slack = arrays
    is_restricted = rivals is not None and rivals < len(weight) - 1
    gamma = _gamma(features.shape[1])
    size = np.abs(features).max(axis=1, initial=np.finfo(float).tiny)  # squares of features may under- or overflow
    reach = size * np.linalg.norm(features / size[:, None], axis=1) * (1 + gamma)

    radius, upper, rival = np.zeros(len(features)), np.zeros(len(features)), np.zeros(len(features), np.int64)
    with np.errstate(all="ignore"):  # a margin that overflows is not > 0 for certain: its radius is 0, its upper inf
        for label in np.unique(labels):
            own = labels == label
            parallel = [i for i in range(len(rows)) if i != label and is_parallel(label, i)]
            of_label = (label, parallel, rivals if is_restricted else None, slack[own, None])
            radius[own], upper[own], rival[own] = _of_label(
                features[own], reach[own, None], rows, bias, gamma, *of_label
            )
    prediction = np.where(radius > 0, labels, rival)
    exact = (radius >= upper * (1 - EXACT)) & ((upper < np.inf) | (radius == np.inf))
    protocol = f"paper protocol, {rivals} rivals: not a proof" if is_restricted else "proof"
    return Certificate(radius, rival, exact, upper, prediction, protocol)


def _unit_rows(weight: np.ndarray) -> np.ndarray:
    """The normalised rows (K, D); ValueError for a zero row."""
    largest = np.abs(weight).max(axis=1, keepdims=True)
    if not (largest > 0).all():
        raise ValueError(f"weight: row {int(np.argmin(largest))} is zero and cannot be normalised")
    rows = weight / largest
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _gamma(dimension: int) -> float:
    return (dimension + 16) * np.finfo(np.float64).eps


def row_distances(weight: np.ndarray) -> np.ndarray:
    """(K, K) bounds of ‖w_l − w_i‖ of the normalised rows of a float64 weight (K, D), as `certify_lln` divides by."""
    return _distances(_unit_rows(weight))


def _distances(rows: np.ndarray) -> np.ndarray:
    """Bounds of ‖w_l − w_i‖ of rows (K, D) no longer than 1, as `_of_label` divides by."""
    gamma = _gamma(rows.shape[1])
    return np.linalg.norm(rows[:, None] - rows, axis=2) * (1 + gamma) + 2 * gamma


def _of_label(features, reach, rows, bias, gamma, label, parallel, rivals, slack):
    """(radius, upper, rival), (N,) each, of features (N, D) of norms up to reach (N, 1) whose label is `label`."""
    slopes = rows[label] - rows
    margins = features @ slopes.T + (bias[label] - bias)
    rounding = gamma * (2 * reach + abs(bias[label]) + abs(bias)) * (1 + gamma)
    rounding += features.shape[1] * np.finfo(float).tiny  # products that underflow
    largest_margins = np.maximum(margins + rounding, 0.0)
    margins -= rounding + slack
    margins[:, label] = largest_margins[:, label] = np.inf
    if rivals is not None:  # the classes of smaller logits are taken to be at no distance at all
        left_out = np.argsort(margins, axis=1)[:, rivals:]
        for array in (margins, largest_margins):
            np.put_along_axis(array, left_out, np.inf, axis=1)
    steepness = np.linalg.norm(slopes, axis=1)
    distances = margins / (steepness * (1 + gamma) + 2 * gamma)
    flattest = steepness * (1 - gamma) - 2 * gamma
    distances[:, parallel] = np.where(margins[:, parallel] > 0, np.inf, 0.0)
    right = (margins > 0).all(axis=1)
    nearest = distances.min(axis=1)
    radius = np.where(right, np.where(nearest < np.inf, np.nextafter(nearest, 0), nearest), 0.0)
    rival = np.where(right, _nearest(distances, label), np.argmin(margins, axis=1))
    farthest = np.where(flattest > 0, largest_margins / flattest * (1 + gamma), np.inf)
    farthest[largest_margins == 0] = 0.0
    farthest[np.isnan(farthest)] = np.inf
    farthest[:, parallel] = np.where(margins[:, parallel] > 0, np.inf, farthest[:, parallel])
    return radius, farthest.min(axis=1), rival


def _is_parallel(rows, weight, label: int, other: int) -> bool:
    """Whether the logits of two classes differ by a constant, in exact arithmetic."""
    return not (rows[label] - rows[other]).any() and _same_ray(weight[label], weight[other])


def _same_ray(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two nonzero rows are positive multiples of each other, in exact arithmetic."""
    k = int(np.argmax(np.abs(a)))
    scale_a, scale_b = Fraction(float(a[k])), Fraction(float(b[k]))
    return scale_a * scale_b > 0 and all(
        Fraction(x) * scale_b == Fraction(y) * scale_a for x, y in zip(a.tolist(), b.tolist(), strict=True)
    )


def _nearest(distances: np.ndarray, label: int) -> np.ndarray:
    """Index of the smallest distance; never the label itself, even if all distances are infinite."""
    others = np.delete(np.arange(distances.shape[1]), label)
    return others[np.argmin(distances[:, others], axis=1)]
