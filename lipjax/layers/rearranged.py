"""Entries that are put elsewhere: some of the channels, zeros around, features as an image again."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from lipjax.config import integer
from lipjax.layers.checks import check_field
from lipjax.layers.layer import Layer, isometry
from lipjax.layers.plain_linear import around
from lipjax.layers.rounding import moved


class TakeChannels(Layer):
    """(…, C) → (…, len(order)), channel order[i] as the i-th; each at most once.

    Bound: 1, as of every permutation and orthogonal projection.

    Rounding: none, as numbers are moved.

    Source: elementary.

    Attributes:
      order: indices of channels, all different.
    """

    order: tuple[int, ...] = (0,)

    def __post_init__(self):
        order = tuple(self.order) if isinstance(self.order, tuple | list | range) else ()
        fits = len(order) > 0 and all(integer(0)[1](i) for i in order) and len(set(order)) == len(order)
        check_field("TakeChannels", "order", self.order, ("different integers >= 0", lambda _: fits))
        object.__setattr__(self, "order", order)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        if max(self.order) >= x.shape[-1]:
            raise ValueError(f"TakeChannels: order must be of the {x.shape[-1]} channels, got {max(self.order)}")
        return x[..., jnp.array(self.order)]

    @nn.nowrap
    def proof(self, own, shape):
        kind = f"{len(self.order)} of {shape[-1]} channels"
        return isometry(kind, "a permutation and a projection", rounding=moved(math.prod(shape)))

    @nn.nowrap
    def plain(self, own, shape):
        start, stop = self.order[0], self.order[0] + len(self.order)
        if self.order == tuple(range(start, stop)):
            return [{"kind": "slice_channels", "start": start, "stop": stop}]
        return [{"kind": "take_channels", "order": list(self.order)}]


class ZerosAround(Layer):
    """Zeros around images and beside channels: (N, H, W, C) → (N, top + H + bottom, left + W + right, C').

    Bound: 1, as zeros are added: an isometry.

    Rounding: none, as numbers are moved.

    Source: elementary.

    Attributes:
      padding: ((top, bottom), (left, right)), or all in one.
      channels: how many zeros before and behind the C of the input.
    """

    padding: int | tuple[tuple[int, int], tuple[int, int]] = 0
    channels: tuple[int, int] = (0, 0)

    def __post_init__(self):
        object.__setattr__(self, "padding", around("ZerosAround", self.padding))
        channels = tuple(self.channels) if isinstance(self.channels, tuple | list) else ()
        fits = len(channels) == 2 and all(integer(0)[1](n) for n in channels)
        check_field("ZerosAround", "channels", self.channels, ("two integers >= 0", lambda _: fits))
        object.__setattr__(self, "channels", channels)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return jnp.pad(x, ((0, 0), *self.padding, self.channels))  # type: ignore[misc]

    @nn.nowrap
    def proof(self, own, shape):
        return isometry("zeros around", "the entries of the input, and zeros", rounding=moved(math.prod(shape)))

    @nn.nowrap
    def plain(self, own, shape):
        padding = [list(side) for side in self.padding]  # type: ignore[union-attr]
        return [{"kind": "pad", "padding": padding, "channels": list(self.channels)}]


class Unflatten(Layer):
    """(N, D) → (N, *shape), the entries in the order of memory.

    Bound: 1, as no entry changes: an isometry.

    Rounding: none, as numbers are moved.

    Source: elementary.

    Attributes:
      shape: (H, W, C), D numbers.
    """

    shape: tuple[int, ...] = (1, 1, 1)

    def __post_init__(self):
        shape = tuple(self.shape) if isinstance(self.shape, tuple | list) else ()
        fits = len(shape) == 3 and all(integer(1)[1](n) for n in shape)
        check_field("Unflatten", "shape", self.shape, ("three integers >= 1", lambda _: fits))
        object.__setattr__(self, "shape", shape)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        if math.prod(x.shape[1:]) != math.prod(self.shape):
            raise ValueError(
                f"Unflatten: shape={self.shape} must have the {math.prod(x.shape[1:])} numbers of the input"
            )
        return x.reshape(len(x), *self.shape)

    @nn.nowrap
    def proof(self, own, shape):
        return isometry("unflattening", "a permutation", rounding=moved(math.prod(shape)))

    @nn.nowrap
    def plain(self, own, shape):
        return [{"kind": "unflatten", "shape": list(self.shape)}]
