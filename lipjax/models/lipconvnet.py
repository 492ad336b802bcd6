"""LipConvnet-n (paper, Table 2): a 1-Lipschitz backbone of skew orthogonal convolutions and a small head."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import threadpoolctl

from lipjax import ops
from lipjax.layers.activations import Activation, Householder, Householder2, MaxMin
from lipjax.layers.folded import FoldedConv, fold_layer
from lipjax.layers.heads import CurvatureHead, LastLayerNormalization
from lipjax.layers.pooling import DistancePool, PointPool, PolylinePool, ProjectionPool
from lipjax.layers.proof import Link, product
from lipjax.layers.shapes import scale_bound
from lipjax.layers.skew_orthogonal_conv import COMPUTE_DTYPES, DEFAULT_POLYNOMIAL, SkewOrthogonalConv, settle
from lipjax.ops.fusion import recomputed, stored
from lipjax.ops.polynomials import Polynomial

# Input normalisation of the authors' CIFAR networks; one std for all channels keeps its Lipschitz constant 1/std.
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = 0.2507

HEADS = ("lln", "crc")
POOLINGS: dict[str, type[DistancePool] | None] = {
    "max": None,  # `ops.max_pool`, no layer
    "projection": ProjectionPool,
    "polyline": PolylinePool,
    "point": PointPool,
}
ACTIVATIONS: dict[str, type[Activation]] = {"max_min": MaxMin, "householder": Householder, "householder2": Householder2}


class ConvStep(NamedTuple):
    """One convolution of LipConvnet with what precedes and follows it."""

    name: str
    block: int  # 0: before the first
    rearrange: bool  # space_to_depth before the convolution
    size: int  # height and width at the convolution
    in_channels: int  # after rearrangement
    features: int
    kernel_size: int
    pool: bool  # pooling of channel halves after it, else the activation


def architecture(depth: int, init_channels: int, input_size: int, in_channels: int, pool_last: bool) -> list[ConvStep]:
    """The convolutions of LipConvnet-`depth` in order: 1 + (depth/5)·log2(input_size) of them.

    A convolution from in_channels to init_channels, then log2(input_size) blocks of depth/5 convolutions, each block
    halving the resolution and doubling the channels.  Rearrangement stands before a block's last convolution, in the
    last block before its first, so that all convolutions there are 1×1; each block's last convolution is followed by
    pooling, the network's last one only if `pool_last`.
    """
    per_block, blocks = depth // 5, int(math.log2(input_size))
    steps = [ConvStep("stem", 0, False, input_size, in_channels, init_channels, 3, False)]
    size, channels = input_size, init_channels
    for block in range(1, blocks + 1):
        last_block = block == blocks
        for conv in range(per_block):
            ends = conv == per_block - 1
            rearrange = conv == 0 if last_block else ends
            if rearrange:
                size, channels = size // 2, channels * 4
            pool = ends and (pool_last or not last_block)
            kernel_size = 1 if last_block else 3
            name = f"block{block}_conv{conv}"
            steps.append(ConvStep(name, block, rearrange, size, channels, channels, kernel_size, pool))
        channels //= 2
    return steps


class LipConvnet(nn.Module):
    """LipConvnet-n for images in [0, 1]: logits = h(g(x)), g the backbone with a proven Lipschitz bound, h the head.

    `apply(variables, x, train=False)` maps x, NHWC (N, input_size, input_size, in_channels), to logits;
    `method='features'` gives g(x), (N, D) with D = init_channels · input_size, twice that for the curvature head.  In
    training pass mutable=['spectral'], so that the tracked kernel norms follow the kernels.

    Attributes:
      depth: n, a multiple of 5 from 5 to 40; there are 1 + (n/5)·log2(input_size) convolutions.
      init_channels: channels after the first convolution, even.
      input_size: height and width, a power of two >= 4.
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
      folded: a network for evaluation made by `fold`: no spectral state, small layers as matrices.
      gradient: one of `ops.GRADIENTS`, see `ops.orthogonal_conv`.
      compute_dtype: of the convolutions in training, 'float32' or 'bfloat16'; all else, and evaluation, is as the
        variables are.
      remat: keep only what enters each block for the backward pass, and compute the block again there.
      mean: subtracted from the pixels, a number or one per channel; None: the authors' CIFAR means for 3 channels,
        otherwise 0.5.
      std: the pixels are divided by it, a number or one per channel; None: the authors' 0.2507.

    Raises:
      ValueError: an attribute outside what is allowed (named with its value), images of another shape.
    """

    depth: int = 5
    init_channels: int = 32
    input_size: int = 32
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
    folded: bool = False

    def __post_init__(self):
        super().__post_init__()
        _check(self)

    def setup(self):
        self.convolutions = [self._layer(step, name=step.name) for step in self.steps()]
        self.pools = {
            step.name: self._pool(name=f"{step.name}_pool")
            for step in self.steps()
            if step.pool and self.pooling != "max"
        }
        activation = ACTIVATIONS[self.activation]
        self.activations = {
            step.name: activation(name=f"{step.name}_activation") for step in self.steps() if not step.pool
        }
        if self.head == "crc":
            self.classifier: nn.Module = CurvatureHead(self.num_classes, self.hidden, name="head")
        else:
            self.classifier = LastLayerNormalization(self.num_classes, name="head")

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits (N, num_classes)."""
        return self.classify(self.features(x, train), train)

    def classify(self, features: jax.Array, train: bool = False) -> jax.Array:
        """The head alone: features (N, D) → logits (N, num_classes)."""
        return self.classifier(features, train)

    def features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Penultimate features g(x), (N, D)."""
        expected = (self.input_size, self.input_size, self.in_channels)
        if x.ndim != 4 or x.shape[1:] != expected:
            raise ValueError(f"LipConvnet: images must have shape (N, {', '.join(map(str, expected))}), got {x.shape}")
        mean, std = self.input_scale()
        x = (x - mean.astype(x.dtype)) / std.astype(x.dtype)
        for block in sorted({step.block for step in self.steps()}):
            again = self.remat and train and not self.is_initializing()
            x = self._recomputed_block(x, block) if again else self._block(x, block, train)
        return stored(x.reshape(x.shape[0], -1))

    def _block(self, x: jax.Array, block: int, train: bool) -> jax.Array:
        """All steps of a block."""
        for step, convolution in zip(self.steps(), self.convolutions, strict=True):
            if step.block != block:
                continue
            if step.rearrange:
                x = ops.space_to_depth(x)
            x = stored(convolution(stored(x), train))
            if not step.pool:
                x = self.activations[step.name](x)
            else:
                x = ops.max_pool(x) if self.pooling == "max" else self.pools[step.name](x)
        return x

    def _recomputed_block(self, x: jax.Array, block: int) -> jax.Array:
        """`_block` in training, of which only its input is kept for the backward pass."""
        network = self.clone(parent=None)  # apart from the scope of this one, so that it is a function of variables
        mutable = ["spectral"] if self.is_mutable_collection("spectral") and not self.folded else []

        def run(variables, x):
            return network.apply(variables, x, block, True, method="_block", mutable=mutable)

        names = [step.name for step in self.steps() if step.block == block]
        variables = {
            collection: {name: value for name, value in layers.items() if name.startswith(tuple(names))}
            for collection, layers in self.variables.items()
        }
        x, updated = recomputed(run)(variables, x)
        if mutable:
            for step, convolution in zip(self.steps(), self.convolutions, strict=True):
                for name, value in updated["spectral"].get(step.name, {}).items():
                    convolution.put_variable("spectral", name, jax.lax.stop_gradient(value))
        return x

    @nn.nowrap
    def steps(self) -> list[ConvStep]:
        """The convolutions with their resolutions and channels, see `architecture`."""
        return architecture(self.depth, self.init_channels, self.input_size, self.in_channels, self.head != "crc")

    @nn.nowrap
    def input_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, std), each (in_channels,) float64."""
        mean = (CIFAR_MEAN if self.in_channels == 3 else 0.5) if self.mean is None else self.mean
        std = CIFAR_STD if self.std is None else self.std
        shape = (self.in_channels,)
        return np.broadcast_to(np.asarray(mean, float), shape), np.broadcast_to(np.asarray(std, float), shape)

    def chain_of_proof(self, variables: Mapping[str, Any]) -> list[Link]:
        """A link for each map from pixels to features, in order; `lipschitz_bound` is the product of their bounds."""
        links = [Link("input", "(x − mean) / std", scale_bound(self.input_scale()[1]), "1 / min(std), rounded up")]
        activation = ACTIVATIONS[self.activation](parent=None).lipschitz_bound()
        pool = 1.0 if self.pooling == "max" else self.pooling_layer().lipschitz_bound()
        proofs = self._in_parallel(lambda step, layer, own: layer.proof(own, step.size), variables)
        for step in self.steps():
            if step.rearrange:
                links.append(Link(f"{step.name}_rearrangement", "rearrangement", 1.0, "a permutation"))
            links.append(proofs[step.name]._replace(layer=step.name))
            if step.pool:
                by_distance = "a distance to a set, signed or not: Theorem 2 and Corollary 1"
                method = "the larger of two numbers" if self.pooling == "max" else by_distance
                links.append(Link(f"{step.name}_pool", f"pooling '{self.pooling}'", pool, method))
            else:
                name = f"{step.name}_activation"
                method = "isometries, continuous where they meet"
                links.append(Link(name, f"activation '{self.activation}'", activation, method))
        return links

    def layer_bounds(self, variables: Mapping[str, Any]) -> dict[str, float]:
        """Proven Lipschitz bounds by layer, input to features: those of `chain_of_proof`."""
        return {link.layer: link.lipschitz for link in self.chain_of_proof(variables)}

    def tightened(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The variables with each held norm settled and inside the interval by proof.

        Call it after training, before evaluation, as `load_trained` does; see `SkewOrthogonalConv.tightened`.  Networks
        of a polynomial made for no interval stay as they are.
        """
        if self.folded:
            raise ValueError("LipConvnet: a folded network has no tracked norms; tighten it before folding")
        if self.polynomial.norm is None:
            return dict(variables)
        variables = settle(variables)
        tight = self._in_parallel(lambda step, layer, own: layer.tightened(own, step.size)["spectral"], variables)
        return {**variables, "spectral": {**variables["spectral"], **tight}}

    @nn.nowrap
    def _pool(self, **keywords) -> DistancePool:
        if self.pooling == "polyline":
            return PolylinePool(self.pool_vertices, **keywords)
        pool = POOLINGS[self.pooling]
        assert pool is not None
        return pool(**keywords)

    def pooling_layer(self) -> DistancePool:
        """A pooling layer of the network's kind, on its own; ValueError for max pooling, which has no parameters."""
        if self.pooling == "max":
            raise ValueError("LipConvnet: pooling='max' has nothing to learn")
        return self._pool(parent=None)

    def _in_parallel(self, function: Callable[..., Any], variables: Mapping[str, Any]) -> dict[str, Any]:
        """{name: function(step, layer, its variables)} of the convolutions, one thread each.

        The threads of BLAS itself are slower here, and stall where other work keeps a core busy.
        """
        layers = list(self._layers(variables))
        with threadpoolctl.threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
            results = pool.map(lambda arguments: function(*arguments), layers)
            return {step.name: result for (step, *_), result in zip(layers, results, strict=True)}

    def _layers(self, variables: Mapping[str, Any]) -> Iterator[tuple[ConvStep, Any, dict[str, Any]]]:
        """Each convolution outside the network, with its own variables."""
        for step in self.steps():
            own = {name: collection[step.name] for name, collection in variables.items() if step.name in collection}
            yield step, self._layer(step, parent=None), own

    @nn.nowrap
    def _layer(self, step: ConvStep, **keywords) -> Any:
        """The convolution of a step."""
        if self.folded:
            return FoldedConv(step.features, step.size, step.kernel_size, self.polynomial, **keywords)
        polynomials = (self.polynomial, self.eval_polynomial)
        options = (self.gradient, self.compute_dtype)
        return SkewOrthogonalConv(step.features, step.kernel_size, *polynomials, *options, **keywords)

    def lipschitz_bound(self, variables: Mapping[str, Any]) -> float:
        """A proven bound of Lip(g), pixels to features, 1/std included: the product of `chain_of_proof`, rounded up."""
        return product(self.chain_of_proof(variables))


def fold(model: LipConvnet, variables: Mapping[str, Any]) -> tuple[LipConvnet, dict[str, Any]]:
    """(model, variables) of the same network for evaluation: faster, without spectral state.

    Kernels are normalised once, and layers of few pixels become the matrix of p(A) (`folded.is_matrix`).  Outputs agree
    up to rounding.  `lipschitz_bound` of the result bounds the folded network itself.

    Raises:
      ValueError: the network is folded already.
    """
    if model.folded:
        raise ValueError("fold: the network is folded already")
    params = dict(variables["params"])
    for step, layer, own in model._layers(variables):
        params[step.name] = fold_layer(layer, own, step.size, step.in_channels)
    polynomial = model.eval_polynomial or model.polynomial
    return model.clone(folded=True, polynomial=polynomial, eval_polynomial=None), {"params": params}


def _check(model: LipConvnet) -> None:
    def require(name, allowed, holds):
        if not holds:
            raise ValueError(f"LipConvnet: {name} must be {allowed}, got {getattr(model, name)!r}")

    size, channels = model.input_size, model.in_channels
    require("depth", "a multiple of 5 from 5 to 40", model.depth in range(5, 41, 5))
    require("init_channels", "an even number >= 2", model.init_channels >= 2 and model.init_channels % 2 == 0)
    require("input_size", "a power of two >= 4", size >= 4 and size & (size - 1) == 0)
    require("in_channels", ">= 1", channels >= 1)
    require("num_classes", ">= 2", model.num_classes >= 2)
    require("head", f"one of {HEADS}", model.head in HEADS)
    require("hidden", "an integer >= 1", model.hidden >= 1)
    require("pooling", f"one of {tuple(POOLINGS)}", model.pooling in POOLINGS)
    require("pool_vertices", "an integer >= 3", model.pool_vertices >= 3)
    require("activation", f"one of {tuple(ACTIVATIONS)}", model.activation in ACTIVATIONS)
    require("gradient", f"one of {ops.GRADIENTS}", model.gradient in ops.GRADIENTS)
    require("compute_dtype", f"one of {COMPUTE_DTYPES}", model.compute_dtype in COMPUTE_DTYPES)
    for name in ("polynomial", "eval_polynomial"):
        value = getattr(model, name)
        require(name, "a Polynomial", isinstance(value, Polynomial) or (name == "eval_polynomial" and value is None))
    for name in ("mean", "std"):
        value = getattr(model, name)
        shape_fits = value is None or np.shape(value) in ((), (channels,))
        require(name, f"a number or {channels} numbers, one per input channel", shape_fits)
        require(name, "finite", value is None or np.isfinite(value).all())
    require("std", "positive", model.std is None or np.min(model.std) > 0)
