"""Plain networks in numpy alone: a file to copy to where there is no lipjax (docs/export.md).

layers, about = read("network.npz")
logits = run(layers, images)  # (N, H, W, C) in [0, 1]
"""

import json
import math
from typing import Any

import numpy as np


def read(path):
    """(list of layers, all else that is said) of an .npz file that `lipjax.export` wrote."""
    with np.load(path) as file:
        arrays = dict(file)
    about = {**json.loads(str(arrays["metadata"])), **json.loads(str(arrays["description"]))}

    def filled(value):
        if isinstance(value, dict):
            return {key: filled(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [filled(entry) for entry in value]
        return arrays[value] if isinstance(value, str) and value in arrays else value

    return filled(about.pop("layers")), about


def run(layers, x):
    """What a list of plain layers makes of images (N, H, W, C), or features (N, D), in the dtype of both."""
    for layer in layers:
        x = LAYERS[layer["kind"]](x, **{key: value for key, value in layer.items() if key != "kind"})
    return x


def halves(x):
    """The first and the second half of the channels."""
    return x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]


def both(n):
    """(rows, columns) of a number for both, or of two."""
    return tuple(n) if isinstance(n, (tuple, list)) else (n, n)


def around(padding):
    """((top, bottom), (left, right)) of a number for all, or of the four."""
    return padding if isinstance(padding, (tuple, list)) else ((padding, padding), (padding, padding))


def max_min(x, pairing="halves"):
    """Each pair of channels, the larger number first: (c, c + C/2), or the neighbours (2c, 2c + 1)."""
    if pairing == "halves":
        return np.concatenate([np.maximum(*halves(x)), np.minimum(*halves(x))], -1)
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    return np.stack([pairs.max(-1), pairs.min(-1)], -1).reshape(x.shape)


def windows(x, size, stride, dilation=1):
    """(N, H', W', C, *size): what stands in windows of pixels, which begin `stride` apart, pixels `dilation` apart."""
    (sh, sw), (dh, dw) = both(stride), both(dilation)
    extent = [d * (k - 1) + 1 for k, d in zip(size, (dh, dw), strict=True)]
    return np.lib.stride_tricks.sliding_window_view(x, extent, (1, 2))[:, ::sh, ::sw, :, ::dh, ::dw]


def conv(x, kernel, stride=1, padding=0, bias=0, padding_mode="zeros", dilation=1, groups=1):
    """A convolution of images, kernel HWIO; padded by zeros, by the image again, or by its mirror image."""
    mode: Any = {"zeros": "constant", "circular": "wrap", "reflect": "reflect"}[padding_mode]
    x = windows(np.pad(x, [(0, 0), *around(padding), (0, 0)], mode), kernel.shape[:2], stride, dilation)
    groups = zip(np.split(x, groups, 3), np.split(kernel, groups, 3), strict=True)
    return np.concatenate([np.einsum("nhwcab,abco->nhwo", *group, optimize=True) for group in groups], -1) + bias


def max_pool(x, size, stride=None, padding=0):
    """Maxima of windows, of which padding is never one."""
    x = np.pad(x, [(0, 0), *around(padding), (0, 0)], constant_values=-np.inf)
    return windows(x, both(size), size if stride is None else stride).max((4, 5))


def average_pool(x, size, stride=None, padding=0, count_padding=True):
    """Means of windows padded by zeros, of all of the window or of the image in it."""
    x, ones = (np.pad(y, [(0, 0), *around(padding), (0, 0)]) for y in (x, np.ones((1, *x.shape[1:3], 1), x.dtype)))
    ones = np.ones_like(ones) if count_padding else ones
    total, count = (windows(y, both(size), size if stride is None else stride).sum((4, 5)) for y in (x, ones))
    return total / count


def pad(x, padding=0, channels=(0, 0)):
    """Zeros around the image, and before and behind its channels."""
    return np.pad(x, [(0, 0), *around(padding), channels])


def space_to_depth(x, block=2, order="channel_row_column"):
    """block × block pixels as one, channels in that order."""
    n, h, w, c = x.shape
    split = x.reshape(n, h // block, block, w // block, block, c)
    axes = {"channel_row_column": (0, 1, 3, 5, 2, 4), "row_column_channel": (0, 1, 3, 2, 4, 5)}[order]
    return split.transpose(axes).reshape(n, h // block, w // block, block * block * c)


def sigmoid(x):
    """1 / (1 + e^−x)."""
    return np.exp(np.minimum(x, 0)) / (1 + np.exp(-abs(x)))


def softplus(x):
    """log(1 + e^x)."""
    return np.maximum(x, 0) + np.log1p(np.exp(-abs(x)))


def elu(x, alpha=1.0):
    """x, or α (e^x − 1) where x < 0."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def erf(x):
    """The error function, which numpy has not."""
    return np.vectorize(math.erf, [x.dtype])(x)


SCALARS: dict[str, Any] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "leaky_relu": lambda x, slope=0.01: np.where(x >= 0, x, slope * x),
    "elu": elu,
    "selu": lambda x: 1.0507009873554805 * elu(x, 1.6732632423543772),
    "sigmoid": sigmoid,
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "tanh": np.tanh,
    "softsign": lambda x: x / (1 + abs(x)),
    "softplus": lambda x, beta=1.0: softplus(beta * x) / beta,
    "gelu": lambda x: x * (1 + erf(x * math.sqrt(0.5))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x * sigmoid(x),
    "hard_swish": lambda x: x * (np.clip(x + 3, 0, 6) / 6),
    "mish": lambda x: x * np.tanh(softplus(x)),
}


def activation(x, name, **options):
    """Of each entry; 'abs' of the first `channels` alone, 'n' with slopes 1, −1, 1 that change at low and high."""
    if name == "abs":
        first = options.get("channels", x.shape[-1])
        return np.concatenate([abs(x[..., :first]), x[..., first:]], -1)
    if name == "n":
        low, high = options["low"], options["high"]
        return np.where(x <= low, x - 2 * low, np.where(x >= high, x - 2 * high, -x))
    return SCALARS[name](x, **options)


def mirrored(a, b, angle):
    """Pairs at the line of angle / 2."""
    cos, sin = np.cos(angle), np.sin(angle)
    return a * cos + b * sin, a * sin - b * cos


def householder(x, angle):
    """Pairs of channels, mirrored where they are clockwise of the line of angle / 2."""
    a, b = halves(x)
    stays = b * np.cos(angle / 2) >= a * np.sin(angle / 2)
    return np.concatenate([np.where(stays, *pair) for pair in zip((a, b), mirrored(a, b, angle), strict=True)], -1)


def householder2(x, angles):
    """Pairs of channels by sector: as they are, mirrored, turned, mirrored."""
    a, b = halves(x)
    first, width1, width2 = angles
    phi = np.arctan2(b, a) - first / 2
    phi = np.where(phi < 0, phi + 2 * np.pi, phi)
    turned = a * np.cos(width2) + b * np.sin(width2), b * np.cos(width2) - a * np.sin(width2)
    sectors = [(a, b), mirrored(a, b, first + width1), turned, mirrored(a, b, first)]
    inside = [phi < width1 / 2, phi < (width1 + width2) / 2, phi < np.pi + width2 / 2]
    return np.concatenate([np.select(inside, parts[:3], parts[3]) for parts in zip(*sectors, strict=True)], -1)


def cone_distance(x, angle):
    """Signed distance of pairs of channels to rays at ±angle / 2: negative between them."""
    a, b = halves(x)
    cos, sin = np.maximum(np.cos(angle / 2), 0), np.sin(angle / 2)
    return np.where(a * cos + abs(b) * sin >= 0, abs(b) * cos - a * sin, np.hypot(a, b))


def polyline_distance(x, ax, ay, dx, dy, ux, uy, low, high, from_y, to_y, left_from):
    """Segments a + [low, high] u in the last axis; on the left, by the winding number, it is negative."""
    x, y = (half[..., None] for half in halves(x))
    qx, qy = x - ax, y - ay
    along = np.clip(qx * ux + qy * uy, low, high)
    distance = np.hypot(qx - along * ux, qy - along * uy).min(-1)
    side, starts_above, ends_above = dx * qy - dy * qx, from_y > y, to_y > y
    winding = (~starts_above & ends_above & (side > 0)).sum(-1) - (starts_above & ~ends_above & (side < 0)).sum(-1)
    return np.where(winding >= left_from, -distance, distance)


def point_distance(x, point):
    """Distance of groups of n channels to points (C/n, n)."""
    groups = x.reshape(*x.shape[:-1], point.shape[1], point.shape[0])
    return np.sqrt(((groups - point.T) ** 2).sum(-2))


def l2_pool(x, size):
    """Norms of each channel over windows of size × size pixels."""
    n, h, w, c = x.shape
    return np.sqrt((x.reshape(n, h // size, size, w // size, size, c) ** 2).sum((2, 4)))


def shift(x, count):
    """A quarter of the first channels each up, down, left and right, around the edges."""
    q = count // 4
    moves = [np.roll(x[..., i * q : (i + 1) * q], *move) for i, move in enumerate([(-1, 1), (1, 1), (-1, 2), (1, 2)])]
    return np.concatenate([*moves, x[..., count:]], -1)


def frequency_conv(x, grid, real, imaginary, down, across):
    """Each frequency of the image, zero-padded to the grid, times a matrix of channels: by real Fourier matrices."""
    n, h, _, c = x.shape
    points, half = grid[0], grid[1] // 2 + 1
    z = (x.swapaxes(2, 3) @ across).reshape(n, h, c, 2, half).transpose(0, 2, 4, 3, 1).reshape(n, c, half, 2 * h) @ down
    z = z.reshape(n, c, half, 2, points).transpose(3, 4, 2, 0, 1).reshape(2, points * half, n, c)
    z = np.stack([z[0] @ real - z[1] @ imaginary, z[0] @ imaginary + z[1] @ real])
    z = z.reshape(2, points, half, n, -1).transpose(3, 4, 2, 0, 1).reshape(n, -1, half, 2 * points) @ down.T
    z = z.reshape(n, -1, half, 2, h).transpose(0, 4, 1, 3, 2)
    return (z.reshape(n, h, -1, 2 * half) @ across.T).swapaxes(2, 3)


def split(x, channels, branches):
    """Groups of channels, each through layers of its own."""
    groups = np.split(x, np.cumsum(channels)[:-1], -1)
    return np.concatenate([run(branch, group) for branch, group in zip(branches, groups, strict=True)], -1)


LAYERS: dict[str, Any] = {
    "conv": conv,
    "dense": lambda x, kernel, bias=0: x @ kernel + bias,
    "affine": lambda x, scale, shift: x * scale + shift,
    "add": lambda x, term: x + term,
    "activation": activation,
    "max_min": max_min,
    "max_pool": max_pool,
    "average_pool": average_pool,
    "global_average_pool": lambda x: x.sum((1, 2)) / x.dtype.type(x.shape[1] * x.shape[2]),
    "channel_max": lambda x: np.maximum(*halves(x)),
    "householder": householder,
    "householder2": householder2,
    "cone_distance": cone_distance,
    "polyline_distance": polyline_distance,
    "point_distance": point_distance,
    "l2_pool": l2_pool,
    "global_l2_pool": lambda x: np.sqrt((x**2).sum((1, 2))),
    "shift": shift,
    "frequency_conv": frequency_conv,
    "space_to_depth": space_to_depth,
    "pad": pad,
    "slice_channels": lambda x, stop, start=0: x[..., start:stop],
    "take_channels": lambda x, order: x[..., list(order)],
    "flatten": lambda x, order="hwc": (np.moveaxis(x, -1, 1) if order == "chw" else x).reshape(len(x), -1),
    "unflatten": lambda x, shape: x.reshape(len(x), *shape),
    "sum": lambda x, branches: sum(run(branch, x) for branch in branches),
    "concatenate": lambda x, branches: np.concatenate([run(branch, x) for branch in branches], -1),
    "split": split,
}
