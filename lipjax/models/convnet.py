"""The network of the benchmark of 1-Lipschitz layers at equal time (Prach et al., CVPR 2024, arXiv 2311.16833)."""

from typing import Any

from lipjax.config import check, even, integer, number, odd, one_of
from lipjax.layers import (
    ACTIVATIONS,
    CONVOLUTIONS,
    HEADS,
    FirstChannels,
    Flatten,
    InputScale,
    Layer,
    Sequential,
    SpaceToDepth,
    ZeroPad,
)
from lipjax.layers.shapes import LARGEST_STD, SMALLEST_STD
from lipjax.models.lipconvnet import CIFAR_MEAN
from lipjax.models.network import Network, named_head


def convnet(
    image_shape: tuple[int, ...],
    num_classes: int,
    *,
    convolution: str = "aol",
    width: int = 16,
    blocks: int = 5,
    layers: int = 5,
    kernel_size: int = 3,
    activation: str = "max_min",
    head: str = "lln",
    hidden: int = 4096,
    mean: tuple[float, ...] | float | None = None,
    std: float = 1.0,
) -> Network:
    """Blocks of convolutions of one kind, each with its activation; after each block half the resolution.

    The first convolution goes from the channels of the image to `width`.  After a block the first half of the channels
    is kept and 2×2 pixels become channels, so that there are twice as many.  The benchmark's networks XS, S, M and L
    have width 16, 32, 64 and 128, five blocks of five layers, and images of 32×32 pixels.

    Args:
      image_shape: (H, W, C), any; zeros around make H and W multiples of 2^blocks.
      convolution: a key of CONVOLUTIONS, with its defaults.
      width: channels of the first block, even.
      blocks, layers: blocks, and convolutions in each.
      kernel_size: side of the kernels, odd.
      activation: one of ACTIVATIONS.
      head: 'lln' or 'crc'.
      hidden: units of the curvature head.
      mean, std: pixels become (x − mean) / std; mean None: CIFAR_MEAN for 3 channels, else 0.5.

    Raises:
      ValueError: "KEY=VALUE: must be …".
    """
    options = dict(locals())
    check(options, **_OPTIONS, activation=one_of(*ACTIVATIONS), head=one_of(*HEADS))
    check(options, convolution=one_of(*CONVOLUTIONS))
    kind: Any = CONVOLUTIONS[convolution]
    mean = (CIFAR_MEAN if image_shape[2] == 3 else 0.5) if mean is None else mean
    height, length = (-(-side // 2**blocks) * 2**blocks for side in image_shape[:2])
    own: list[tuple[str, Layer]] = [("input", InputScale(mean, std, parent=None))]
    if (height, length) != tuple(image_shape[:2]):
        own.insert(0, ("border", ZeroPad(height, length, parent=None)))
    for block in range(1, blocks + 1):
        channels = width * 2 ** (block - 1)
        for conv in range(layers):
            name = f"block{block}_conv{conv}"
            own.append((name, kind(features=channels, kernel_size=kernel_size, parent=None)))
            own.append((f"{name}_activation", ACTIVATIONS[activation](parent=None)))
        own.append((f"block{block}_first", FirstChannels(channels // 2, parent=None)))
        own.append((f"block{block}_rearrangement", SpaceToDepth(parent=None)))
    backbone = Sequential((*own, ("flatten", Flatten(parent=None))), parent=None)
    return Network(backbone, named_head(head, num_classes, hidden), tuple(image_shape))  # type: ignore[arg-type]


_OPTIONS = {
    "width": even(),
    "blocks": integer(1),
    "layers": integer(1),
    "kernel_size": odd(),
    "hidden": integer(1),
    "std": number(SMALLEST_STD, LARGEST_STD),
}
