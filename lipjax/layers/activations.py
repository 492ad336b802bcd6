"""Activations as layers: 1-Lipschitz, and gradient-norm preserving."""

from typing import Any

import flax.linen as nn
import jax

from lipjax import ops
from lipjax.layers.pooling import uniform_angles


class Activation(nn.Module):
    """An activation that never enlarges a distance."""

    def lipschitz_bound(self, variables: Any = None, size: int | None = None) -> float:
        """1, for all parameters and resolutions."""
        del variables, size
        return 1.0


class MaxMin(Activation):
    """`ops.max_min`; no parameters."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return ops.max_min(x)


class Householder(Activation):
    """`ops.householder` with a learnable angle per channel pair.

    Params: angle (C/2,), initialised π/2 (MaxMin with its halves swapped).
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return ops.householder(x, self.param("angle", nn.initializers.constant(jax.numpy.pi / 2), (x.shape[-1] // 2,)))


class Householder2(Activation):
    """`ops.householder2` with three learnable angles per channel pair.

    Params: angle0, angle1, angle2 (C/2,), initialised U(0, π).
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return ops.householder2(x, *(self.param(f"angle{i}", uniform_angles, (x.shape[-1] // 2,)) for i in range(3)))
