"""The residual network of docs/soundness.md: README's, for CIFAR-10, with one block more."""

import lipjax
from lipjax.layers import (
    Flatten,
    InputScale,
    LastLayerNormalization,
    MaxMin,
    Residual,
    Sequential,
    SkewOrthogonalConv,
    SpaceToDepth,
)


def network(image_shape, num_classes, *, channels=16):
    def block(width):
        return Residual(Sequential((("conv", SkewOrthogonalConv(width)), ("activation", MaxMin()))), a=0.5)

    layers = (
        ("input", InputScale(mean=(0.4914, 0.4822, 0.4465), std=0.2507)),
        ("stem", SkewOrthogonalConv(channels)),
        ("block1", block(channels)),
        ("rearrangement1", SpaceToDepth()),
        ("block2", block(4 * channels)),
        ("narrow", SkewOrthogonalConv(2 * channels)),
        ("rearrangement2", SpaceToDepth()),
        ("block3", block(8 * channels)),
        ("flatten", Flatten()),
    )
    return lipjax.Network(Sequential(layers), LastLayerNormalization(num_classes), image_shape)
