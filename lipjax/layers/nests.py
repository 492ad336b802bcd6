"""Sums that are known to be polynomials of a skew operator, or shifts of rotated channels: proven as such.

What the export writes of skew orthogonal convolutions and of shift mixing, read back, has the bound that it had.
"""

from typing import Any

import numpy as np

from lipjax.layers.containers import Sequential
from lipjax.layers.layer import Layer, Shape, Variables, own_of
from lipjax.layers.orthogonal_mixing import rotated_shift_bound
from lipjax.layers.plain_linear import Affine, PlainConv
from lipjax.layers.proven_norm import proven_norm
from lipjax.layers.rounding import ROUNDOFF
from lipjax.layers.shift import Shift
from lipjax.ops.bounds import is_skew
from lipjax.ops.nonnegative import nonnegative_conv_norm_bound
from lipjax.ops.plain_conv import Geometry
from lipjax.ops.polynomials import Polynomial
from lipjax.system import printed

_OFF = 1e-5  # what kernels may be off multiples of the first, relative, entry by entry
Bound = tuple[float, str] | None
Named = tuple[tuple[str, Layer], ...]


def nest_bound(total: Any, own: Variables, shape: Shape) -> Bound:
    """Of x + K_1 (x + K_2 (x + … + K_d x)) where K_j = c_j A + D_j, A = K_1 skew, |D_j| <= e |c_j A| entry by entry.

    With u_j = x + K_j+1 u_j+1 and v_j = x + c_j+1 A v_j+1 = q_j(A) x, ‖q_j(A)‖ <= g_j = max |q_j(it)|, t <= ‖A‖, the
    difference d_j = ‖u_j − v_j‖ / ‖x‖ is at most |c_j+1| (‖A‖ d_j+1 + e ‖|A|‖ (g_j+1 + d_j+1)); the bound is g_0 + d_0.
    """
    kernels = _kernels(total, own, shape)
    if not kernels or not is_skew(kernels[0]) or not kernels[0].any():
        return None
    first, size = kernels[0], (shape[0], shape[1])
    place = np.unravel_index(np.abs(first).argmax(), first.shape)
    factors = [float(kernel[place] / first[place]) for kernel in kernels]
    off = 0.0
    for factor, kernel in zip(factors, kernels, strict=True):
        parts = np.abs(factor * first)
        if factor == 0 or (np.abs(kernel - factor * first) > _OFF * parts).any():
            return None
        seen = parts > 0
        off = max(off, float((np.abs(kernel - factor * first)[seen] / parts[seen]).max(initial=0.0)))
    off, norm, absolute = off + 8 * ROUNDOFF, proven_norm(first, size), nonnegative_conv_norm_bound(first, size)
    differ, gain = 0.0, 1.0
    for j in reversed(range(len(factors))):
        differ = abs(factors[j]) * (norm * differ + off * absolute * (gain + differ))
        gain = Polynomial(tuple(factors[j:])).gain(norm)[1]
    bound = (gain + differ) * (1 + 1e-14)
    up_to = f"max |p(it)| up to the norm {printed.upper(norm, '.6g')}"
    return bound, f"{up_to}, p of degree {len(factors)}, as its convolutions are multiples"


def shift_bound(total: Any, own: Variables, shape: Shape) -> Bound:
    """Of x + R (S − 1) Rᵀ x, S a permutation: `rotated_shift_bound`."""
    found = _branch(total, own)
    if found is None or len(found[0]) != 3:
        return None
    ((first, down), (middle, moved), (last, up)), own = found
    rotation, back = _matrix(down, own_of(own, first)), _matrix(up, own_of(own, last))
    if rotation is None or back is None or not np.array_equal(rotation.T, back) or type(moved) is not type(total):
        return None
    branches, own = moved.layers, own_of(own, middle)
    if len(branches) != 2 or any(type(layer) is not Sequential or len(layer.layers) != 1 for _, layer in branches):
        return None
    name, (inner, affine) = branches[1][0], branches[1][1].layers[0]
    params = own_of(own_of(own, name), inner).get("params", {})
    if type(branches[0][1].layers[0][1]) is not Shift or type(affine) is not Affine:
        return None
    if not (np.all(np.asarray(params["scale"]) == -1) and np.all(np.asarray(params["shift"]) == 0)):
        return None
    return rotated_shift_bound(rotation), "channels rotated, shifted and rotated back"


def _branch(total: Any, own: Variables) -> tuple[Named, Variables] | None:
    """(layers, variables) of the other branch of a sum of two of which the first is the identity."""
    if len(total.layers) != 2:
        return None
    (_, identity), (name, branch) = total.layers
    if type(identity) is not Sequential or identity.layers or type(branch) is not Sequential:
        return None
    return branch.layers, own_of(own, name)


def _kernels(total: Any, own: Variables, shape: Shape) -> list[np.ndarray] | None:
    """Of the convolutions of a nest, the outermost first; None for what is none."""
    kernels: list[np.ndarray] = []
    layer = total
    while True:
        found = _branch(layer, own)
        if found is None or len(found[0]) not in (1, 2) or len(shape) != 3:
            return None
        layers, own = found
        kernel = _kernel(*layers[-1], own)
        if kernel is None or len(kernel) % 2 == 0 or kernel.shape[2:] != (shape[2], shape[2]):
            return None
        kernels.append(kernel)
        if len(layers) == 1:
            return kernels
        name, layer = layers[0]
        if type(layer) is not type(total):
            return None
        own = own_of(own, name)


def _kernel(name: str, conv: Layer, own: Variables) -> np.ndarray | None:
    """Of a square convolution of stride 1 with as many outputs as inputs and no bias."""
    if type(conv) is not PlainConv or conv.use_bias or conv.scaled:
        return None
    kernel = np.asarray(own_of(own, name)["params"]["kernel"], np.float64)
    k, other = kernel.shape[:2]
    return kernel if k == other and conv.geometry == Geometry(padding=((k // 2, k // 2),) * 2) else None


def _matrix(layer: Layer, own: Variables) -> np.ndarray | None:
    """Of a convolution 1×1 of that kind."""
    kernel = _kernel("of_it", layer, {"params": {"of_it": own.get("params", {})}})
    return kernel[0, 0] if kernel is not None and len(kernel) == 1 else None
