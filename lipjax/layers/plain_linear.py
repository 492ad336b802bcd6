"""Convolutions, dense layers and channel-wise maps as ordinary networks have them: nothing is constrained."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax.config import flag, integer
from lipjax.layers import plain
from lipjax.layers.checks import check_field, check_shapes
from lipjax.layers.convolution import MORE, matrix_rounding, sides
from lipjax.layers.layer import Layer, Proof, Shape, norm_at_zero
from lipjax.layers.proven_norm import proven_plain_norm
from lipjax.layers.rounding import COARSEST, enlarged, gamma, underflow
from lipjax.ops import plain_conv
from lipjax.ops.blocked import of_bias as bias_terms
from lipjax.ops.blocked import product
from lipjax.ops.dense_bounds import dense_rounding, near_orthogonal_norm_bound
from lipjax.ops.fusion import stored
from lipjax.ops.nonnegative import nonnegative_operator_bound
from lipjax.ops.plain_conv import PADDING_MODES, Geometry, Operator, linear_norm_estimate

_LOST = 2.0**-1022  # of W · scale, where the product of two numbers is below the range of float64


class PlainConv(Layer):
    """y = (K x + b) · scale + shift, K a convolution of any kind, (N, H, W, C) → (N, H', W', features).

    y[i] = Σ_t W[t] x[s i + d t − p] for each axis, with stride s, dilation d and p pixels of padding before the image;
    H' = ⌊(H + padding − d (k − 1) − 1) / s⌋ + 1.  Scale and shift, a batch normalisation in evaluation, stand in the
    kernel and in the bias: W · scale and b · scale + shift.

    Bound: the proven norm of K with its scale at the resolution of the layer (`ops.plain_bounds`): of its matrix where
    there are at most 4096 unknowns; else of the symbols at all frequencies of a grid around the image, of the kernel
    rearranged to stride 1; of mirrored images that of the padding times that of the convolution.

    Source: elementary; the proofs are ours (docs/plain.md).

    Params: kernel W (k, l, C/groups, features), from N(0, 1 / (k l C/groups)), bias (features,) where `use_bias`, scale
    and shift (features,) where `scaled`.

    Attributes:
      features: output channels.
      kernel_size: (k, l), or both in one.
      stride, dilation: (rows, columns), or both in one.
      padding: ((top, bottom), (left, right)), or all in one.
      padding_mode: 'zeros', 'circular' or 'reflect'.
      groups: of channels, a divisor of C and of features.
      use_bias, scaled: whether b, and scale and shift, are there.
    """

    features: int
    kernel_size: int | tuple[int, int] = 3
    stride: int | tuple[int, int] = 1
    padding: int | tuple[tuple[int, int], tuple[int, int]] = 0
    padding_mode: str = "zeros"
    dilation: int | tuple[int, int] = 1
    groups: int = 1
    use_bias: bool = True
    scaled: bool = False

    decayed: ClassVar[tuple[str, ...]] = ("kernel",)

    def __post_init__(self):
        check_field("PlainConv", "features", self.features, integer(1))
        for name in ("kernel_size", "stride", "dilation"):
            object.__setattr__(self, name, pair("PlainConv", name, getattr(self, name), 1))
        object.__setattr__(self, "padding", around("PlainConv", self.padding))
        allowed = f"one of {tuple(PADDING_MODES)}", lambda mode: mode in PADDING_MODES
        check_field("PlainConv", "padding_mode", self.padding_mode, allowed)
        divides = "an integer >= 1 that divides features", lambda n: integer(1)[1](n) and self.features % n == 0
        check_field("PlainConv", "groups", self.groups, divides)
        for name in ("use_bias", "scaled"):
            check_field("PlainConv", name, getattr(self, name), flag())
        super().__post_init__()

    @property
    def geometry(self) -> Geometry:
        """Which pixels are read."""
        return Geometry(self.stride, self.padding, self.padding_mode, self.dilation, self.groups)  # type: ignore[arg-type]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(N, H, W, C) → (N, H', W', features)."""
        del train
        shape = self._kernel_shape(x.shape[1:])
        init = nn.initializers.normal(math.prod(shape[:3]) ** -0.5)
        params = _params(self, init, shape)
        y = plain_conv.apply(stored(x), _kernel(params), self.geometry)
        return stored(y if (bias := _bias(params)) is None else y + bias)

    @nn.nowrap
    def _kernel_shape(self, shape: Shape) -> tuple[int, ...]:
        """Of W, for images (H, W, C)."""
        sides(shape)
        if shape[2] % self.groups:
            raise ValueError(f"PlainConv: groups={self.groups} must divide the {shape[2]} channels of the input")
        return (*self.kernel_size, shape[2] // self.groups, self.features)  # type: ignore[misc]

    @nn.nowrap
    def scaled_kernel(self, own):
        """W · scale, or W, in float64, an array of its own."""
        return np.array(_kernel({name: np.asarray(leaf, np.float64) for name, leaf in own["params"].items()}))

    @nn.nowrap
    def proof(self, own, shape):
        """Rounding: entries of the kernel are off by 1 unit where they are scaled.  Within a block of n' products
        |error| <= γ(n' + 1) |K| |v|.  The other additions round partial sums over some input channels, each K v of a v
        in which the other channels are 0, so at most ‖K‖ ‖v‖.  Of products tap by tap they are over some of the taps,
        too: what comes from one pixel is part of K restricted to it, and k l pixels meet at one, so at most (k l)^½
        ‖K‖ ‖v‖; or ‖|K|‖ ‖v‖, where a pixel is read twice.  Then b · scale + shift, and the sum with it.
        """
        size, kernel = sides(shape), _checked_kernel(self, own["params"], self._kernel_shape(shape))
        bound, why = proven_plain_norm(kernel, self.geometry, size)
        operator = Operator(np.abs(kernel), self.geometry, size)
        of_groups = (self.groups, *size, kernel.shape[2])
        absolute = nonnegative_operator_bound(operator.forth, operator.back, of_groups)
        # How often a pixel stands in the padded image, at most.
        copies = math.prod([_often(n, by) for n, by in zip(size, self.geometry.padding, strict=True)])
        of_scale = gamma(2) * absolute + copies * kernel.size * _LOST
        bound, off = (bound + of_scale) * (1 + 1e-15) if self.scaled else bound, int(self.scaled)
        offset, of_bias = _offset(own["params"], (*operator.outputs, self.features))
        taps, of_group = (kernel.shape[0], kernel.shape[1]), kernel.shape[2]
        products, parts = plain_conv.sums(taps, of_group, self.groups)
        partial = bound
        if plain_conv.by_taps(taps, of_group, self.groups) and math.prod(taps) > 1:
            often = math.sqrt(math.prod(taps)) if self.padding_mode == "zeros" else math.inf
            partial = min(absolute, often * bound)
        within = gamma(products + off) * absolute
        applied = within + gamma(parts) * (partial * (1 + 1e-15) + COARSEST * within)
        # Entries that are flushed to 0.
        flushed = copies * math.prod(kernel.shape[:2]) * underflow(kernel.size, 4)
        relative = applied + flushed * (1 + _largest(own["params"])) + gamma(1) * (bound + COARSEST * applied)
        entries = math.prod((*operator.outputs, self.features))
        lost = underflow(entries, 2 * (math.prod(kernel.shape[:3]) + 2) * (1 + absolute))
        of_taps, pixels = "×".join(map(str, taps)), f"{size[0]}×{size[1]} pixels"
        kind = f"convolution {of_taps}, {shape[2]} to {self.features} channels, {pixels}"
        terms = bias_terms(math.prod(taps) * of_group)
        rounding = enlarged(relative * MORE, gamma(terms) * offset + of_bias + lost)
        return Proof(kind + _described(self), bound, why, offset, rounding=rounding)

    @nn.nowrap
    def plain(self, own, shape):
        geometry = self.geometry
        options: dict[str, Any] = {"dilation": list(geometry.dilation)} if geometry.dilation != (1, 1) else {}
        options |= {"groups": geometry.groups} if geometry.groups > 1 else {}
        options |= {"padding_mode": geometry.mode} if geometry.mode != "zeros" else {}
        params = {name: plain.array(leaf) for name, leaf in own["params"].items()}
        layer = plain.conv(_kernel(params), _bias(params), padding=geometry.padding)
        return [{**layer, "stride": list(geometry.stride), **options}]

    @nn.nowrap
    def estimate(self, own, shape):
        kernel = _kernel(own["params"])
        return linear_norm_estimate(lambda x: plain_conv.apply(x, kernel, self.geometry), shape, kernel.dtype)


def _often(size: int, by: tuple[int, int]) -> int:
    """A bound of how often a pixel stands in an image padded by so many."""
    return 1 + -(-sum(by) // max(size - 1, 1))


def _described(layer: PlainConv) -> str:
    """What of a convolution is not 1 and not 0."""
    geometry = layer.geometry
    said = {"stride {}×{}".format(*geometry.stride): geometry.stride != (1, 1)}
    said[f"{geometry.mode} around"] = any(map(any, geometry.padding))
    said["dilation {}×{}".format(*geometry.dilation)] = geometry.dilation != (1, 1)
    said |= {f"{geometry.groups} groups": geometry.groups > 1, "scaled": layer.scaled}
    return "".join(f", {text}" for text, is_said in said.items() if is_said)


def pair(owner: str, name: str, value: Any, least: int) -> tuple[int, int]:
    """(rows, columns) of an integer for both, or of two."""
    both = tuple(value) if isinstance(value, tuple | list) else (value, value)
    fits = len(both) == 2 and all(integer(least)[1](n) for n in both)
    check_field(owner, name, value, (f"an integer >= {least}, or two", lambda _: fits))
    return both


def around(owner: str, value: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)) of an integer for all, or of the four."""
    sides = value if isinstance(value, tuple | list) else ((value, value), (value, value))
    fits = len(sides) == 2 and all(isinstance(side, tuple | list) and len(side) == 2 for side in sides)
    fits = fits and all(integer(0)[1](n) for side in sides for n in side)
    check_field(owner, "padding", value, ("an integer >= 0, or ((top, bottom), (left, right))", lambda _: fits))
    return tuple(tuple(side) for side in sides)  # type: ignore[return-value]


class PlainDense(Layer):
    """y = (x W + b) · scale + shift, (N, …, D) → (N, …, features), W · scale as one matrix.

    Bound: the norm of W · scale, proven by a Cholesky factorisation of its Gram matrix (`ops.dense_bounds`).

    Source: elementary (docs/plain.md).

    Params: kernel W (D, features), from N(0, 1/D), bias (features,) where `use_bias`, scale and shift (features,) where
    `scaled`.

    Attributes:
      features: outputs.
      use_bias, scaled: whether b, and scale and shift, are there.
    """

    features: int
    use_bias: bool = True
    scaled: bool = False

    decayed: ClassVar[tuple[str, ...]] = ("kernel",)

    def __post_init__(self):
        check_field("PlainDense", "features", self.features, integer(1))
        for name in ("use_bias", "scaled"):
            check_field("PlainDense", name, getattr(self, name), flag())
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        params = _params(self, nn.initializers.normal(x.shape[-1] ** -0.5), (x.shape[-1], self.features))
        y = product(stored(x), _kernel(params))
        return stored(y if (bias := _bias(params)) is None else y + bias)

    @nn.nowrap
    def proof(self, own, shape):
        """Rounding: one product with its sums in blocks, each of its entries off by 1 unit where they are scaled; then
        b · scale + shift, and the sum with it.
        """
        matrix = _checked_kernel(self, own["params"], (shape[-1], self.features))
        pixels, bound = math.prod(shape[:-1]), near_orthogonal_norm_bound(matrix, 1e-7)
        absolute = float(np.linalg.norm(matrix)) * (1 + 1e-9)
        bound = (bound + gamma(2) * absolute + matrix.size * _LOST) * (1 + 1e-15) if self.scaled else bound
        offset, of_bias = _offset(own["params"], (*shape[:-1], self.features))
        relative, lost = matrix_rounding(matrix, bound, offset, pixels)
        of_scale = gamma(2) * absolute + underflow(matrix.size, 4) if self.scaled else 0.0
        rounding = enlarged(relative * MORE + of_scale, lost + of_bias)
        allowance = f"about {dense_rounding((matrix.shape[0], matrix.shape[1])):.1e} of it is allowance for rounding"
        why = f"Cholesky factorisation of its Gram matrix; {allowance}"
        return Proof(f"dense {matrix.shape[0]} × {self.features}", bound, why, offset, rounding=rounding)

    @nn.nowrap
    def plain(self, own, shape):
        params = {name: plain.array(leaf) for name, leaf in own["params"].items()}
        return [plain.matrix(_kernel(params), _bias(params), shape)]

    @nn.nowrap
    def estimate(self, own, shape):
        matrix = _kernel(own["params"])
        return linear_norm_estimate(lambda x: x @ matrix, (len(matrix),), matrix.dtype)


class Affine(Layer):
    """x · scale + shift, channel by channel, (N, …, C) → (N, …, C): batch normalisation in evaluation, input scaling.

    Bound: max |scale|.

    Rounding: of a product and a sum.

    Source: elementary.

    Params: scale (C,), starting at 1, and shift (C,), starting at 0.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        return x * scale + self.param("shift", nn.initializers.zeros, (x.shape[-1],))

    @nn.nowrap
    def proof(self, own, shape):
        check_shapes("Affine", own["params"], scale=shape[-1:], shift=shape[-1:])
        bound = float(np.abs(np.asarray(own["params"]["scale"], np.float64)).max())
        offset = norm_at_zero(own["params"]["shift"], shape)
        lost = underflow(math.prod(shape), 4)
        rounding = enlarged(gamma(2) * bound, gamma(1) * offset + lost)
        return Proof(f"affine, {shape[-1]} channels", bound, "max |scale|", offset, rounding=rounding)

    @nn.nowrap
    def plain(self, own, shape):
        return [plain.affine(own["params"]["scale"], own["params"]["shift"])]

    @nn.nowrap
    def estimate(self, own, shape):
        return jnp.abs(own["params"]["scale"]).max()


def _params(layer: Any, init: Any, shape: tuple[int, ...]) -> dict[str, jax.Array]:
    """The parameters of a `PlainConv` or a `PlainDense`."""
    params = {"kernel": layer.param("kernel", init, shape)}
    zeros, ones, channels = nn.initializers.zeros, nn.initializers.ones, (layer.features,)
    if layer.use_bias:
        params["bias"] = layer.param("bias", zeros, channels)
    if layer.scaled:
        params |= {"scale": layer.param("scale", ones, channels), "shift": layer.param("shift", zeros, channels)}
    return params


def _kernel(params: Mapping[str, Any]):
    """W, or W · scale."""
    return params["kernel"] * params["scale"] if "scale" in params else params["kernel"]


def _bias(params: Mapping[str, Any]):
    """b · scale + shift, or what of it is there; None where nothing is."""
    bias = params.get("bias")
    if "scale" not in params:
        return bias
    return params["shift"] if bias is None else bias * params["scale"] + params["shift"]


def _checked_kernel(layer: Any, params: Mapping[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """W, or W · scale, in float64; ValueError for parameters of other names or shapes."""
    shapes = {"kernel": shape} | ({"bias": (layer.features,)} if layer.use_bias else {})
    shapes |= dict.fromkeys(("scale", "shift"), (layer.features,)) if layer.scaled else {}
    if set(params) != set(shapes):
        names = ", ".join(sorted(params)) or "none"
        raise ValueError(f"{type(layer).__name__}: params must be {', '.join(shapes)}, got {names}")
    check_shapes(type(layer).__name__, params, **shapes)
    kernel = np.asarray(_kernel({name: np.asarray(leaf, np.float64) for name, leaf in params.items()}))
    if not np.isfinite(kernel).all():
        raise ValueError(f"{type(layer).__name__}: the kernel, with its scale, has entries that are not finite")
    return kernel


def _offset(params: Mapping[str, Any], shape: Shape) -> tuple[float, float]:
    """(a bound of ‖b · scale + shift‖, one of what rounding does to it)."""
    exact = {name: np.asarray(leaf, np.float64) for name, leaf in params.items() if name != "kernel"}
    bias = _bias(exact)
    if bias is None:
        return 0.0, 0.0
    size = _bias({name: np.abs(leaf) for name, leaf in exact.items()})
    of_scale = gamma(2) * norm_at_zero(size, shape) if "scale" in exact and "bias" in exact else 0.0
    return norm_at_zero(np.abs(bias) + 2**-50 * size, shape), of_scale


def _largest(params: Mapping[str, Any]) -> float:
    """The largest number that an entry of the kernel is multiplied by."""
    return float(np.abs(np.asarray(params["scale"], np.float64)).max()) if "scale" in params else 0.0
