"""Plain networks as calls of a few operations, which torch has by themselves and ONNX as nodes (`Operations`)."""

import functools
import itertools
from typing import Any, Protocol

import numpy as np

from lipjax.export.interpreter import around, both
from lipjax.export.scalars import SCALARS
from lipjax.layers.plain import Plain


class Operations(Protocol):
    """What a format says: arrays of its own have +, −, ·, / and a shape, of which the first entry is the batch."""

    def constant(self, values) -> Any:
        """An array of the file: of its dtype where it is of floats, else as it is."""

    def conv(self, x, kernel, bias, stride, padding, dilation=(1, 1), groups: int = 1) -> Any:
        """Images NHWC, padded by zeros, kernel HWIO and bias of numpy, stride and dilation of both axes."""

    def matmul(self, x, y) -> Any: ...
    def maximum(self, x, y) -> Any: ...
    def minimum(self, x, y) -> Any: ...
    def abs(self, x) -> Any: ...
    def sqrt(self, x) -> Any: ...
    def softplus(self, x) -> Any: ...
    def exp(self, x) -> Any: ...
    def expm1(self, x) -> Any:
        """Of numbers <= 0."""

    def tanh(self, x) -> Any: ...
    def erf(self, x) -> Any: ...
    def at_least(self, x, y) -> Any:
        """x >= y."""

    def more(self, x, y) -> Any:
        """x > y."""

    def both(self, x, y) -> Any:
        """And, of truth values."""

    def either(self, x, y) -> Any:
        """Or."""

    def negated(self, x) -> Any:
        """Not."""

    def where(self, condition, x, y) -> Any: ...
    def concatenate(self, parts, axis: int) -> Any: ...
    def part(self, x, axis: int, start: int, stop: int) -> Any: ...
    def pixels(self, x, starts, counts, strides) -> Any:
        """Of images so many rows and columns from these on, each so far from the one before."""

    def channels(self, x, places) -> Any:
        """The channels at these places, in that order."""

    def pad(self, x, around) -> Any:
        """Zeros, ((before, after), …) of each axis but the first."""

    def transpose(self, x, axes) -> Any: ...
    def reshape(self, x, shape) -> Any:
        """To (N, *shape)."""

    def sum(self, x, axes) -> Any: ...
    def least(self, x) -> Any:
        """The minimum over the last axis."""

    def largest(self, x) -> Any:
        """The place of the maximum in the last axis, int64."""

    def rows(self, matrix, places) -> Any:
        """The rows of a matrix at these places."""


def lower(layers: Plain, x: Any, o: Operations) -> Any:
    """What a list of plain layers makes of x."""
    for layer in layers:
        x = LAYERS[layer["kind"]](o, x, **{key: value for key, value in layer.items() if key != "kind"})
    return x


def _channels(o, x, start, stop):
    return o.part(x, len(x.shape) - 1, start, stop)


def _halves(o, x):
    count = x.shape[-1]
    return _channels(o, x, 0, count // 2), _channels(o, x, count // 2, count)


def _joined(o, *parts):
    return o.concatenate(parts, len(parts[0].shape) - 1)


def _conv(o, x, kernel, stride=1, padding=0, bias=None, padding_mode="zeros", dilation=1, groups=1):
    padding = around(padding)
    if padding_mode != "zeros":
        x, padding = _repeated(o, x, padding, {"circular": "wrap", "reflect": "reflect"}[padding_mode]), around(0)
    bias = np.zeros(kernel.shape[3]) if bias is None else bias
    return o.conv(x, kernel, bias, both(stride), padding, both(dilation), groups)


def _repeated(o, x, padding, mode):
    """Images padded by their own pixels, in a mode of numpy: run after run of rows and columns that stand together."""
    for axis, sides in enumerate(padding, 1):
        places = np.pad(np.arange(x.shape[axis]), tuple(sides), mode)
        runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
        parts = [o.part(x, axis, int(run[0]), int(run[-1]) + 1) for run in runs]
        x = o.concatenate(parts, axis) if len(parts) > 1 else parts[0]
    return x


def _windows(o, x, size, stride):
    """For each place in windows of padded images, what stands there."""
    stride = both(size if stride is None else stride)
    counts = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:3], both(size), stride, strict=True)]
    return [o.pixels(x, place, counts, stride) for place in np.ndindex(*both(size))]


