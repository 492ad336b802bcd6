"""Certificates of the CRC-Lip head h(y) = W2 softplus(W1 y + b1) + b2 (paper, section 5 and Proposition 1).

Solvers propose a point δ, the closed form of `ops.crc.lower_bound` disposes: a radius needs no tolerance on a gradient
and is a proof whatever the solver did (derivation: docs/crc.md).  Proposals get dearer, and only pairs that can still
set an image's radius see the next one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lipjax.certificates.certificate import EXACT, Certificate, checked_array, checked_labels, checked_slack
from lipjax.certificates.curvature_cache import CurvatureCache
from lipjax.ops import crc as ops
from lipjax.ops.arithmetic import in_float64

_HALVINGS = 60  # of the bisection for a boundary point
_CHUNK_BYTES = 2**21  # of one (P, H) or (P, D) float64 array


def certify_crc(features, head, labels, rivals: int | None = None, curvature=None, slack=0.0) -> Certificate:
    """Certificates of the softplus head over all rivals, in feature space; float64 throughout.

    For label l and rival i, f(δ) = h_l − h_i at y + δ.  With m a proven bound of the lower curvature of f and
    g = ∇f(δ), at any δ (weak duality and strong convexity; ops.crc gives the proof and the rounding):
        r² >= ‖δ‖² + 2 η f(δ) − ‖δ + η g‖² / (1 − η m)   for 0 <= η < 1/m,   used at its best η.
    The radius is the smallest over the rivals of the best bound found for each; all rivals are bounded at δ = 0, those
    that can still set the minimum are refined.

    Args:
      features: (N, D), float32 (cast up) or float64.
      head: dict of w1 (H, D), b1 (H,), w2 (K, H), b2 (K,).
      labels: (N,) integers in [0, K).
      rivals: None for all.  An integer restricts to that many classes of largest logit besides the label: the paper's
        protocol for CIFAR-100 (rivals=9), not a proof, since a class that is left out may be nearer.
      curvature: None; a `CurvatureCache` of this head, which saves computing the bounds again from call to call; or
        (K, K) upper bounds of m as returned by `ops.curvature_bound`: taken as proven, and `protocol` says so.
      slack: by how much the logit of the label is to be larger than every other within the radius; or (N,).

    Returns:
      A `Certificate`.  `upper` is the distance to a point found at which a rival has drawn level, inf if none was
      found, 0 where the prediction is wrong; `exact`: upper − radius <= 1e-6 upper.  The radius is 0 where the label is
      not the strict argmax, and where its margin is below the rounding of float64.

    Raises:
      ValueError: head or features of the wrong shape or dtype (half precision) or not finite, labels out of range,
        rivals < 1, curvature of another head, of the wrong shape or negative, a slack that is negative.
    """
    if rivals is not None and (isinstance(rivals, bool) or not isinstance(rivals, int | np.integer) or rivals < 1):
        raise ValueError(f"rivals: must be None or an integer of at least 1, got {rivals!r}")
    features, head = checked_head(features, head)
    labels = checked_labels(labels, len(features), len(head["b2"]))
    slack = checked_slack(slack, len(features))
    margins, lower, upper = pair_bounds(features, head, labels, curvature, rivals=rivals, every_pair=False, slack=slack)
    rows = np.arange(len(labels))
    margins[rows, labels] = np.inf
    lower[rows, labels] = np.inf
    right = margins.min(axis=1) > 0
    # The label's own column comes last in any tie, also among infinite bounds.
    others = np.argsort(np.where(right[:, None], lower, margins), axis=1, kind="stable")
    rival = np.where(others[:, 0] == labels, others[:, 1], others[:, 0])
    radius = np.where(right, lower[rows, rival], 0.0)
    nearest = np.where(right, upper.min(axis=1), 0.0)
    exact = (radius >= nearest * (1 - EXACT)) & ((nearest < np.inf) | (radius == np.inf))
    restricted = rivals is not None and rivals < len(head["b2"]) - 1
    given = curvature is not None and not isinstance(curvature, CurvatureCache)
    protocol = "proof, if the curvature bounds that were given are those of this head" if given else "proof"
    protocol = f"paper protocol, {rivals} rivals: not a proof" if restricted else protocol
    return Certificate(radius, rival, exact, nearest, np.where(right, labels, rival), protocol)


def checked_head(features, head) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Features and head as finite float64 arrays whose shapes fit; ValueError names what does not."""
    missing = [name for name in ("w1", "b1", "w2", "b2") if name not in head]
    if missing:
        raise ValueError(f"head: needs w1, b1, w2 and b2, lacks {', '.join(missing)}")
    features = checked_array("features", features, (None, None))
    w1 = checked_array("head['w1']", head["w1"], (None, features.shape[1]))
    w2 = checked_array("head['w2']", head["w2"], (None, len(w1)))
    b1 = checked_array("head['b1']", head["b1"], (len(w1),))
    b2 = checked_array("head['b2']", head["b2"], (len(w2),))
    if 0 in (*w1.shape, *w2.shape):
        raise ValueError(f"head: empty weights, w1 {w1.shape} and w2 {w2.shape}")
    return features, {"w1": w1, "b1": b1, "w2": w2, "b2": b2}


