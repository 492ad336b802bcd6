"""Plain descriptions of networks, lists of dicts, as layers that state their proof; and their files (docs/plain.md)."""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lipjax import layers
from lipjax.layers import Layer
from lipjax.layers.layer import Shape
from lipjax.models.network import Network
from lipjax.models.plain_kinds import KINDS, Item, output_shape
from lipjax.system.files import atomic_write

FORMAT = "lipjax plain network 1"
Description = Sequence[Mapping[str, Any]]

_BRANCHED = {"sum": ("branches",), "concatenate": ("branches",), "split": ("branches", "channels")}


def read(description: Description, image_shape: Sequence[int]) -> tuple[layers.Sequential, dict[str, Any]]:
    """(a `Sequential` of layers named by their places, its variables) of a plain description.

    An 'affine' that follows a 'conv' or a 'dense' becomes the scale and shift of that layer, whose bound is that of the
    two together.

    Args:
      description: see docs/plain.md.
      image_shape: (H, W, C) of the input, or (D,).

    Raises:
      ValueError: an unknown kind, a key that is missing or unknown, a value or an array that does not fit, each by its
        place, such as 3/branches/1/0; nothing is read by halves.
    """
    shape = tuple(int(n) for n in image_shape)
    if len(shape) not in (1, 3) or min(shape) < 1:
        raise ValueError(f"image_shape must be (H, W, C) or (D,), got {tuple(image_shape)}")
    layer, params, _ = _row(description, "", shape)
    return layer, {"params": params}


def network(description: Description, image_shape: Sequence[int]) -> tuple[Network, dict[str, Any]]:
    """(model, variables) whose head is the last layer, a 'dense', as `LinearHead`; certified like any other network.

    Raises:
      ValueError: a description that does not end in a 'dense'; else see `read`.
    """
    items = list(description)
    if not items or not isinstance(items[-1], Mapping) or items[-1].get("kind") != "dense":
        last = items[-1].get("kind") if items and isinstance(items[-1], Mapping) else None
        raise ValueError(f"the last layer must be of kind 'dense', which becomes the head, got {last!r}")
    read(items, image_shape)  # the head is checked with all others
    backbone, variables = read(items[:-1], image_shape)
    weight = np.asarray(items[-1]["kernel"]).T
    bias = items[-1].get("bias")
    bias = np.zeros(len(weight), weight.dtype) if bias is None else np.asarray(bias)
    head = layers.LinearHead(len(weight))
    shape: Any = tuple(image_shape)
    model = Network(backbone, head, shape)
    return model, {"params": {**variables["params"], "head": {"weight": weight, "bias": bias}}}


def _row(items: Any, at: str, shape: Shape) -> tuple[layers.Sequential, dict[str, Any], Shape]:
    """(layers one after the other, params, shape of the output) of a list."""
    if not isinstance(items, Sequence) or isinstance(items, str | bytes):
        where = f"layer {at.rstrip('/')}: a branch" if at else "a plain description"
        raise ValueError(f"{where} must be a list of dicts, got {type(items).__name__}")
    named: list[tuple[str, Layer]] = []
    params: dict[str, Any] = {}
    for place, values in enumerate(items):
        name = str(place)
        layer, own, item = _read(values, f"{at}{place}", shape)
        shape = output_shape(item, layer, {"params": own})
        if isinstance(layer, layers.Affine) and named and _takes_scale(named[-1][1]):
            before, unscaled = named[-1]
            named[-1] = before, unscaled.clone(scaled=True)
            params[before] = {**params[before], **own}
            continue
        named.append((name, layer))
        if own:
            params[name] = own
    return layers.Sequential(tuple(named)), params, shape


def _takes_scale(layer: Layer) -> bool:
    return isinstance(layer, layers.PlainConv | layers.PlainDense) and not layer.scaled