def _max_pool(o, x, size, stride=None, padding=0):
    """A window with padding has the pixel at the border, too, which the padding may hence repeat."""
    return functools.reduce(o.maximum, _windows(o, _repeated(o, x, around(padding), "edge"), size, stride))


def _average_pool(o, x, size, stride=None, padding=0, count_padding=True):
    padding = [*around(padding), (0, 0)]
    ones = np.pad(np.ones((1, *x.shape[1:3], 1)), [(0, 0), *padding], constant_values=float(count_padding))
    step = both(size if stride is None else stride)
    found = np.lib.stride_tricks.sliding_window_view(ones, both(size), (1, 2))[:, :: step[0], :: step[1]]
    total, *others = _windows(o, o.pad(x, padding), size, stride)
    for other in others:
        total = total + other
    return total / o.constant(found.sum((4, 5)))


def _dense(o, x, kernel, bias=None):
    y = o.matmul(x, o.constant(kernel))
    return y if bias is None else y + o.constant(bias)


def _affine(o, x, scale, shift):
    x = x if (scale == 1).all() else x * o.constant(scale)
    return x if (shift == 0).all() else x + o.constant(shift)


def _activation(o, x, name, channels=None, low=None, high=None, **options):
    if name in SCALARS:
        return SCALARS[name](o, x, **options)
    if name == "abs":
        count = x.shape[-1]
        channels = count if channels is None else channels
        parts = [o.abs(_channels(o, x, 0, channels))] if channels else []
        return _joined(o, *parts, *([_channels(o, x, channels, count)] if channels < count else []))
    low, high = np.asarray(low), np.asarray(high)
    below, above = o.at_least(o.constant(low), x), o.at_least(x, o.constant(high))
    inner = o.where(above, x - o.constant(2 * high), o.constant(0.0) - x)
    return o.where(below, x - o.constant(2 * low), inner)


