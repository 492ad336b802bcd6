"""What SLL and CPL networks share: layers x − h Wᵀ σ(W x + b) of images and of features, sums of patches, unit rows."""

import re

import numpy as np

from lipjax.interop.network import Row, State, hwio
from lipjax.layers import ConvexPotential, PatchConv, Patches

POOL = 4  # AvgPool2d(4, divisor_override=4): of each 4×4 pixels the sum over 4, of norm 1


def indices(arrays: State, pattern: str) -> list[int]:
    """The numbers in the names that match, ascending."""
    matches = [re.fullmatch(pattern, name) for name in arrays.names()]
    return sorted({int(match[1]) for match in matches if match})


def add_step(row: Row, name: str, kernel: np.ndarray, bias: np.ndarray, features: int, norm: float = 1.0) -> None:
    """x − (2 / norm²) Wᵀ σ(W x + b) with the kernel (k, k, C, inner)."""
    layer = ConvexPotential(features, len(kernel), kernel.shape[3], parent=None)
    row.add(name, layer, {"kernel": kernel, "bias": bias}, {"norm": np.array(norm)})


def add_pool(row: Row, channels: int) -> None:
    """The sum over each 4×4 pixels, over 4, as a product with a matrix."""
    matrix = np.kron(np.full((POOL * POOL, 1), 1 / POOL), np.eye(channels))
    row.add("pool", PatchConv(channels, POOL, parent=None), {"bias": np.zeros(channels)}, {"matrix": matrix})


def add_features(row: Row, side: int) -> None:
    """Images of `side`² pixels as one pixel, with the features in the order (c, row, column)."""
    row.add("features", Patches(side, parent=None))


def add_dense_step(row: Row, name: str, weight: np.ndarray, bias: np.ndarray, norm: float = 1.0) -> None:
    """x − (2 / norm²) Wᵀ σ(W x + b), W (inner, D), of images of one pixel."""
    add_step(row, name, hwio(weight[:, :, None, None]), bias, weight.shape[1], norm)


def side_of(program: str, features: int, channels: int) -> int:
    """Of square images of so many channels with so many features; ValueError where there is none."""
    side = round((features / channels) ** 0.5)
    if side * side * channels != features:
        raise ValueError(f"{program}: {features} features are no square images of {channels} channels")
    return side
