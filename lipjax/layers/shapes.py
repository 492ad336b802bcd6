"""Layers without parameters for users' own networks: the input scale, rearrangement, flattening."""

import math
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from lipjax import ops


class InputScale(nn.Module):
    """(x − mean) / std for pixels (N, H, W, C), Lipschitz with 1 / min(std).

    Attributes:
      mean, std: a number, or one per channel; std positive.

    Raises:
      ValueError: a std that is not positive and finite.
    """

    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale_bound(self.std)
        return (x - np.asarray(self.mean, x.dtype)) / np.asarray(self.std, x.dtype)

    def lipschitz_bound(self, variables: Any = None, size: int | None = None) -> float:
        """1 / min(std), rounded up."""
        del variables, size
        return scale_bound(self.std)


def scale_bound(std) -> float:
    """1 / min(std), rounded up; ValueError unless all are positive and finite.

    A float32 network divides by the rounded std, which may be a little smaller.
    """
    smallest = float(np.min(std))
    if not (smallest > 0 and np.isfinite(std).all()):
        raise ValueError(f"std={std!r}: must be positive and finite")
    return math.nextafter(1.0 / min(smallest, float(np.float32(smallest))), math.inf)


class SpaceToDepth(nn.Module):
    """`ops.space_to_depth`, (N, H, W, C) → (N, H/2, W/2, 4C): a permutation of the entries."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return ops.space_to_depth(x)

    def lipschitz_bound(self, variables: Any = None, size: int | None = None) -> float:
        """1, for all resolutions."""
        del variables, size
        return 1.0


class Flatten(nn.Module):
    """(N, …) → (N, D): a permutation of the entries."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], -1)

    def lipschitz_bound(self, variables: Any = None, size: int | None = None) -> float:
        """1, for all resolutions."""
        del variables, size
        return 1.0
