"""Plain layers: what a network is written in for programs that know nothing of lipjax (docs/export.md).

A plain network is a list of dicts, each with a "kind" and values: numpy arrays, numbers, names, and lists of such dicts
under "branches".  Images are NHWC, kernels HWIO, dense kernels (in, out), constants float64.
"""

from typing import Any

import numpy as np

Plain = list[dict[str, Any]]


def array(values) -> np.ndarray:
    """Of float64."""
    return np.asarray(values, np.float64)


def conv(kernel, bias=None, stride: int = 1, padding: Any = None) -> dict[str, Any]:
    """Of a kernel (k, k, C_in, C_out); padding ((top, bottom), (left, right)), None: as many outputs as inputs."""
    if padding is None:
        padding = ((len(kernel) // 2,) * 2,) * 2
    layer = {"kind": "conv", "kernel": array(kernel), "stride": stride, "padding": [list(side) for side in padding]}
    return layer if bias is None else {**layer, "bias": array(bias)}


def matrix(values, bias, shape: tuple[int, ...]) -> dict[str, Any]:
    """x M + b of features (D,), or of each pixel of images (H, W, D)."""
    if len(shape) == 3:
        return conv(array(values)[None, None], bias)
    layer = {"kind": "dense", "kernel": array(values)}
    return layer if bias is None else {**layer, "bias": array(bias)}


def affine(scale=1.0, shift=0.0) -> dict[str, Any]:
    """x · scale + shift, numbers or (C,)."""
    return {"kind": "affine", "scale": array(scale), "shift": array(shift)}


def activation(name: str, **options: Any) -> dict[str, Any]:
    """Of each entry by itself."""
    return {"kind": "activation", "name": name, **options}


def total(*branches: Plain) -> dict[str, Any]:
    """The sum of what lists of layers make of the same input; an empty list is the identity."""
    return {"kind": "sum", "branches": list(branches)}


def more_channels(now: int, wanted: int) -> Plain:
    """Zeros behind the channels, up to so many."""
    if wanted <= now:
        return []
    return [{"kind": "pad", "padding": [[0, 0], [0, 0]], "channels": [0, wanted - now]}]


def first_channels(now: int, wanted: int) -> Plain:
    """The first so many channels."""
    return [{"kind": "slice_channels", "start": 0, "stop": wanted}] if wanted < now else []
