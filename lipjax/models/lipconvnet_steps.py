"""The convolutions of LipConvnet-n, one after the other (paper, Table 2)."""

from typing import NamedTuple


class ConvStep(NamedTuple):
    """One convolution of LipConvnet with what precedes and follows it."""

    name: str
    block: int  # 0: before the first
    rearrange: bool  # space_to_depth before the convolution
    size: tuple[int, int]  # height and width at the convolution
    in_channels: int  # after rearrangement
    features: int
    kernel_size: int
    pool: bool  # pooling of channel halves after it, else the activation


def architecture(
    depth: int,
    init_channels: int,
    input_size: int | tuple[int, int],
    in_channels: int,
    pool_last: bool,
    blocks: int | None = None,
) -> list[ConvStep]:
    """The convolutions of LipConvnet-`depth` in order, 1 + (depth/5)·blocks of them; blocks None: `halvings`.

    A convolution from in_channels to init_channels, then blocks of depth/5 convolutions, each block halving the
    resolution, of which both sides are multiples of 2^blocks, and doubling the channels.  Rearrangement stands before a
    block's last convolution, in the last block before its first, where all convolutions are 1×1; each block's last
    convolution is followed by pooling, the network's last one only if `pool_last`.  The paper's networks, of square
    images with 2^blocks pixels a side, have a single pixel in the last block.
    """
    per_block, channels, size = depth // 5, init_channels, sides_of(input_size)
    blocks = halvings(size) if blocks is None else blocks
    steps = [ConvStep("stem", 0, False, size, in_channels, init_channels, 3, False)]
    for block in range(1, blocks + 1):
        last_block = block == blocks
        for conv in range(per_block):
            ends = conv == per_block - 1
            rearrange = conv == 0 if last_block else ends
            if rearrange:
                size, channels = (size[0] // 2, size[1] // 2), channels * 4
            pool = ends and (pool_last or not last_block)
            kernel_size = 1 if last_block else 3
            name = f"block{block}_conv{conv}"
            steps.append(ConvStep(name, block, rearrange, size, channels, channels, kernel_size, pool))
        channels //= 2
    return steps


def halvings(size: tuple[int, int], patch: int = 1) -> int:
    """How often the shorter side of an image, in patches, is halved until it is one of them: ⌈log2⌉, at least 2."""
    return max(2, (-(-min(size) // patch) - 1).bit_length())


def sides_of(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of that, or of one number for both."""
    return size if isinstance(size, tuple) else (size, size)
