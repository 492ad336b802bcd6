"""Layers made of layers: in a row, side by side, added to the identity.  Each proves by what it runs."""

import math
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax.layers import plain
from lipjax.layers.container import Container, check_layer, checked_layers
from lipjax.layers.layer import Layer, Proof, own_of, root_sum_of_squares, times, up
from lipjax.layers.rounding import COARSEST, EXACT, Rounding, enlarged, gamma, underflow


class Sequential(Container):
    """f_n ∘ … ∘ f_1, one layer after the other.

    Bound: the product of the bounds; the offset follows b ← L b + offset; all rounded up.

    Source: elementary.

    Attributes:
      layers: ((name, layer), …), run in this order.

    Raises:
      TypeError, ValueError: an entry that is no (name, Layer), two of one name.
    """

    layers: tuple[tuple[str, Layer], ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "layers", checked_layers("Sequential", self.layers))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for name, layer in self.layers:
            x = self.child(name, layer)(x, train)
        return x

    @nn.nowrap
    def evaluate(self, own, x):
        for name, layer in self.layers:
            x = layer.evaluate(own_of(own, name), x)
        return x

    @nn.nowrap
    def input_shapes(self, own, shape):
        shapes = [shape]
        for name, layer in self.layers:
            shapes.append(layer.output_shape(own_of(own, name), shapes[-1]))
        return shapes[:-1]

    @nn.nowrap
    def proof(self, own, shape):
        """Rounding: that of each layer at its input, carried on by the bounds of those that follow."""
        parts = self.proofs(own, shape)
        bound, offset, rounding = composed(parts)
        return Proof("one after the other", bound, "product", offset, rounding=rounding, parts=parts)

    @nn.nowrap
    def estimate(self, own, shape):
        return math.prod(self.estimates(own, shape))

    @nn.nowrap
    def plain(self, own, shape):
        layers: list[dict[str, Any]] = []
        for (name, layer), shape_in in zip(self.layers, self.input_shapes(own, shape), strict=True):
            layers += layer.plain(own_of(own, name), shape_in)
        return layers


def composed(parts: Iterable[tuple[str, Proof]]) -> tuple[float, float, Rounding | None]:
    """(bound, offset, rounding) of maps one after the other."""
    bound, offset = 1.0, 0.0
    rounding: Rounding | None = EXACT
    for _, part in parts:
        rounding = _rounding_after(part, bound, offset, rounding)
        bound, offset = times(bound, part.lipschitz), _after(part, offset)
    return bound, offset, rounding


def _rounding_after(part: Proof, bound: float, offset: float, rounding: Rounding | None) -> Rounding | None:
    """Of part ∘ f, f with a bound, an offset and a rounding: L e + relative (bound ‖v‖ + offset + e) + absolute."""
    if rounding is None or part.rounding is None:
        return None
    carried = part.lipschitz + COARSEST * part.rounding.relative
    relative = carried * rounding.relative + part.rounding.relative * bound
    absolute = carried * rounding.absolute + part.rounding.relative * offset + part.rounding.absolute
    return enlarged(relative, absolute)


def _after(part: Proof, reach: float) -> float:
    """A bound of ‖f(v)‖ for ‖v‖ <= reach."""
    return up(up(part.lipschitz * reach) + part.offset) if part.lipschitz * reach or part.offset else 0.0


class Residual(Container):
    """(1 − a) x + a f(x), of the shape of x.

    Bound: (1 − a) + a L, by the triangle inequality: 1 where that of f is.

    Rounding: that of f, a times, and 4 units of the size of the two terms.

    Source: elementary.

    Attributes:
      layer: f, of as many outputs as inputs.
      a: in [0, 1].

    Raises:
      TypeError: f that is no Layer.  ValueError: a outside [0, 1]; f(x) of another shape than x.
    """

    layer: Layer
    a: float = 0.5

    def __post_init__(self):
        check_layer("Residual: layer", self.layer)
        a = float(self.a) if isinstance(self.a, int | float) else math.nan
        if not 0 <= a <= 1:
            raise ValueError(f"Residual: a must be a number in [0, 1], got {self.a!r}")
        if 0 < a < 1e-30:  # float32 might take it for 0
            raise ValueError(f"Residual: a must be 0 or at least 1e-30, got {self.a!r}")
        object.__setattr__(self, "a", a)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return self._sum(x, self.child("", self.layer)(x, train))

    @nn.nowrap
    def _sum(self, x, y):
        if x.shape != y.shape:  # it would be broadcast, and a broadcast enlarges distances
            raise ValueError(f"Residual: f(x) must have the shape {x.shape} of x, got {y.shape}")
        return (1 - self.a) * x + self.a * y

    @nn.nowrap
    def children(self):
        return (("", self.layer),)

    @nn.nowrap
    def with_children(self, layers):
        return self.clone(layer=layers[0][1], parent=None, name=None)

    @nn.nowrap
    def evaluate(self, own, x):
        return self._sum(x, self.layer.evaluate(own, x))

    @nn.nowrap
    def proof(self, own, shape):
        ((name, part),) = self.proofs(own, shape)
        self.output_shape(own, shape)
        bound = up(up(1 - self.a) + up(self.a * part.lipschitz)) if self.a else 1.0
        bound = 1.0 if part.lipschitz <= 1 else bound  # (1 − a) + a L <= 1 without any rounding
        kind, offset = f"(1 − {self.a:g}) x + {self.a:g} f(x)", up(self.a * part.offset)
        return Proof(kind, bound, "sum", offset, rounding=self._rounding(part, shape), parts=((name, part),))

    @nn.nowrap
    def estimate(self, own, shape):
        return 1 - self.a + self.a * self.estimates(own, shape)[0]

    @nn.nowrap
    def _rounding(self, part, shape) -> Rounding | None:
        """That of f, a times; and 4 units: of 1 − a, of it in the dtype of x, of the product and of the sum."""
        if part.rounding is None:
            return None
        inner, size = part.rounding, part.lipschitz + COARSEST * part.rounding.relative
        relative = self.a * inner.relative + gamma(4) * (1 - self.a + self.a * size)
        reach = part.offset + COARSEST * inner.absolute
        lost = underflow(math.prod(shape), 4)
        return enlarged(relative, self.a * (inner.absolute + gamma(3) * reach) + lost)

    @nn.nowrap
    def plain(self, own, shape):
        branch = [*self.layer.plain(own, shape), plain.affine(self.a)]
        return [plain.total([plain.affine(1 - self.a)], branch)]


