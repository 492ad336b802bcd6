"""What each kind of a plain description is: its keys, and the layer and variables that they make (docs/plain.md)."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lipjax import layers
from lipjax.layers import Layer
from lipjax.layers.layer import Shape, Variables
from lipjax.layers.plain_activations import SCALARS
from lipjax.layers.plain_linear import pair
from lipjax.ops.curves import plain_rays
from lipjax.ops.frequency import transforms

Made = tuple[Layer, dict[str, np.ndarray]]


class Item:
    """One dict of a description: its values, taken by key, with errors that name its place."""

    def __init__(self, at: str, values: Mapping[str, Any], shape: Shape):
        self.at, self.shape, self._values = at, shape, values

    def refused(self, text: str) -> ValueError:
        """The error that says so of this layer."""
        return ValueError(f"layer {self.at} ({self._values['kind']}): {text}")

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key that may be left out."""
        return self._values.get(key, default)

    def array(self, key: str, *shape: int | None) -> np.ndarray:
        """An array of finite float32 or float64 numbers (or integers) of that shape (None: any length)."""
        array = np.asarray(self._values[key])
        array = array.astype(np.float64) if array.dtype.kind in "iu" else array
        if array.dtype not in (np.float32, np.float64):
            raise self.refused(f"{key} must be an array of float32 or float64, got {array.dtype}")
        fits = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
        if not fits:
            wanted = str(tuple("any" if n is None else n for n in shape)).replace("'", "")
            raise self.refused(f"{key} must have shape {wanted}, got {array.shape}")
        if not np.isfinite(array).all():
            raise self.refused(f"{key} has entries that are not finite")
        return array

    def channels(self, key: str, count: int) -> np.ndarray:
        """A number, or one per channel, as (count,)."""
        value = self._values[key]
        return np.array(np.broadcast_to(self.array(key), (count,))) if np.ndim(value) == 0 else self.array(key, count)

    def image(self) -> tuple[int, int, int]:
        """(H, W, C); ValueError where the input is no image."""
        if len(self.shape) != 3:
            raise self.refused(f"its input must be images (H, W, C), got {self.shape}")
        return self.shape  # type: ignore[return-value]

    def pairs(self) -> int:
        """Half of the channels."""
        if self.shape[-1] % 2:
            raise self.refused(f"the number of channels must be even, got {self.shape[-1]}")
        return self.shape[-1] // 2


class Kind(NamedTuple):
    """make(item) → (layer, params); which keys there must be, and which there may be."""

    make: Callable[[Item], Made]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


