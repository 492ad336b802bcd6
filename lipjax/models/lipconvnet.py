"""LipConvnet-n (paper, Table 2): a 1-Lipschitz backbone of skew orthogonal convolutions and a small head."""

from typing import Any

import flax.linen as nn
import numpy as np

from lipjax import ops
from lipjax.config import check, even, flag, integer, number, one_of, or_none
from lipjax.layers import (
    ACTIVATIONS,
    CONVOLUTIONS,
    HEADS,
    POOLINGS,
    Flatten,
    InputScale,
    Layer,
    Recomputed,
    Sequential,
    SpaceToDepth,
    ZeroPad,
)
from lipjax.layers.convolution import COMPUTE_DTYPES
from lipjax.layers.shapes import LARGEST_STD, SMALLEST_STD
from lipjax.layers.skew_orthogonal_conv import DEFAULT_POLYNOMIAL, held_polynomial
from lipjax.models.lipconvnet_steps import ConvStep, architecture, halvings, sides_of
from lipjax.models.network import Classifier
from lipjax.ops.equiripple import DEGREES, NORMS
from lipjax.ops.polynomials import Polynomial

# Input normalisation of the authors' CIFAR networks; one std for all channels keeps its Lipschitz constant 1/std.
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = 0.2507


class LipConvnet(Classifier):
    """LipConvnet-n for images in [0, 1]: logits = h(g(x)), g the backbone with a proven Lipschitz bound, h the head.

    `apply(variables, x, train=False)` maps x, NHWC (N, *image_shape), to logits; `method='features'` gives g(x), (N, D)
    with D = init_channels · height · width / (patch² 2^blocks), twice that for the curvature head.  In training pass
    mutable=['spectral'], so that the tracked kernel norms follow the kernels.

    Images of any size are surrounded by zeros, an isometry, until both sides are multiples of patch · 2^blocks: 28×28
    pixels become 32×32, 12×20 become 16×32, and squares of a power of two stay what they are.  D is of these sides.

    Attributes:
      depth: n, a multiple of 5 from 5 to 40; there are 1 + (n/5)·blocks convolutions.
      init_channels: channels after the first convolution, even.
      patch: side of the squares of pixels that become channels before the first convolution, a power of two; the rest
        is the network of input_size / patch, of which the shorter side, up to a power of two, is at least 4.
      blocks: how often the resolution is halved; None: until the shorter side is one pixel (⌈log2⌉ of it, at least 2).
        Fewer blocks need fewer zeros, and leave more pixels, and features, at the end: 96×96 pixels become 128×128 and
        end in 1×1, with blocks=5 they need no zeros and end in 3×3.
      input_size: height and width of the images, or one number for both.
      in_channels: channels of the images.
      num_classes: at least 2.
      head: 'lln' (last layer normalization) or 'crc' (curvature head: the last block then ends in the activation and
        keeps all its channels, so that there are twice as many features).
      hidden: hidden units of the curvature head.
      pooling: of channel pairs, 'max', or the distance to a learnable set: 'projection' (a cone), 'polyline' (with
        `pool_vertices` vertices), 'point'.
      pool_vertices: vertices of each polyline, at least 3.
      activation: on channel pairs, 'max_min', 'householder' or 'householder2'.
      polynomial: p of every layer in training, a `Polynomial`: `layers.held_polynomial(degree, norm)` or any other made
        for an interval (the norms of the convolutions are then held inside it), or the paper's `ops.taylor(6)`.
      eval_polynomial: p in evaluation; None: the same.
      gradient: one of `ops.GRADIENTS`, see `ops.orthogonal_conv`.
      compute_dtype: of the convolutions in training, 'float32' or 'bfloat16'; all else, and evaluation, is as the
        variables are.
      remat: keep only what enters each block for the backward pass, and compute the block again there.
      mean: subtracted from the pixels, a number or one per channel; None: the authors' CIFAR means for 3 channels,
        otherwise 0.5.
      std: the pixels are divided by it, a number or one per channel; None: the authors' 0.2507.
      convolution: one of CONVOLUTIONS, as are head, pooling and activation of their dicts.  Each is made with those of
        its fields that are attributes here, and a convolution with `features` and `kernel_size`.

    Raises:
      ValueError: an attribute outside what is allowed (named with its value), images of another shape.
    """

    depth: int = 5
    init_channels: int = 32
    input_size: int | tuple[int, int] = 32
    in_channels: int = 3
    num_classes: int = 10
    head: str = "lln"
    hidden: int = 4096
    pooling: str = "max"
    pool_vertices: int = 4
    activation: str = "max_min"
    polynomial: Polynomial = DEFAULT_POLYNOMIAL
    eval_polynomial: Polynomial | None = None
    gradient: str = "fast"
    compute_dtype: str = "float32"
    remat: bool = False
    mean: float | tuple[float, ...] | None = None
    std: float | tuple[float, ...] | None = None
    convolution: str = "skew_orthogonal"
    patch: int = 1
    blocks: int | None = None

    def __post_init__(self):
        if isinstance(self.input_size, tuple | list) and len(set(self.input_size)) < 3:
            sides = tuple(self.input_size)
            object.__setattr__(self, "input_size", sides[0] if sides in ((sides[0],) * 2,) else sides)
        for name in ("mean", "std"):  # an array could be changed later
            value = getattr(self, name)
            if value is not None:
                numbers = _numbers(name, value)
                object.__setattr__(self, name, tuple(np.ravel(numbers).tolist()) if numbers.ndim else float(numbers))
        super().__post_init__()
        _check(self)

    @property
    def image_shape(self):
        return *sides_of(self.input_size), self.in_channels

    @nn.nowrap
    def num_blocks(self) -> int:
        """`blocks`, or as many as halve the shorter side to one pixel."""
        return halvings(sides_of(self.input_size), self.patch) if self.blocks is None else self.blocks

    @nn.nowrap
    def padded_size(self) -> tuple[int, int]:
        """(height, width) with the zeros around."""
        unit = self.patch * 2 ** self.num_blocks()
        height, width = (-(-side // unit) * unit for side in sides_of(self.input_size))
        return height, width

    @nn.nowrap
    def steps(self) -> list[ConvStep]:
        """The convolutions with their resolutions and channels, see `architecture`."""
        height, width = (side // self.patch for side in self.padded_size())
        in_channels, pool_last = self.in_channels * self.patch**2, self.head != "crc"
        return architecture(self.depth, self.init_channels, (height, width), in_channels, pool_last, self.num_blocks())

    @nn.nowrap
    def input_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, std), each (in_channels,) float64."""
        mean = (CIFAR_MEAN if self.in_channels == 3 else 0.5) if self.mean is None else self.mean
        std = CIFAR_STD if self.std is None else self.std
        shape = (self.in_channels,)
        return np.broadcast_to(np.asarray(mean, float), shape), np.broadcast_to(np.asarray(std, float), shape)

    @nn.nowrap
    def parts(self):
        mean, std = (tuple(array.tolist()) for array in self.input_scale())
        layers: list[tuple[str, Layer]] = []
        if self.padded_size() != sides_of(self.input_size):
            layers.append(("border", ZeroPad(*self.padded_size(), parent=None)))
        layers.append(("input", InputScale(mean, std, parent=None)))
        layers += [(f"patches{2**j}", SpaceToDepth(parent=None)) for j in range(1, self.patch.bit_length())]
        steps = self.steps()
        for block in sorted({step.block for step in steps}):
            own = [entry for step in steps if step.block == block for entry in self._layers(step)]
            again = Recomputed(Sequential(tuple(own), parent=None), parent=None)
            layers += [("", again)] if self.remat else own
        return Sequential((*layers, ("flatten", Flatten(parent=None))), parent=None), self._made(HEADS[self.head])

    @nn.nowrap
    def _layers(self, step: ConvStep) -> list[tuple[str, Layer]]:
        """The convolution of a step with what stands before and after it."""
        layers: list[tuple[str, Layer]] = []
        if step.rearrange:
            layers.append((f"{step.name}_rearrangement", SpaceToDepth(parent=None)))
        shape = {"features": step.features, "kernel_size": step.kernel_size}
        layers.append((step.name, self._made(CONVOLUTIONS[self.convolution], **shape)))
        if step.pool:
            layers.append((f"{step.name}_pool", self._made(POOLINGS[self.pooling], num_vertices=self.pool_vertices)))
        else:
            layers.append((f"{step.name}_activation", self._made(ACTIVATIONS[self.activation])))
        return layers

    @nn.nowrap
    def _made(self, kind: type, **given: Any) -> Any:
        """A layer or head of a kind, with those of its fields that are given or attributes of the network."""
        options = {name: getattr(self, name) for name in LipConvnet.__dataclass_fields__} | given
        own = set(kind.__dataclass_fields__) - {"parent", "name"}  # type: ignore[attr-defined]
        return kind(**{name: value for name, value in options.items() if name in own}, parent=None)


def lip_convnet(
    image_shape: tuple[int, ...],
    num_classes: int,
    *,
    depth: int = 5,
    init_channels: int = 32,
    head: str = "lln",
    hidden: int = 4096,
    pooling: str = "max",
    pool_vertices: int = 4,
    activation: str = "max_min",
    convolution: str = "skew_orthogonal",
    patch: int = 1,
    blocks: int | None = None,
    polynomial: str = "equiripple",
    degree: int = 4,
    norm: float = 1.9,
    terms: int = 6,
    eval_terms: int = 15,
    gradient: str = "fast",
    compute_dtype: str = "float32",
    remat: bool = False,
    mean: tuple[float, ...] | None = None,
    std: float = CIFAR_STD,
) -> LipConvnet:
    """`LipConvnet` as config.model names it; its attributes, but for the polynomials.

    Args:
      image_shape: (H, W, C), any.
      polynomial: 'equiripple', with the norms of the convolutions held; or 'taylor', the paper's.
      degree: equiripple: convolutions a layer.
      norm: equiripple: at which each operator is held.
      terms: Taylor: terms of the series in training.
      eval_terms: Taylor: terms of the series in evaluation.
      mean: of pixels in [0, 1], one number a channel; None: CIFAR_MEAN for 3 channels, else 0.5.
      std: pixels are divided by it, so Lip(features) is 1/std.

    Raises:
      ValueError: "KEY=VALUE: must be …".
    """
    options = dict(locals())
    check(options, **_OPTIONS)
    height, width, channels = image_shape
    is_held = polynomial == "equiripple"
    own = {key: options[key] for key in LipConvnet.__dataclass_fields__ if key in options and key != "polynomial"}
    return LipConvnet(
        **own,
        input_size=(height, width),
        in_channels=channels,
        polynomial=held_polynomial(degree, norm) if is_held else ops.taylor(terms),
        eval_polynomial=None if is_held else ops.taylor(eval_terms),
    )


_OPTIONS = {
    "hidden": integer(1),
    "pool_vertices": integer(3),
    "polynomial": one_of("equiripple", "taylor"),
    "degree": integer(*DEGREES),
    "norm": number(NORMS[0], 2.9),
    "terms": integer(2, 30),
    "eval_terms": integer(2, 30),
    "remat": flag(),
    "std": number(SMALLEST_STD, LARGEST_STD),
}


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        numbers = np.asarray(value)
    except ValueError:  # lists of several lengths
        numbers = np.asarray(None)
    if numbers.dtype.kind not in "iuf":
        raise ValueError(f"{name}={value!r}: must be a number, or one per input channel")
    return numbers


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, tuple) else (value,)
    return len(sides) in (1, 2) and all(integer(1)[1](side) for side in sides)


_ATTRIBUTES = {
    "input_size": ("an integer >= 1, or two of them, (height, width)", _is_size),
    "init_channels": even(),
    "in_channels": integer(1),
    "num_classes": integer(2),
    "hidden": integer(1),
    "pool_vertices": integer(3),
    "gradient": one_of(*ops.GRADIENTS),
    "compute_dtype": one_of(*COMPUTE_DTYPES),
}


def _check(model: LipConvnet) -> None:
    def require(name, allowed, holds):
        if not (holds(getattr(model, name)) if callable(holds) else holds):
            raise ValueError(f"{name}={getattr(model, name)!r}: must be {allowed}")

    require("depth", "a multiple of 5 from 5 to 40", isinstance(model.depth, int) and model.depth in range(5, 41, 5))
    layers: dict[str, Any] = {
        "head": HEADS,
        "pooling": POOLINGS,
        "activation": ACTIVATIONS,
        "convolution": CONVOLUTIONS,
    }
    # As they are now: layers of one's own may have been added.
    check(vars(model), **_ATTRIBUTES, **{name: one_of(*known) for name, known in layers.items()})
    is_power = isinstance(model.patch, int) and model.patch >= 1 and model.patch & (model.patch - 1) == 0
    sides, channels = sides_of(model.input_size), model.in_channels
    largest = 2 ** (halvings(sides) - 2)
    require("patch", f"a power of two <= {largest}", is_power and model.patch <= largest)
    most = halvings(sides, model.patch)
    require("blocks", *or_none(integer(1, most)))
    for name in ("polynomial", "eval_polynomial"):
        value = getattr(model, name)
        require(name, "a Polynomial", isinstance(value, Polynomial) or (name == "eval_polynomial" and value is None))
    for name in ("mean", "std"):
        value = getattr(model, name)
        shape_fits = value is None or np.shape(value) in ((), (channels,))
        require(name, f"a number or {channels} numbers, one per input channel", shape_fits)
        require(name, "finite", value is None or np.isfinite(value).all())
    within = model.std is None or SMALLEST_STD <= np.min(model.std) <= np.max(model.std) <= LARGEST_STD
    require("std", f"from {SMALLEST_STD:g} to {LARGEST_STD:g}", within)