def pair_bounds(
    features, head, labels, curvature=None, *, rivals=None, every_pair=True, slack=None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(margins, lower, upper), each (N, K): f_l − f_i − slack and the bounds of the distance to where it is 0 (upper:
    to where f_l = f_i), checked arrays in.

    every_pair=False refines only what can set an image's radius; the other pairs keep valid, looser bounds (`upper`
    inf).  A pair whose margin is not positive has lower = 0; images predicted wrong are then not refined at all.
    """
    count, num_classes = len(features), len(head["b2"])
    bounds, tight = _curvature(curvature, head)
    is_rival = np.arange(num_classes) != labels[:, None]
    margins, lower = np.zeros((2, count, num_classes))
    upper = np.full((count, num_classes), np.inf)
    with in_float64():
        solver = _Solver(features, head, labels, bounds, np.zeros(count) if slack is None else slack)

        def refine(kernel: Callable, pairs: np.ndarray) -> None:
            image, rival = pairs.T
            better, found = solver(kernel, pairs)
            lower[image, rival] = np.maximum(lower[image, rival], better)
            upper[image, rival] = np.minimum(upper[image, rival], found)

        margins[is_rival], lower[is_rival] = solver(_screen, np.argwhere(is_rival))
        candidates = is_rival & (margins > 0)
        if rivals is not None:
            chosen = _largest_logits(margins, is_rival, rivals)
            candidates &= chosen
            lower[is_rival & ~chosen] = np.inf
        if not every_pair:
            candidates[(is_rival & (margins <= 0)).any(axis=1)] = False
            # The most threatening rival first: its boundary point rules out most of the others.
            images = np.flatnonzero(candidates.any(axis=1))
            nearest = np.argmin(np.where(candidates, lower, np.inf)[images], axis=1)
            refine(_quick, np.stack([images, nearest], axis=1))

        for kernel in (_quick, _thorough, _dual):
            limit = upper if every_pair else upper.min(axis=1, keepdims=True)
            pairs = np.argwhere(candidates & (lower < limit * (1 - EXACT)))
            if kernel is _quick and not every_pair:
                pairs = pairs[upper[tuple(pairs.T)] == np.inf]
            elif kernel is not _quick and len(pairs):
                classes = np.unique(np.stack([labels[pairs[:, 0]], pairs[:, 1]], axis=1), axis=0)
                solver.bounds[tuple(classes.T)] = tight(classes)
            refine(kernel, pairs)
    return margins, lower, upper


def _curvature(curvature, head) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """(K, K) bounds to start with, and a function pairs (P, 2) → (P,) tight bounds."""
    if curvature is None:
        curvature = CurvatureCache(None, head["w1"], head["w2"])
    if isinstance(curvature, CurvatureCache):
        if not curvature.is_of(head["w1"], head["w2"]):
            raise ValueError("curvature: a cache of another head: its w1 or w2 is not that of this one")
        return curvature.bounds(), curvature.tight
    bounds = checked_array("curvature", curvature, (len(head["w2"]),) * 2)
    if (bounds < 0).any():
        raise ValueError(f"curvature: bounds must not be negative, got {bounds.min()}")
    return bounds, lambda pairs: bounds[tuple(pairs.T)]


def _largest_logits(margins: np.ndarray, is_rival: np.ndarray, rivals: int) -> np.ndarray:
    """(N, K) bool: the `rivals` classes of largest logit besides the label, those with the smallest margins."""
    top = np.argsort(np.where(is_rival, margins, np.inf), axis=1, kind="stable")[:, :rivals]
    chosen = np.zeros(margins.shape, bool)
    np.put_along_axis(chosen, top, True, axis=1)
    return chosen


class _Weights(NamedTuple):
    w1: jax.Array
    b1: jax.Array
    w2: jax.Array
    b2: jax.Array
    gram: jax.Array | None  # W1 W1ᵀ where that is the cheaper way to apply it


class _Solver:
    """Applies the kernels below to pairs chunk by chunk: memory does not grow with the number of images or classes."""

    def __init__(self, features, head, labels, bounds, slack):
        self.bounds = bounds.copy()
        self._features, self._labels, self._slack = features, labels, slack
        hidden, width = head["w1"].shape
        gram = head["w1"] @ head["w1"].T if hidden <= 2 * width else None
        self._weights = jax.tree.map(jnp.asarray, _Weights(**head, gram=gram))
        self._chunk = int(np.clip(2 ** int(np.log2(_CHUNK_BYTES / (8 * max(hidden, width)))), 16, 2048))

    def __call__(self, kernel: Callable, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The kernel's two results, (P,) each, for the pairs (P, 2) of image and rival."""
        first, second = np.zeros(len(pairs)), np.zeros(len(pairs))
        # The last chunk is padded; two sizes only, as each one is compiled.  The dual solver goes pair by pair anyway.
        chunk, remainder = (1, 1) if kernel is _dual else (self._chunk, self._chunk // 8)
        start = 0
        while start < len(pairs):
            size = chunk if len(pairs) - start > remainder else remainder
            image, rival = pairs[start : start + size].T
            padding = (0, size - len(image))
            image, rival = np.pad(image, padding, mode="edge"), np.pad(rival, padding, mode="edge")
            label = self._labels[image]
            about = self._features[image], label, rival, self._slack[image], self.bounds[label, rival]
            results = kernel(self._weights, *about)
            stop = min(start + size, len(pairs))
            first[start:stop], second[start:stop] = (np.asarray(part)[: stop - start] for part in results)
            start += size
        return first, second


def _pairs(weights: _Weights, y, label, rival, slack, m) -> ops.Pairs:
    z = y @ weights.w1.T + weights.b1
    w, b = weights.w2[label] - weights.w2[rival], weights.b2[label] - weights.b2[rival] - slack
    return ops.Pairs(z, w, b, m, jnp.linalg.norm(y, axis=1))


@jax.jit
def _screen(weights: _Weights, y, label, rival, slack, m):
    """(margin, lower bound at δ = 0): r >= (√(‖g‖² + 2 m f) − ‖g‖) / m."""
    pairs = _pairs(weights, y, label, rival, slack, m)
    margin = jnp.sum(pairs.w * ops.softplus_and_slope(pairs.z)[0], axis=1) + pairs.b
    return margin, ops.lower_bound(weights.w1, weights.b1, pairs, jnp.zeros_like(y), jnp.zeros_like(pairs.z))


@jax.jit
def _quick(weights: _Weights, y, label, rival, slack, m):
    """Five steps of the fixed point: enough for most pairs of a trained head."""
    pairs = _pairs(weights, y, label, rival, slack, m)
    return _evaluate(weights, pairs, slack, ops.fixed_point(weights.w1, weights.gram, pairs, 5), halvings=0)


@jax.jit
def _thorough(weights: _Weights, y, label, rival, slack, m):
    """Twenty damped steps, and a boundary point by bisection."""
    pairs = _pairs(weights, y, label, rival, slack, m)
    delta = ops.fixed_point(weights.w1, weights.gram, pairs, 20, damping=0.3)
    return _evaluate(weights, pairs, slack, delta, _HALVINGS)


def _dual(weights: _Weights, y, label, rival, slack, m):
    """jaxopt, started from the fixed point."""
    from lipjax.certificates.dual_solver import dual_optimum  # imported where a head needs it: jaxopt is slow to load

    pairs, start = _start(weights, y, label, rival, slack, m)
    return _evaluate(weights, pairs, slack, dual_optimum(weights.w1, pairs, start), _HALVINGS)


@jax.jit
def _start(weights: _Weights, y, label, rival, slack, m):
    pairs = _pairs(weights, y, label, rival, slack, m)
    return pairs, ops.fixed_point(weights.w1, weights.gram, pairs, 10)


@jax.jit(static_argnames="halvings")
def _evaluate(weights: _Weights, pairs: ops.Pairs, slack, delta, halvings: int):
    """(lower, upper) at the proposals δ (P, D); upper is of the boundary itself, without the slack in `pairs`."""
    shift = delta @ weights.w1.T
    lower = ops.lower_bound(weights.w1, weights.b1, pairs, delta, shift)
    whole = pairs._replace(b=pairs.b + slack)
    return lower, ops.boundary_distance(weights.w1, weights.b1, whole, delta, shift, halvings)
