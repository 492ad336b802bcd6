"""What a program says of its own network: Lipschitz constants and certificates, by its formulas in its precision."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lipjax.ops.convolution import linear_operator
from lipjax.ops.general_conv import adjoint, norm_along
from lipjax.ops.ritz import unit


class Claimed(NamedTuple):
    """What a program takes as the Lipschitz constant of one layer.

    Attributes:
      how: 'by construction', or how the number is obtained: 'estimate: …' is no bound.
      value: computes it, in float32 where the program does.
      layer: its name in our network.
    """

    how: str
    value: Callable[[], float]
    layer: str = ""


def by_construction(value: float = 1.0) -> Claimed:
    """The constant that the theory of the layer gives."""
    return Claimed("by construction", lambda: value)


def norm_power_steps(kernel: jax.Array, image: jax.Array, steps: int) -> jax.Array:
    """v ← K* K v / ‖K* K v‖, so many times, from a unit image v (H, W, C_in); a constant for the gradient."""
    kernel = jax.lax.stop_gradient(kernel)
    height, width, _ = image.shape
    forth, back = (linear_operator(k, height, width) for k in (kernel, adjoint(kernel)))

    def step(_, v):
        return unit(back(forth(v[None]))[0])

    return jax.lax.fori_loop(0, steps, step, jax.lax.stop_gradient(image))


def by_power_iteration(kernel: np.ndarray, start: np.ndarray, steps: int, of: str = "the stored vector") -> Claimed:
    """‖K v‖ after v ← K*K v / ‖K*K v‖, so many steps in float32, from an image v (H, W, C_in)."""

    def value():
        image = norm_power_steps(jnp.asarray(kernel, jnp.float32), jnp.asarray(start, jnp.float32), steps)
        return float(norm_along(jnp.asarray(kernel, jnp.float32), image))

    return Claimed(f"estimate: {steps} power iterations from {of}, float32", value)


def by_svd(matrix: np.ndarray) -> Claimed:
    """The largest singular value in float32."""
    return Claimed("estimate: SVD in float32", lambda: float(np.linalg.norm(np.float32(matrix), 2)))


class Claim(NamedTuple):
    """How a program certifies.

    Attributes:
      layers: one for each of our layers, in order; the product of their values is its Lipschitz constant.
      formula: 'rows': (f_l − f_j) / (L ‖w_l − w_j‖), w the unit rows of the last layer, over all j; 'root two':
        (f_l − max of the others) / (√2 L); 'two': 2 in place of √2.
      strict: whether a radius must exceed ε, or may equal it: then ties are certified.
      source: where that is said, in its repository.
    """

    layers: tuple[Claimed, ...]
    formula: str
    strict: bool
    source: str

    def constants(self) -> list[float]:
        """Of each layer."""
        return [claimed.value() for claimed in self.layers]

    def radii(self, lipschitz: float, logits: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(classes, radii), (N,) each, of logits (N, K) and unit rows (K, D), in float32 as the program has them.

        The class is the first of the largest logits.  Where another one has the very same logit the radius is 0, or, by
        'rows' where their rows coincide too, nothing keeps it from being any: inf if not `strict`.
        """
        logits, rows = np.asarray(logits, np.float32), np.asarray(rows, np.float32)
        label = logits.argmax(axis=1)
        margins = np.take_along_axis(logits, label[:, None], axis=1) - logits
        distances = np.full(logits.shape, math.sqrt(2) if self.formula == "root two" else 2.0, np.float32)
        if self.formula == "rows":
            distances = np.sqrt(np.sum((rows[label][:, None] - rows) ** 2, axis=2))
        with np.errstate(divide="ignore", invalid="ignore"):
            radii = np.float64(margins) / (lipschitz * distances)
        radii = np.where(np.isnan(radii), 0.0 if self.strict else np.inf, radii)
        np.put_along_axis(radii, label[:, None], np.inf, axis=1)
        return label, radii.min(axis=1)

    def certified(self, radii: np.ndarray, radius: float) -> np.ndarray:
        """Whether the program takes the radius as certified, (N,)."""
        return radii > radius if self.strict else radii >= radius
