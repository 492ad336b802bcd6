"""Certified radii in feature space.  Float64 numpy throughout; inputs are cast up, never down.

A certificate for features y with label l is a radius r such that h predicts l, strictly, at every y + δ with ‖δ‖ < r.
Dividing r by a Lipschitz bound of the backbone turns it into a radius for the image (paper, Proposition 1).
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Certified radii of N inputs.

    Attributes:
      radius: (N,) float64, proven; 0 where the label is not the strict argmax of the logits.
      rival: (N,) int, the class that sets the radius; where the prediction is wrong, the predicted class (for a tie,
        a class tied with the label).
      exact: (N,) bool, whether radius equals, to 1e-6, the distance to the decision boundary in feature space.
      upper: (N,) float64, distance to a point in feature space that is not classified as the label.
      prediction: (N,) int, the label where it is the strict argmax of the logits, otherwise the rival.
    """

    radius: np.ndarray
    rival: np.ndarray
    exact: np.ndarray
    upper: np.ndarray
    prediction: np.ndarray


def certify_lln(features, weight, bias, labels) -> Certificate:
    """Exact certificates of the LLN head f = (W / row norms) y + b, over all rivals (Singla et al., 2022).

    For label l and rival i, f_l − f_i is affine in y with slope w_l − w_i, so the nearest point where i draws level is
    at distance (f_l − f_i) / ‖w_l − w_i‖, and the radius is the minimum over all i ≠ l.  Differences of rows are taken
    before any product or norm: 2(1 − cos) of nearly parallel rows would cancel.  A rival with w_i = w_l and f_l > f_i
    never wins: its distance is infinite.

    Args:
      features: (N, D), float32 or float64, at which the head is certified.
      weight: (K, D) raw rows, normalised here; bias: (K,).
      labels: (N,) integers in [0, K).

    Returns:
      A `Certificate` in feature-space l2 units; every radius is exact.

    Raises:
      ValueError: shapes that do not fit, half precision, entries that are not finite, a zero row, labels out of range.
    """
    features = checked_array("features", features, (None, None))
    weight = checked_array("weight", weight, (None, features.shape[1]))
    bias = checked_array("bias", bias, (len(weight),))
    labels = checked_labels(labels, len(features), len(weight))
    norms = np.linalg.norm(weight / np.abs(weight).max(axis=1, keepdims=True, initial=np.finfo(float).tiny), axis=1)
    if not (norms > 0).all():
        raise ValueError(f"weight: row {int(np.argmin(norms))} is zero and cannot be normalised")
    rows = weight / np.abs(weight).max(axis=1, keepdims=True) / norms[:, None]

    radius, rival = np.zeros(len(features)), np.zeros(len(features), np.int64)
    for label in np.unique(labels):
        own = labels == label
        slopes = rows[label] - rows
        margins = features[own] @ slopes.T + (bias[label] - bias)
        margins[:, label] = np.inf
        slope_norms = np.linalg.norm(slopes, axis=1)
        distances = np.divide(margins, slope_norms, out=np.full_like(margins, np.inf), where=slope_norms > 0)
        right = (margins > 0).all(axis=1)
        radius[own] = np.where(right, distances.min(axis=1), 0.0)
        rival[own] = np.where(right, _nearest(distances, label), np.argmin(margins, axis=1))
    prediction = np.where(radius > 0, labels, rival)
    return Certificate(radius, rival, np.ones(len(features), bool), radius.copy(), prediction)


def _nearest(distances: np.ndarray, label: int) -> np.ndarray:
    """Index of the smallest distance; never the label itself, even if all distances are infinite."""
    others = np.delete(np.arange(distances.shape[1]), label)
    return others[np.argmin(distances[:, others], axis=1)]


def checked_array(name: str, value, shape: tuple[int | None, ...]) -> np.ndarray:
    """The value as a finite float64 array of the given shape (None: any length, at least 1)."""
    array = np.asarray(value)
    if array.dtype.name not in ("float32", "float64"):
        raise ValueError(f"{name}: dtype must be float32 or float64, got {array.dtype}")
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits:
        raise ValueError(f"{name}: shape must be {shape} (None: any), got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: has entries that are not finite")
    return array.astype(np.float64)


def checked_labels(labels, count: int, num_classes: int) -> np.ndarray:
    """The labels as int64, checked to be `count` integers in [0, num_classes)."""
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels: must be {count} integers, got shape {labels.shape} of {labels.dtype}")
    if num_classes < 2:
        raise ValueError(f"weight: a certificate needs at least 2 classes, got {num_classes}")
    if count and not (0 <= labels.min() and labels.max() < num_classes):
        raise ValueError(f"labels: must lie in [0, {num_classes}), got {labels.min()} to {labels.max()}")
    return labels.astype(np.int64)
