"""Activations on channel pairs (c, c + C/2): 1-Lipschitz, and gradient-norm preserving (docs/pooling.md)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax import ops
from lipjax.layers.initializers import uniform_angles
from lipjax.layers.layer import Layer, Shape, Variables, isometry
from lipjax.layers.rounding import SINE, Rounding, enlarged, gamma, moved, underflow

_WHY = "isometries, continuous where they meet"
_LARGEST_ANGLE = 1000.0  # beyond, the sines of some library lose digits


def of_sectors(own: Variables, shape: Shape, angle: float = 0.0, apart: float = 1.0) -> Rounding:
    """Of pairs z that are reflected or turned sector by sector, by angles that are off by `angle` units of roundoff.

    Sines and cosines are then off by e = SINE + `angle` units, a 2×2 matrix of them by 2 e; products and sums add
    √2 + 1.
    On which side of a ray z is, is decided by z_2 cos − z_1 sin, known to d = (√2 e + 1) u ‖z‖.  So the sector whose
    map is applied has a point q with ‖z − q‖ <= `apart` d; the map F and that of the sector agree at q and enlarge no
    distance, hence differ at z by 2 `apart` d at most.

    Raises:
      ValueError: an angle beyond ±1000, where the sines of some library lose digits.
    """
    for name, value in own["params"].items():
        largest = float(np.abs(np.asarray(value)).max(initial=0.0))
        if largest > _LARGEST_ANGLE:
            raise ValueError(f"{name} must lie within ±{_LARGEST_ANGLE:g}, got {largest:g}")
    e = SINE + angle
    turned, misplaced = 2 * e + math.sqrt(2) + 1, 2 * apart * (math.sqrt(2) * e + 1)
    return enlarged(gamma(turned + misplaced), underflow(math.prod(shape), 20))


class MaxMin(Layer):
    """`ops.max_min`; no parameters."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return ops.max_min(x)

    @nn.nowrap
    def proof(self, own, shape):
        return isometry("activation 'max_min'", _WHY, rounding=moved(math.prod(shape)))


class Householder(Layer):
    """`ops.householder` with a learnable angle per channel pair.

    Params: angle (C/2,), initialised π/2 (MaxMin with its halves swapped).
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return ops.householder(x, self.param("angle", nn.initializers.constant(jnp.pi / 2), (x.shape[-1] // 2,)))

    @nn.nowrap
    def proof(self, own, shape):
        return isometry("activation 'householder'", _WHY, rounding=of_sectors(own, shape))


class Householder2(Layer):
    """`ops.householder2` with three learnable angles per channel pair.

    Params: angle0, angle1, angle2 (C/2,), initialised U(0, π).
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return ops.householder2(x, *(self.param(f"angle{i}", uniform_angles, (x.shape[-1] // 2,)) for i in range(3)))

    @nn.nowrap
    def proof(self, own, shape):
        # Angles are clipped to [0, 2π], of which the end is known to 2π u, and added: half a sum of three is known to
        # (6 + 4 + 6) π u / 2, a whole sum of two to (4 + 4) π u.  A wrong comparison puts z at most d beyond the ray of
        # a sector next to the right one, and a wrong half plane as far again.
        rounding = of_sectors(own, shape, 8 * math.pi, 2.0)
        return isometry("activation 'householder2'", _WHY, rounding=rounding)
