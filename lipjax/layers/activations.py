"""Activations on channel pairs (c, c + C/2): 1-Lipschitz, and gradient-norm preserving (docs/pooling.md)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lipjax import ops
from lipjax.layers.initializers import uniform_angles
from lipjax.layers.layer import Layer, isometry

_WHY = "isometries, continuous where they meet"


class MaxMin(Layer):
    """`ops.max_min`; no parameters."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return ops.max_min(x)

    @nn.nowrap
    def proof(self, own, shape):
        return isometry("activation 'max_min'", _WHY)


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
        return isometry("activation 'householder'", _WHY)


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
        return isometry("activation 'householder2'", _WHY)
