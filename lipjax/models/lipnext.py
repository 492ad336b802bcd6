"""LipNeXt (arXiv 2601.18513): orthogonal mixing of channels and shifts of pixels, without any convolution."""

from collections.abc import Mapping
from typing import Any

from lipjax.config import check, flag, integer, is_number, number, one_of, or_none
from lipjax.layers import (
    ACTIVATIONS,
    HEADS,
    BetaAbs,
    Flatten,
    GlobalL2Pool,
    InputScale,
    L2Pool,
    Layer,
    OrthogonalMixing,
    Patches,
    Position,
    Recomputed,
    Sequential,
    ShiftMixing,
)
from lipjax.layers.convolution import COMPUTE_DTYPES
from lipjax.layers.shift import shifted_channels
from lipjax.models.lipconvnet import CIFAR_MEAN
from lipjax.models.network import Network, named_head

POSITIONS = ("pixel", "channel", "none")


def lipnext(
    image_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 128,
    depth: int = 8,
    patch: int = 4,
    activation: str = "beta_abs",
    beta: float = 0.5,
    shift: float = 0.125,
    position: str = "pixel",
    pool: int | None = None,
    head: str = "lln",
    hidden: int = 4096,
    compute_dtype: str = "float32",
    remat: bool = False,
    mean: tuple[float, ...] | None = None,
) -> Network:
    """x − mean, patches, orthonormal rows to `width` channels; `depth` blocks σ(M Rᵀ S R (x + p) + b); norms; a head.

    R and M are orthogonal, S shifts channels by one pixel, p is a learned number for each pixel, σ is β-Abs.  Each part
    is 1-Lipschitz, all but the pooling preserve the norm of what they differ by, and the bound is 1.00000x: 1 but for
    the rounding of the matrices.  Weights do not decay.  The blocks are those of the paper, R Sᵀ Rᵀ by the columns of R
    whose channels are shifted alone (`layers.ShiftMixing`).  The paper does not say how images enter; here they do by
    patches.  β, the fraction of `shift`, the rate and the epochs are ours, too.

    Args:
      image_shape: (H, W, C), any; zeros are added where `patch` does not divide H or W.
      width: channels of all blocks.
      depth: blocks.
      patch: pixels of a side of what becomes one.
      activation: one of ACTIVATIONS.
      beta: of 'beta_abs': the part of the channels of which the absolute value is taken.
      shift: the part of the channels that is shifted, a quarter of it each way; times width, a multiple of 4.
      position: p: 'pixel', one number a pixel; 'channel', one for each of its channels; 'none'.
      pool: None: norms of each channel over all pixels; k: over windows of k × k pixels; 1: none.
      head: one of HEADS.
      hidden: of the curvature head.
      compute_dtype: of the products in training, 'float32' or 'bfloat16'.
      remat: keep only what enters each block for the backward pass, and compute the block again there.
      mean: of pixels in [0, 1], one number a channel; None: CIFAR_MEAN for 3 channels, else 0.5.

    Raises:
      ValueError: "KEY=VALUE: must be …".
    """
    _check(dict(locals()), image_shape)
    if mean is None:
        mean = CIFAR_MEAN if image_shape[2] == 3 else (0.5,) * image_shape[2]
    layers: list[tuple[str, Layer]] = [("input", InputScale(tuple(mean), 1.0)), ("patches", Patches(patch))]
    layers.append(("stem", OrthogonalMixing(width, compute_dtype)))
    for i in range(depth):
        block = _block(f"block{i}", activation, beta, shift, position, compute_dtype)
        layers += [("", Recomputed(Sequential(block)))] if remat else block
    layers += [("pool", GlobalL2Pool())] if pool is None else [("pool", L2Pool(pool)), ("flatten", Flatten())]
    top = named_head(head, num_classes, hidden)
    return Network(Sequential(tuple(layers)), top, tuple(image_shape))  # type: ignore[arg-type]


def _block(name, activation, beta, shift, position, compute_dtype) -> tuple[tuple[str, Layer], ...]:
    own = BetaAbs(beta) if activation == "beta_abs" else ACTIVATIONS[activation]()
    term = () if position == "none" else ((f"{name}_position", Position(position == "channel")),)
    return (*term, (f"{name}_mixing", ShiftMixing(shift, compute_dtype)), (f"{name}_activation", own))


def _check(options: Mapping[str, Any], image_shape: tuple[int, ...]) -> None:
    check(options, **_OPTIONS, activation=one_of(*ACTIVATIONS), head=one_of(*HEADS))  # as they are now
    shift, width, pool, mean = (options[key] for key in ("shift", "width", "pool", "mean"))
    try:
        shifted_channels("lipnext", shift, width)
    except ValueError:
        allowed = f"a fraction that times width={width} is a multiple of 4, from 4 to {width}"
        raise ValueError(f"shift={shift!r}: must be {allowed}") from None
    patches = [-(-length // options["patch"]) for length in image_shape[:2]]
    if pool is not None and any(length % pool for length in patches):
        raise ValueError(f"pool={pool!r}: must divide the {patches[0]} × {patches[1]} patches")
    if mean is not None and not (len(mean) == image_shape[2] and all(map(is_number, mean))):
        raise ValueError(f"mean={mean!r}: must be {image_shape[2]} finite numbers, one per channel")


_OPTIONS = {
    "width": integer(4),
    "depth": integer(1),
    "patch": integer(1),
    "beta": number(0, 1),
    "position": one_of(*POSITIONS),
    "pool": or_none(integer(1)),
    "hidden": integer(1),
    "compute_dtype": one_of(*COMPUTE_DTYPES),
    "remat": flag(),
}
