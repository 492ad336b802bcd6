"""LiResNet (Hu et al., NeurIPS 2023): residual blocks that are one convolution, free, and proven after training."""

from lipjax.config import check, even, flag, integer, number, odd, one_of, or_none
from lipjax.layers import (
    ACTIVATIONS,
    HEADS,
    Centring,
    Flatten,
    InputScale,
    Layer,
    OrthogonalDense,
    PatchConv,
    Recomputed,
    ResidualConv,
    Sequential,
    StridedConv,
)
from lipjax.layers.convolution import COMPUTE_DTYPES
from lipjax.layers.shapes import LARGEST_STD, SMALLEST_STD
from lipjax.models.network import Network, named_head
from lipjax.ops.orthogonal_matrices import METHODS


def liresnet(
    image_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 64,
    depth: int = 6,
    kernel_size: int = 3,
    stem_kernel_size: int = 5,
    stem_stride: int = 2,
    neck_width: int | None = None,
    neck_stride: int = 4,
    dense_width: int = 256,
    dense_depth: int = 4,
    dense_kind: str = "cholesky",
    activation: str = "max_min",
    head: str = "lln",
    hidden: int = 4096,
    compute_dtype: str = "float32",
    remat: bool = False,
    mean: tuple[float, ...] | float = 0.5,
    std: float = 1.0,
) -> Network:
    """LiResNet of images of any size: stem, trunk, neck, dense layers, head, an activation after each convolution.

    Stem and trunk are unconstrained (`StridedConv`, `ResidualConv`, `Centring`): their Lipschitz constants are proven
    after training and estimated in training, for losses that know of margins: 'emma'.  Neck and dense layers are
    orthogonal (`PatchConv`, `OrthogonalDense`).  The paper's CIFAR networks: width 512, depth 12, dense_width 2048,
    dense_depth 8; by default a network of 0.82 million parameters.

    Args:
      image_shape: (H, W, C).
      width: channels of stem and trunk, even.
      depth: convolutions of the trunk, at H, W divided by the stride of the stem.
      kernel_size: their side, odd.
      stem_kernel_size, stem_stride: of the stem; equal: patches.
      neck_width: channels of the neck; None: `width`.
      neck_stride: pixels a side of its patches.
      dense_width, dense_depth: of the dense layers after the one from the neck, residual within the matrix if
        `dense_kind` is 'cholesky'.
      dense_kind: of neck and dense layers, 'cholesky', 'cayley' or 'exponential'.
      activation: 'max_min', 'householder' or 'householder2'.
      head: 'lln' or 'crc'.
      hidden: units of the curvature head.
      compute_dtype: of convolutions and products in training, 'float32' or 'bfloat16'.
      remat: keep only what enters each layer of the trunk for the backward pass, and compute it again there.
      mean, std: pixels become (x − mean) / std.

    Raises:
      ValueError: "KEY=VALUE: must be …".
    """
    options = dict(locals())
    check_options(options)
    conv = ResidualConv(depth, kernel_size, use_bias=False, compute_dtype=compute_dtype, parent=None)
    return assembled(conv, **{key: value for key, value in options.items() if key != "kernel_size"})


def assembled(
    conv: Layer,
    *,
    image_shape: tuple[int, ...],
    num_classes: int,
    width: int,
    depth: int,
    stem_kernel_size: int,
    stem_stride: int,
    neck_width: int | None,
    neck_stride: int,
    dense_width: int,
    dense_depth: int,
    dense_kind: str,
    activation: str,
    head: str,
    hidden: int,
    compute_dtype: str,
    remat: bool,
    mean: tuple[float, ...] | float,
    std: float,
) -> Network:
    """The network of these options, see `liresnet`, with a trunk of layers like `conv`, (H, W, width) to the same."""
    kind = {"kind": dense_kind, "compute_dtype": compute_dtype}

    def activated(name: str, *layers: tuple[str, Layer]) -> list[tuple[str, Layer]]:
        return [*layers, (f"{name}_activation", ACTIVATIONS[activation](parent=None))]

    def trunk(index: int) -> list[tuple[str, Layer]]:
        name = f"trunk{index}"
        layers = activated(name, (name, conv), (f"{name}_centring", Centring(parent=None)))
        return [("", Recomputed(Sequential(tuple(layers), parent=None), parent=None))] if remat else layers

    def dense(index: int) -> list[tuple[str, Layer]]:
        residual = dense_depth if index and dense_kind == "cholesky" else None
        layer = OrthogonalDense(dense_width, residual=residual, **kind, parent=None)  # type: ignore[arg-type]
        return activated(f"dense{index}", (f"dense{index}", layer))

    stem = StridedConv(width, stem_kernel_size, stem_stride, compute_dtype, parent=None)
    neck = PatchConv(neck_width or width, neck_stride, **kind, parent=None)  # type: ignore[arg-type]
    layers = [("input", InputScale(mean, std, parent=None)), *activated("stem", ("stem", stem))]
    layers += [entry for index in range(depth) for entry in trunk(index)]
    layers += [*activated("neck", ("neck", neck)), ("flatten", Flatten(parent=None))]
    layers += [entry for index in range(dense_depth + 1) for entry in dense(index)]
    backbone = Sequential(tuple(layers), parent=None)
    return Network(backbone, named_head(head, num_classes, hidden), tuple(image_shape))  # type: ignore[arg-type]


def check_options(options) -> None:
    """Raise ValueError, "KEY=VALUE: must be …", for options that `assembled` does not take."""
    check(options, **_OPTIONS, activation=one_of(*ACTIVATIONS), head=one_of(*HEADS))
    least = options["stem_stride"]
    check(options, stem_kernel_size=(f"at least stem_stride={least}", lambda size: size >= least))


_OPTIONS = {
    "width": even(),
    "depth": integer(1),
    "kernel_size": odd(),
    "stem_kernel_size": integer(1),
    "stem_stride": integer(1),
    "neck_width": or_none(even()),
    "neck_stride": integer(1),
    "dense_width": even(),
    "dense_depth": integer(0),
    "dense_kind": one_of(*METHODS),
    "hidden": integer(1),
    "compute_dtype": one_of(*COMPUTE_DTYPES),
    "remat": flag(),
    "std": number(SMALLEST_STD, LARGEST_STD),
}