def _max_min(o, x, pairing="halves"):
    if pairing == "halves":
        pair = _halves(o, x)
        return _joined(o, o.maximum(*pair), o.minimum(*pair))
    shape = x.shape[1:]
    pairs = o.reshape(x, (*shape[:-1], shape[-1] // 2, 2))
    pair = _halves(o, pairs)
    return o.reshape(_joined(o, o.maximum(*pair), o.minimum(*pair)), shape)


def _flatten(o, x, order="hwc"):
    x = o.transpose(x, (0, 3, 1, 2)) if order == "chw" else x
    return o.reshape(x, (int(np.prod(x.shape[1:])),))


def _mirrored(o, a, b, angle):
    cos, sin = o.constant(np.cos(angle)), o.constant(np.sin(angle))
    return a * cos + b * sin, a * sin - b * cos


def _householder(o, x, angle):
    a, b = _halves(o, x)
    stays = o.at_least(b * o.constant(np.cos(angle / 2)), a * o.constant(np.sin(angle / 2)))
    return _joined(o, *(o.where(stays, *pair) for pair in zip((a, b), _mirrored(o, a, b, angle), strict=True)))


def _householder2(o, x, angles):
    """As `ops.householder2`: by the sides of rays, in each half plane of the first of them."""
    a, b = _halves(o, x)
    first, second, third = angles
    size, zero = o.maximum(o.abs(a), o.abs(b)) * o.constant(-0.5), o.constant(0.0)

    def coordinates(angle):
        cos, sin = o.constant(np.cos(angle / 2)), o.constant(np.sin(angle / 2))
        return a * cos + b * sin, b * cos - a * sin

    along, across = coordinates(first)
    is_upper = o.at_least(across, zero)
    is_lower = o.negated(is_upper)

    def either_way(condition, one, other):  # onnxruntime's Where knows no truth values
        return o.either(o.both(condition, one), o.both(o.negated(condition), other))

    def is_past(angle):
        ahead, side = coordinates(angle)
        later = either_way(is_upper, o.more(zero, along), o.more(along, zero))
        return either_way(o.more(size, ahead), later, o.at_least(side, zero))

    is_second_upper = o.constant(second + third <= 2 * np.pi)
    second_ray = is_past(first + second + third)
    past = (
        o.either(is_lower, is_past(first + second)),
        either_way(is_upper, o.both(is_second_upper, second_ray), o.either(is_second_upper, second_ray)),
        o.both(is_lower, is_past(first + third + 2 * np.pi)),
    )
    cos, sin = o.constant(np.cos(third)), o.constant(np.sin(third))
    turned = a * cos + b * sin, b * cos - a * sin
    found = _mirrored(o, a, b, first)
    sectors = ((a, b), _mirrored(o, a, b, first + second), turned)
    for passed, sector in reversed(list(zip(past, sectors, strict=True))):
        found = tuple(o.where(passed, other, own) for own, other in zip(sector, found, strict=True))
    return _joined(o, *found)


def _cone_distance(o, x, angle):
    a, b = _halves(o, x)
    height, cos = o.abs(b), np.cos(angle / 2)
    sine = o.constant(np.sin(angle / 2))
    on_ray = o.at_least(a * o.constant(np.maximum(cos, 0)) + height * sine, o.constant(0.0))
    return o.where(on_ray, height * o.constant(cos) - a * sine, o.sqrt(a * a + b * b))


def _polyline_distance(o, x, left_from, **segments):
    """Segment by segment: the square of the distance, and how often the curve winds around the point."""
    px, py = _halves(o, x)
    squared, winding, zero, one = None, o.constant(0.0), o.constant(0.0), o.constant(1.0)
    for s in range(segments["ax"].shape[1]):
        c = {name: o.constant(values[:, s]) for name, values in segments.items()}
        qx, qy = px - c["ax"], py - c["ay"]
        along = o.minimum(o.maximum(qx * c["ux"] + qy * c["uy"], c["low"]), c["high"])
        rx, ry = qx - along * c["ux"], qy - along * c["uy"]
        here = rx * rx + ry * ry
        squared = here if squared is None else o.minimum(squared, here)
        starts_above, ends_above = o.more(c["from_y"], py), o.more(c["to_y"], py)
        side = c["dx"] * qy - c["dy"] * qx
        up = o.both(o.both(o.negated(starts_above), ends_above), o.more(side, zero))
        down = o.both(o.both(starts_above, o.negated(ends_above)), o.more(zero, side))
        winding = winding + o.where(up, one, zero) - o.where(down, one, zero)
    distance = o.sqrt(squared)
    return o.where(o.at_least(winding, o.constant(left_from)), zero - distance, distance)


def _point_distance(o, x, point):
    channels, count = point.shape
    groups = o.reshape(x, (*x.shape[1:-1], count, channels)) - o.constant(point.T)
    return o.sqrt(o.sum(groups * groups, (len(x.shape) - 1,)))


def _l2_pool(o, x, size):
    h, w, c = x.shape[1:]
    windows = o.reshape(x, (h // size, size, w // size, size, c))
    return o.sqrt(o.sum(windows * windows, (2, 4)))


def _shift(o, x, count):
    q, parts = count // 4, []
    for i, (axis, first) in enumerate([(1, 1), (1, -1), (2, 1), (2, -1)]):
        channels, length = _channels(o, x, i * q, (i + 1) * q), x.shape[axis]
        cut = first % length
        halves = [o.part(channels, axis, cut, length), o.part(channels, axis, 0, cut)] if cut else [channels]
        parts.append(o.concatenate(halves, axis))
    rest = [_channels(o, x, count, x.shape[-1])] if count < x.shape[-1] else []
    return _joined(o, *parts, *rest)


def _space_to_depth(o, x, block=2, order="channel_row_column"):
    h, w, c = x.shape[1:]
    split = o.reshape(x, (h // block, block, w // block, block, c))
    axes = {"channel_row_column": (0, 1, 3, 5, 2, 4), "row_column_channel": (0, 1, 3, 2, 4, 5)}[order]
    return o.reshape(o.transpose(split, axes), (h // block, w // block, block * block * c))


def _frequency_conv(o, x, grid, real, imaginary, down, across):
    h, _, c = x.shape[1:]
    (points, half), c_out = (grid[0], grid[1] // 2 + 1), real.shape[2]
    z = o.reshape(o.matmul(o.transpose(x, (0, 1, 3, 2)), o.constant(across)), (h, c, 2, half))
    z = o.matmul(o.reshape(o.transpose(z, (0, 2, 4, 3, 1)), (c, half, 2 * h)), o.constant(down))
    z = o.reshape(o.transpose(o.reshape(z, (c, half, 2, points)), (0, 4, 2, 3, 1)), (points * half, 2, c))
    by_real, by_imaginary = (o.matmul(z, o.constant(part)) for part in (real, imaginary))
    first, second = ((0, 1), (1, 2))
    parts = [
        o.part(by_real, 2, *first) - o.part(by_imaginary, 2, *second),
        o.part(by_imaginary, 2, *first) + o.part(by_real, 2, *second),
    ]
    z = o.reshape(o.concatenate(parts, 2), (points, half, 2, c_out))
    z = o.reshape(o.transpose(z, (0, 4, 2, 3, 1)), (c_out, half, 2 * points))
    z = o.reshape(o.matmul(z, o.constant(down.T)), (c_out, half, 2, h))
    z = o.reshape(o.transpose(z, (0, 4, 1, 3, 2)), (h, c_out, 2 * half))
    return o.transpose(o.matmul(z, o.constant(across.T)), (0, 1, 3, 2))


def _sum(o, x, branches):
    total, *others = [lower(branch, x, o) for branch in branches]
    for other in others:
        total = total + other
    return total


def _split(o, x, channels, branches):
    ends = np.cumsum([0, *channels]).tolist()
    groups = [_channels(o, x, *span) for span in itertools.pairwise(ends)]
    return _joined(o, *(lower(branch, group, o) for branch, group in zip(branches, groups, strict=True)))


LAYERS: dict[str, Any] = {
    "conv": _conv,
    "dense": _dense,
    "affine": _affine,
    "add": lambda o, x, term: x + o.constant(term),
    "activation": _activation,
    "max_min": _max_min,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "global_average_pool": lambda o, x: o.sum(x, (1, 2)) / o.constant(float(x.shape[1] * x.shape[2])),
    "channel_max": lambda o, x: o.maximum(*_halves(o, x)),
    "householder": _householder,
    "householder2": _householder2,
    "cone_distance": _cone_distance,
    "polyline_distance": _polyline_distance,
    "point_distance": _point_distance,
    "l2_pool": _l2_pool,
    "global_l2_pool": lambda o, x: o.sqrt(o.sum(x * x, (1, 2))),
    "shift": _shift,
    "frequency_conv": _frequency_conv,
    "space_to_depth": _space_to_depth,
    "pad": lambda o, x, padding=0, channels=(0, 0): o.pad(x, [*around(padding), channels]),
    "slice_channels": lambda o, x, stop, start=0: _channels(o, x, start, stop),
    "take_channels": lambda o, x, order: o.channels(x, order),
    "flatten": _flatten,
    "unflatten": lambda o, x, shape: o.reshape(x, tuple(shape)),
    "sum": _sum,
    "concatenate": lambda o, x, branches: _joined(o, *(lower(branch, x, o) for branch in branches)),
    "split": _split,
}