def _conv(item: Item) -> Made:
    groups = item.get("groups", 1)
    channels = item.image()[2]
    if not isinstance(groups, int) or isinstance(groups, bool) or groups < 1 or channels % groups:
        raise item.refused(f"groups must be an integer >= 1 that divides the {channels} channels, got {groups!r}")
    kernel = item.array("kernel", None, None, channels // groups, None)
    params = {"kernel": kernel}
    if item.get("bias") is not None:
        params["bias"] = item.array("bias", kernel.shape[3])
    layer = layers.PlainConv(
        kernel.shape[3],
        kernel.shape[:2],
        _plain(item.get("stride", 1)),
        _plain(item.get("padding", 0)),
        item.get("padding_mode", "zeros"),
        _plain(item.get("dilation", 1)),
        groups,
        "bias" in params,
    )
    return layer, params


def _dense(item: Item) -> Made:
    if len(item.shape) != 1:
        raise item.refused(f"its input must be features (D,), got {item.shape}; flatten before it")
    params = {"kernel": item.array("kernel", item.shape[0], None)}
    features = params["kernel"].shape[1]
    if item.get("bias") is not None:
        params["bias"] = item.array("bias", features)
    return layers.PlainDense(features, "bias" in params), params


def _affine(item: Item) -> Made:
    return layers.Affine(), {key: item.channels(key, item.shape[-1]) for key in ("scale", "shift")}


def _add(item: Item) -> Made:
    height, width, channels = item.image()
    per_channel = np.shape(item.get("term"))[-1:] == (channels,) and channels != 1
    return layers.Position(per_channel), {"term": item.array("term", height, width, channels if per_channel else 1)}


def _activation(item: Item) -> Made:
    name, channels = item.get("name"), item.shape[-1]
    options = {key: item.get(key) for key in ("slope", "alpha", "beta", "channels", "low", "high")}
    given = {key for key, value in options.items() if value is not None}
    if name == "abs" and given:
        _only(item, given, "channels")
        if options["channels"] not in range(channels + 1):
            raise item.refused(f"channels must be an integer from 0 to {channels}, got {options['channels']!r}")
        return layers.BetaAbs(options["channels"] / channels), {}
    if name == "n":
        _only(item, given, "low", "high")
        if given != {"low", "high"}:
            raise item.refused("activation 'n' must have low and high")
        low, high = (item.channels(key, channels) for key in ("low", "high"))
        if (low > high).any():
            raise item.refused(f"low must be at most high, got {low.tolist()} and {high.tolist()}")
        return layers.NActivation(), {"theta": np.stack([low, high], axis=1)}
    if name not in SCALARS:
        raise item.refused(f"name must be one of {(*SCALARS, 'n')}, got {name!r}")
    parameter = SCALARS[name].parameter
    _only(item, given, parameter)
    return layers.Activation(name, options[parameter] if parameter else None), {}


def _only(item: Item, given: set[str], *allowed: str) -> None:
    extra = sorted(given - set(allowed))
    if extra:
        raise item.refused(f"{extra[0]} is no option of activation {item.get('name')!r}")


def _max_min(item: Item) -> Made:
    pairing = item.get("pairing", "halves")
    item.pairs()
    if pairing not in ("halves", "neighbours"):
        raise item.refused(f"pairing must be 'halves' or 'neighbours', got {pairing!r}")
    return layers.MaxMin(pairing == "neighbours"), {}


def _angles(item: Item, key: str, most: float, *shape: int) -> np.ndarray:
    """Angles in [0, most], an end that was rounded included: beyond it a layer of ours and others would not agree."""
    angles = item.array(key, *shape)
    if not (angles.min(initial=0) >= 0 and angles.max(initial=0) <= most * (1 + 1e-7)):
        raise item.refused(f"{key} must lie in [0, {most:.4f}], got {angles.min():.4f} to {angles.max():.4f}")
    return angles


def _householder2(item: Item) -> Made:
    angles = _angles(item, "angles", 2 * math.pi, 3, item.pairs())
    return layers.Householder2(), {f"angle{i}": angle for i, angle in enumerate(angles)}


def _point(item: Item) -> Made:
    channels = item.shape[-1]
    dimensions = item.array("point", None, None).shape[1]
    if dimensions < 2 or channels % dimensions:
        raise item.refused(f"point must have shape ({channels} / n, n), n >= 2, got {np.shape(item.get('point'))}")
    return layers.PointPool(dimensions), {"point": item.array("point", channels // dimensions, dimensions)}


def _windows(kind: type) -> Callable[[Item], Made]:
    def make(item: Item) -> Made:
        item.image()
        given = {key: _plain(item.get(key)) for key in ("size", "stride", "padding") if item.get(key) is not None}
        given |= {} if item.get("count_padding") is None else {"count_padding": item.get("count_padding")}
        return kind(**given), {}

    return make


_ORDERS = {"channel_row_column": (4, 0, 2), "row_column_channel": (0, 2, 4)}


def _space_to_depth(item: Item) -> Made:
    block, order, channels = item.get("block", 2), item.get("order", "channel_row_column"), item.image()[2]
    if order not in _ORDERS:
        raise item.refused(f"order must be one of {tuple(_ORDERS)}, got {order!r}")
    rearranged = layers.SpaceToDepth(block)
    if order == "channel_row_column" or not isinstance(block, int):
        return rearranged, {}
    places = np.arange(channels * block * block).reshape(channels, block, block).transpose(1, 2, 0).ravel()
    moved = layers.TakeChannels(tuple(places.tolist()))
    return layers.Sequential((("rearranged", rearranged), ("ordered", moved))), {}


def _slice(item: Item) -> Made:
    start, stop, channels = item.get("start", 0), item.get("stop"), item.shape[-1]
    if not (_is_count(start) and _is_count(stop) and start < stop <= channels):
        raise item.refused(f"start and stop must be integers, 0 <= start < stop <= {channels}, got {start!r}, {stop!r}")
    return layers.TakeChannels(tuple(range(start, stop))), {}


def _shift(item: Item) -> Made:
    count = item.get("count")
    if not _is_count(count):
        raise item.refused(f"count must be an integer, got {count!r}")
    return layers.Shift(count / item.image()[2]), {}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _plain(value: Any) -> Any:
    """Integers and tuples of them, of what may be numpy's or lists."""
    if isinstance(value, tuple | list | np.ndarray):
        return tuple(_plain(entry) for entry in value)
    return int(value) if isinstance(value, np.integer) else value


def _householder(item: Item) -> Made:
    return layers.Householder(), {"angle": item.array("angle", item.pairs())}


def _cone(item: Item) -> Made:
    return layers.ProjectionPool(), {"theta": _angles(item, "angle", math.pi, item.pairs())}


def _channel_max(item: Item) -> Made:
    item.pairs()
    return layers.MaxPool(), {}


def _polyline(item: Item) -> Made:
    """By its vertices, from which all other numbers follow, but for rounding; those are compared."""
    count = item.pairs()
    starts = np.stack([item.array(key, count, None) for key in ("ax", "ay")], axis=2).astype(np.float64)
    last = [starts[:, -1, i] + item.array(key, count, None)[:, -1] for i, key in enumerate(("dx", "dy"))]
    vertices = np.concatenate([starts, np.stack(last, axis=1)[:, None]], axis=1)
    largest, eps = np.abs(vertices).max(), float(np.finfo(np.float64).eps)
    shortest = max(np.linalg.norm(np.diff(vertices, axis=1), axis=2).min(), 1e-6 * largest)
    for key, value in plain_rays(vertices).items():
        given = np.asarray(item.get(key))
        dtype = np.dtype(np.float32 if given.dtype == np.float32 else np.float64)
        if key in _ROUNDED:
            units = 16 * (2.0**-23 if dtype == np.float32 else eps)
            off = units + 16 * eps * largest / shortest if key in ("ux", "uy") else units * largest
            fits = given.shape == value.shape and np.allclose(given.astype(np.float64), value, rtol=units, atol=off)
        else:  # with these points are compared, however far away
            fits = np.array_equal(given, value.astype(dtype))
        if not fits:
            raise item.refused(f"{key} must be as the vertices (ax, ay) and the last of them + (dx, dy) have it")
    return layers.PolylinePool(vertices.shape[1]), {"vertices": vertices}


def _frequency_conv(item: Item) -> Made:
    height, width, channels = item.image()
    grid = _plain(item.get("grid"))
    pair("frequency_conv", "grid", grid, 2)
    if height > grid[0] or width > grid[1]:
        raise item.refused(f"grid must be at least the {height}×{width} pixels, got {grid}")
    params = {key: item.array(key, grid[0] * (grid[1] // 2 + 1), channels, None) for key in ("real", "imaginary")}
    excess = 0.0  # each, of norm 1, is taken twice: (1 + a)² (1 + b)² <= exp(2 a + 2 b) where they are off by a and b
    for key, value in zip(("down", "across"), transforms((height, width), grid), strict=True):
        off = float(np.linalg.norm(item.array(key, *value.shape).astype(np.float64) - value))
        if not off <= 1e-6:
            raise item.refused(f"{key} must be the Fourier matrix of {height}×{width} pixels on the grid")
        excess += 2 * off
    return layers.FrequencyConv(params["real"].shape[2], grid, math.expm1(excess) * (1 + 1e-9)), params


_ROUNDED = ("dx", "dy", "ux", "uy", "low", "high")
_SEGMENTS = ("ax", "ay", "dx", "dy", "ux", "uy", "low", "high", "from_y", "to_y", "left_from")
_WINDOW = ("stride", "padding")
KINDS: dict[str, Kind] = {
    "conv": Kind(_conv, ("kernel",), ("bias", "stride", "padding", "padding_mode", "dilation", "groups")),
    "dense": Kind(_dense, ("kernel",), ("bias",)),
    "affine": Kind(_affine, ("scale", "shift")),
    "add": Kind(_add, ("term",)),
    "activation": Kind(_activation, ("name",), ("slope", "alpha", "beta", "channels", "low", "high")),
    "max_min": Kind(_max_min, (), ("pairing",)),
    "householder": Kind(_householder, ("angle",)),
    "householder2": Kind(_householder2, ("angles",)),
    "channel_max": Kind(_channel_max),
    "cone_distance": Kind(_cone, ("angle",)),
    "polyline_distance": Kind(_polyline, _SEGMENTS),
    "frequency_conv": Kind(_frequency_conv, ("grid", "real", "imaginary", "down", "across")),
    "point_distance": Kind(_point, ("point",)),
    "max_pool": Kind(_windows(layers.WindowMax), ("size",), _WINDOW),
    "average_pool": Kind(_windows(layers.AveragePool), ("size",), (*_WINDOW, "count_padding")),
    "global_average_pool": Kind(lambda item: (layers.GlobalAveragePool(), {})),
    "l2_pool": Kind(lambda item: (layers.L2Pool(item.get("size")), {}), ("size",)),
    "global_l2_pool": Kind(lambda item: (layers.GlobalL2Pool(), {})),
    "shift": Kind(_shift, ("count",)),
    "space_to_depth": Kind(_space_to_depth, (), ("block", "order")),
    "flatten": Kind(lambda item: (layers.Flatten(item.get("order", "hwc")), {}), (), ("order",)),
    "unflatten": Kind(lambda item: (layers.Unflatten(_plain(item.get("shape"))), {}), ("shape",)),
    "pad": Kind(
        lambda item: (layers.ZerosAround(_plain(item.get("padding", 0)), _plain(item.get("channels", (0, 0)))), {}),
        (),
        ("padding", "channels"),
    ),
    "slice_channels": Kind(_slice, ("stop",), ("start",)),
    "take_channels": Kind(lambda item: (layers.TakeChannels(_plain(item.get("order"))), {}), ("order",)),
}


def output_shape(item: Item, layer: Layer, own: Variables) -> Shape:
    """Of the output; ValueError, by the place, for an input that the layer does not take."""
    try:
        shape = layer.output_shape(own, item.shape)
    except (ValueError, TypeError) as error:
        raise item.refused(str(error)) from error
    if not math.prod(shape):
        raise item.refused(f"nothing is left of its input {item.shape}")
    return shape