class Concatenate(Container):
    """(f_1(x), …, f_n(x)), channels side by side.

    Bound: (Σ L_i²)^½, as ‖f(u) − f(v)‖² = Σ ‖f_i(u) − f_i(v)‖².

    Rounding: the roots of the sums of squares of those of the layers.

    Source: elementary.

    Attributes:
      layers: ((name, layer), …), each of the same input, with outputs that differ in channels only.
    """

    layers: tuple[tuple[str, Layer], ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "layers", checked_layers("Concatenate", self.layers))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return jnp.concatenate([self.child(name, layer)(x, train) for name, layer in self.layers], axis=-1)

    @nn.nowrap
    def evaluate(self, own, x):
        return jnp.concatenate([layer.evaluate(own_of(own, name), x) for name, layer in self.layers], axis=-1)

    @nn.nowrap
    def proof(self, own, shape):
        parts = self.proofs(own, shape)
        self.output_shape(own, shape)
        bound = root_sum_of_squares([part.lipschitz for _, part in parts])
        offset, rounding = root_sum_of_squares([part.offset for _, part in parts]), None
        if all(part.rounding is not None for _, part in parts):
            rounding = enlarged(*(root_sum_of_squares(column) for column in _columns(parts)))
        why = "root of the sum of squares"
        return Proof("channels side by side", bound, why, offset, rounding=rounding, parts=parts)

    @nn.nowrap
    def estimate(self, own, shape):
        return jnp.linalg.norm(jnp.stack([jnp.asarray(bound, float) for bound in self.estimates(own, shape)]))

    @nn.nowrap
    def plain(self, own, shape):
        branches = [layer.plain(own_of(own, name), shape) for name, layer in self.layers]
        return [{"kind": "concatenate", "branches": branches}]


def _columns(parts) -> tuple[list[float], list[float]]:
    """(relative, absolute) of all parts."""
    return [part.rounding.relative for _, part in parts], [part.rounding.absolute for _, part in parts]


class Split(Container):
    """(f_1(x_1), …, f_n(x_n)), x_i groups of channels, each through a layer of its own, side by side again.

    Bound: the largest, as ‖f(u) − f(v)‖² <= Σ L_i² ‖u_i − v_i‖².

    Rounding: the largest relative one, and the root of the sum of squares of the absolute ones.

    Source: elementary.

    Attributes:
      layers: ((name, layer), …).
      channels: of each group, in order; they add up to those of the input.
    """

    layers: tuple[tuple[str, Layer], ...] = ()
    channels: tuple[int, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "layers", checked_layers("Split", self.layers))
        channels = tuple(int(count) for count in self.channels)
        is_whole = channels == tuple(self.channels) and all(count >= 1 for count in channels)
        if len(channels) != len(self.layers) or not is_whole:
            raise ValueError(f"Split: channels must be {len(self.layers)} numbers >= 1, got {self.channels!r}")
        object.__setattr__(self, "channels", channels)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        groups = self._groups(x)
        outputs = [self.child(*entry)(group, train) for entry, group in zip(self.layers, groups, strict=True)]
        return jnp.concatenate(outputs, axis=-1)

    @nn.nowrap
    def _groups(self, x):
        if x.shape[-1] != sum(self.channels):
            raise ValueError(f"Split: channels={self.channels} must add up to the {x.shape[-1]} of the input")
        return jnp.split(x, np.cumsum(self.channels)[:-1].tolist(), axis=-1)

    @nn.nowrap
    def input_shapes(self, own, shape):
        return [(*shape[:-1], count) for count in self.channels]

    @nn.nowrap
    def evaluate(self, own, x):
        outputs = [
            layer.evaluate(own_of(own, name), group)
            for (name, layer), group in zip(self.layers, self._groups(x), strict=True)
        ]
        return jnp.concatenate(outputs, axis=-1)

    @nn.nowrap
    def proof(self, own, shape):
        self.output_shape(own, shape)
        parts = self.proofs(own, shape)
        bound = max((part.lipschitz for _, part in parts), default=1.0)
        offset, rounding = root_sum_of_squares([part.offset for _, part in parts]), None
        if all(part.rounding is not None for _, part in parts):
            relative, absolute = _columns(parts)
            rounding = enlarged(max(relative, default=0.0), root_sum_of_squares(absolute))
        return Proof("groups of channels", bound, "the largest", offset, rounding=rounding, parts=parts)

    @nn.nowrap
    def estimate(self, own, shape):
        return jnp.max(jnp.stack([jnp.asarray(bound, float) for bound in self.estimates(own, shape)]), initial=0.0)

    @nn.nowrap
    def plain(self, own, shape):
        shapes = self.input_shapes(own, shape)
        branches = [layer.plain(own_of(own, name), s) for (name, layer), s in zip(self.layers, shapes, strict=True)]
        return [{"kind": "split", "channels": list(self.channels), "branches": branches}]
