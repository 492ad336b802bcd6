"""The value that every certification returns, and the checks of its inputs."""

import dataclasses

import numpy as np

EXACT = 1e-6  # relative gap between radius and upper at which a certificate counts as exact


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Certified radii of N inputs, l2: of features from `certificates`, of pixels in [0, 1] from `lipjax.certify`.

    Attributes:
      radius: (N,) float64, proven; 0 where the label is not the strict argmax of the logits.
      rival: (N,) int, the class that sets the radius; where the prediction is wrong, the predicted class (for a tie,
        a class tied with the label).
      exact: (N,) bool, whether radius equals, to 1e-6, the distance to the decision boundary in feature space.
      upper: (N,) float64, distance to a point in feature space that is not classified as the label.
      prediction: (N,) int, the label where it is the strict argmax of the logits, otherwise the rival.
      protocol: "proof", or what makes it less than one (a restriction to some rivals).
    """

    radius: np.ndarray
    rival: np.ndarray
    exact: np.ndarray
    upper: np.ndarray
    prediction: np.ndarray
    protocol: str = "proof"


def certified_accuracy(certificate: Certificate, radius: float) -> float:
    """Fraction of inputs that are predicted right with a certified radius strictly above `radius`."""
    return float(np.mean(certificate.radius > radius))


def checked_array(name: str, value, shape: tuple[int | None, ...]) -> np.ndarray:
    """The value as float64; ValueError unless finite, float32 or float64 and of the given shape (None: any length)."""
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
    """The labels as int64; ValueError unless `count` integers in [0, num_classes), num_classes >= 2."""
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels: must be {count} integers, got shape {labels.shape} of {labels.dtype}")
    if num_classes < 2:
        raise ValueError(f"weight: a certificate needs at least 2 classes, got {num_classes}")
    if count and not (0 <= labels.min() and labels.max() < num_classes):
        raise ValueError(f"labels: must lie in [0, {num_classes}), got {labels.min()} to {labels.max()}")
    return labels.astype(np.int64)


def checked_slack(slack, count: int) -> np.ndarray:
    """The slack as (count,) float64; ValueError unless a number or (count,) numbers >= 0, infinity among them."""
    array = np.asarray(slack, np.float64)
    if array.shape not in ((), (count,)) or not (array >= 0).all():
        raise ValueError(f"slack: must be a number >= 0 or {count} of them, got {slack!r}")
    return np.broadcast_to(array, (count,))


def over_bound(certificate: Certificate, lipschitz_bound: float, slack=0.0) -> Certificate:
    """Certificates of features as those of images, (radius − slack) / lipschitz_bound, rounded down.

    slack: () or (N,); where it is infinite nothing is certified, and where the radius is, a finite one changes nothing.
    """
    with np.errstate(invalid="ignore"):
        left = np.maximum(np.nextafter(certificate.radius - slack, -np.inf), 0.0)
    radius = np.where(slack == 0, certificate.radius, np.where(slack < np.inf, left, 0.0))
    exact = certificate.exact & (radius >= certificate.radius * (1 - EXACT))
    with np.errstate(divide="ignore", invalid="ignore"):  # a constant backbone has the bound 0
        # One rounding of the division, downwards, keeps the quotient a lower bound.
        divided = np.where(radius > 0, radius / lipschitz_bound, 0.0)
        radius = np.where((divided > 0) & (divided < np.inf), np.nextafter(divided, 0), divided)
        upper = np.where(certificate.upper > 0, certificate.upper / lipschitz_bound, 0.0)
    upper = np.where(upper > 0, np.nextafter(upper, np.inf), upper)
    return dataclasses.replace(certificate, radius=radius, exact=exact, upper=upper)
