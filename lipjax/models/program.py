"""The program that certifies: a backbone run in one precision, and how far its features are from exact ones."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

from lipjax.layers import Layer, Proof, Sequential
from lipjax.layers.layer import Variables, own_of
from lipjax.layers.rounding import COARSEST, ROUNDOFF, largest
from lipjax.models.network import Classifier
from lipjax.ops.arithmetic import arithmetic
from lipjax.system.devices import over_devices, padded_to_devices

BATCH_SIZE = 500
PRECISIONS = ("float64", "float32")

_UNITS = {"float64": 1.0, "float32": COARSEST}  # the roundoff, in units of that of float64


def checked_images(images, image_shape: tuple[int, ...] | None = None) -> np.ndarray:
    """The images as an array; ValueError unless they are float32 or float64 in [0, 1], (N, H, W, C)."""
    images = np.asarray(images)
    if images.dtype.name not in ("float32", "float64"):
        raise ValueError(f"images: dtype must be float32 or float64 in [0, 1], got {images.dtype}")
    if images.ndim != 4 or (image_shape is not None and images.shape[1:] != image_shape):
        wanted = ("H", "W", "C") if image_shape is None else image_shape
        raise ValueError(f"images: shape must be (N, {', '.join(map(str, wanted))}), got {images.shape}")
    if not (np.isfinite(images).all() and images.min(initial=0.0) >= 0 and images.max(initial=1.0) <= 1):
        raise ValueError(f"images: pixels must lie in [0, 1], got {images.min()} to {images.max()}")
    return images


class Program:
    """A backbone in evaluation, in one precision, with the norms of what enters each of its outermost parts.

    The error bound.  Let x' be within a distance r of x, ṽ and v what enters a part in the program and in real
    arithmetic, and E >= ‖ṽ − v‖ at every such x'.  By the bounds of the parts before, of product M, ‖v(x') − v(x)‖ <=
    M r, so ‖ṽ(x')‖ <= ‖ṽ(x)‖ + M r + 2 E, and after the part, of bound L and rounding (relative, absolute),

        E ← L E + relative (‖ṽ(x)‖ + M r + 2 E) + absolute,    M ← L M,    from E = 0, M = 1.

    Args:
      backbone, variables: read-only, see `Proven`.
      proof: of the backbone with these variables.
      precision: one of PRECISIONS; variables are cast up, never down.

    Raises:
      ValueError: another precision; float32 with variables that are not.
    """

    def __init__(self, backbone: Layer, variables: Variables, proof: Proof, precision: str):
        self.precision, self.unit = precision, _UNITS[precision]
        self._variables = variables
        layers: tuple[tuple[str, Layer], ...] = (("", backbone),)
        self._parts = [proof]
        if type(backbone) is Sequential:
            layers, self._parts = backbone.layers, [part for _, part in proof.parts]
        self._run = jax.jit(functools.partial(_features, layers))

    @property
    def unproven(self) -> list[str]:
        """What the layers compute that state no rounding."""
        without = [part for part in self._parts if part.rounding is None]
        inner = [link.kind for part in without for _, link in part.links() if link.rounding is None]
        return inner or [part.kind for part in without]

    def features(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(features (N, D), norms (N, parts)) of images (N, H, W, C), batch by batch."""
        with arithmetic(self.precision):
            return in_batches(self._run, self._variables, images.astype(self.precision))

    def error(self, norms: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """E, (N,), at all points within `reach` (N,) of images with norms (N, parts); inf where it may overflow."""
        error, drift = np.zeros(len(norms)), np.asarray(reach, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            for part, norm in zip(self._parts, norms.T, strict=True):
                relative, absolute = part.rounding or (math.inf, math.inf)
                size = norm + drift + 2 * error
                error = part.lipschitz * error + self.unit * (relative * size + absolute)
                error = np.where(self._peak(part, size) < largest(self.precision), error, np.inf)
                drift = part.lipschitz * drift
        return error * (1 + 1e-9)

    def _peak(self, part: Proof, size: np.ndarray) -> np.ndarray:
        """What no number in a part, and in all that it is made of, exceeds for inputs of norm <= size, (N,).

        Its layers are taken one after the other, none making anything smaller, which covers those side by side.
        """
        peak, highest = size, size
        for _, link in part.links():
            relative, absolute = link.rounding or (math.inf, math.inf)
            # Divided by the roundoff, a rounding bounds whatever is added up on the way.
            highest = np.maximum(highest, peak * (1 + relative / ROUNDOFF) + absolute / ROUNDOFF)
            lost = self.unit * (relative * peak + absolute)
            peak = max(link.lipschitz, 1.0) * peak + link.offset + lost
            highest = np.maximum(highest, peak)
        return highest


def _features(layers, variables: Variables, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, norms = images, []
    for name, layer in layers:
        norms.append(_norms(x))
        x = layer.evaluate(own_of(variables, name), x)
    return x, jnp.stack(norms, axis=1)


def _norms(x: jax.Array) -> jax.Array:
    """A bound of the norm of each of the arrays x (N, …), (N,), in whatever order the squares are added."""
    flat = x.reshape(len(x), -1)
    scale = jnp.maximum(jnp.max(jnp.abs(flat), axis=1, initial=0), jnp.finfo(x.dtype).tiny)
    norms = scale * jnp.sqrt(jnp.sum((flat / scale[:, None]) ** 2, axis=1))
    return norms * (1 + (flat.shape[1] + 8) * float(jnp.finfo(x.dtype).eps))


def in_batches(run: Callable[..., Any], variables: Variables, images: np.ndarray) -> Any:
    """run(variables, batch), arrays (N, …), of all images, every product at full precision (no TF32, no bf16)."""
    size = padded_to_devices(min(BATCH_SIZE, max(len(images), 1)))
    batches = [images[start : start + size] for start in range(0, max(len(images), 1), size)]
    padded = [np.concatenate([b, np.zeros((size - len(b), *b.shape[1:]), b.dtype)]) for b in batches]
    with jax.default_matmul_precision("highest"):
        computed = [jax.tree.map(np.asarray, run(variables, over_devices(batch))) for batch in padded]
    return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(images)], *computed)


def cast(variables: Variables, precision: str) -> Variables:
    """Read-only arrays of a precision, each cast up and so unchanged; ValueError where one would be cast down."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: must be one of {PRECISIONS}")
    if "params" not in variables:
        raise ValueError(
            f"variables: must have 'params' (and 'spectral'), got {', '.join(map(repr, variables)) or 'none'}"
        )

    def of_leaf(path, leaf):
        if leaf.dtype == np.float64 and precision == "float32":
            raise ValueError(f"precision='float32': {jax.tree_util.keystr(path)} is float64, which would be rounded")
        array = leaf.astype(precision)
        if ((array != 0) & (np.abs(array) < np.finfo(precision).tiny)).any():
            where = jax.tree_util.keystr(path)
            raise ValueError(f"precision={precision!r}: {where} has subnormal numbers, which a program may take for 0")
        return np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)  # bytes are never writeable

    tree = {name: dict(collection) for name, collection in variables.items()}
    return FrozenDict(jax.tree_util.tree_map_with_path(of_leaf, jax.tree.map(np.asarray, tree)))


def penultimate_features(model: Classifier, variables: Variables, images) -> np.ndarray:
    """g(x), (N, D), of a network in training, in its own precision and with no proof."""
    return in_batches(lambda variables, batch: _features_of(model, variables, batch), variables, checked_images(images))


@jax.jit(static_argnums=0)
def _features_of(model, variables, images):
    return model.apply(variables, images, method="features")