def _read(values: Any, at: str, shape: Shape) -> tuple[Layer, dict[str, Any], Item]:
    """(layer, params, item) of one dict."""
    if not isinstance(values, Mapping):
        raise ValueError(f"layer {at}: must be a dict with a 'kind', got {type(values).__name__}")
    name = values.get("kind")
    if name not in KINDS and name not in _BRANCHED:
        raise ValueError(f"layer {at}: kind must be one of {', '.join((*KINDS, *_BRANCHED))}, got {name!r}")
    item = Item(at, values, shape)
    required, optional = (_BRANCHED[name], ()) if name in _BRANCHED else KINDS[name][1:]
    for key in required:
        if key not in values:
            raise item.refused(f"{key} is missing")
    extra = [key for key in values if key not in ("kind", *required, *optional)]
    if extra:
        allowed = ", ".join((*required, *optional)) or "none"
        raise item.refused(f"{extra[0]!r} is no key of it; allowed: {allowed}")
    try:
        return (*(_branched(item) if name in _BRANCHED else KINDS[name].make(item)), item)
    except (ValueError, TypeError) as error:
        if str(error).startswith("layer "):
            raise
        raise item.refused(str(error)) from error


def _branched(item: Item) -> tuple[Layer, dict[str, Any]]:
    """(layer, params) of what has branches."""
    kind, branches, channels = item.get("kind"), item.get("branches"), item.get("channels")
    if not isinstance(branches, Sequence) or not len(branches):
        raise item.refused("branches must be a list of lists of layers")
    shapes = [item.shape] * len(branches)
    if kind == "split":
        counts = [int(n) for n in channels]
        if len(counts) != len(branches) or sum(counts) != item.shape[-1] or min(counts) < 1:
            raise item.refused(f"channels must be {len(branches)} numbers of sum {item.shape[-1]}, got {channels!r}")
        shapes = [(*item.shape[:-1], count) for count in counts]
    named, params, found = [], {}, []
    for place, (branch, shape) in enumerate(zip(branches, shapes, strict=True)):
        layer, own, output = _row(branch, f"{item.at}/branches/{place}/", shape)
        named.append((str(place), layer))
        found.append(output)
        if own:
            params[str(place)] = own
    if kind == "sum" and len(set(found)) > 1:
        raise item.refused(f"the branches of a sum must give one shape, got {found}")
    if kind == "sum":
        return layers.Sum(tuple(named)), params
    if kind == "split":
        return layers.Split(tuple(named), tuple(counts)), params
    return layers.Concatenate(tuple(named)), params


def save(path: str | Path, description: Description, image_shape: Sequence[int]) -> None:
    """Write a plain network: arrays under their places, and 'description', JSON with the places instead of arrays."""
    read(description, image_shape)
    arrays: dict[str, np.ndarray] = {}

    def named(value: Any, at: str) -> Any:
        if isinstance(value, Mapping):
            return {key: named(entry, f"{at}/{key}") for key, entry in value.items()}
        if isinstance(value, np.ndarray):
            arrays[at] = value
            return at
        if isinstance(value, tuple | list):
            return [named(entry, f"{at}/{place}") for place, entry in enumerate(value)]
        return value.item() if isinstance(value, np.generic) else value

    listed = [named(item, str(place)) for place, item in enumerate(description)]
    about = {"format": FORMAT, "image_shape": [int(n) for n in image_shape], "layers": listed}
    file = io.BytesIO()
    np.savez(file, description=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
    atomic_write(Path(path), file.getvalue())


def load(path: str | Path) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
    """(description, image_shape) of a file that `save` or `lipjax.export` wrote.

    Raises:
      ValueError: no such file, an array that is missing or of which nothing is said, another format.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: must be an .npz file of a plain network ({error})") from error
    try:
        about, names = json.loads(str(arrays["description"])), set(arrays)
        found, shape, listed = about["format"], tuple(about["image_shape"]), about["layers"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: 'description' must say format, image_shape and layers ({error!r})") from error
    if found != FORMAT:
        raise ValueError(f"{path}: format must be {FORMAT!r}, got {found!r}")
    del arrays["description"]
    arrays.pop("metadata", None)
    used = set()

    def filled(value: Any, at: str) -> Any:
        if isinstance(value, dict):
            return {key: filled(entry, f"{at}/{key}") for key, entry in value.items()}
        if isinstance(value, list):
            return [filled(entry, f"{at}/{place}") for place, entry in enumerate(value)]
        if value != at:
            if isinstance(value, str) and value in names:  # a reader may take it for the array
                raise ValueError(f"{path}: {at} names the array {value}, which belongs elsewhere")
            return value
        if at not in arrays:
            raise ValueError(f"{path}: the array {at} is missing")
        used.add(at)
        return arrays[at]

    description = [filled(item, str(place)) for place, item in enumerate(listed)]
    unused = sorted(set(arrays) - used)
    if unused:
        raise ValueError(f"{path}: the array {unused[0]} belongs to no layer")
    return description, shape
