"""Skew orthogonal convolutions of 2021 (singlasahil14/SOC): LipConvNet, as its state dict names it."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lipjax import ops
from lipjax.interop.claim import by_construction
from lipjax.interop.network import Foreign, Pixels, Row, State, from_channels_first, hwio
from lipjax.interop.potential import indices
from lipjax.layers import Flatten, Householder, Householder2, InputScale, Layer, MaxMin, SpaceToDepth
from lipjax.layers.folded import fold_conv
from lipjax.ops.arithmetic import in_float64

SOURCE = "singlasahil14/SOC at 7aa1f76, skew_ortho_conv.py, lip_convnets.py and utils.py"
MEAN, STD = (0.4914, 0.4822, 0.4465), 0.2507  # for both of its datasets
TERMS = 13  # of the series in evaluation: 1 and 12 powers
_STAGES = 5


def read(state: Mapping[str, np.ndarray], mean: Pixels = MEAN, std: Pixels = STD) -> Foreign:
    """The network of convolutions `soc`: five stages, each halving the resolution before its last convolution.

    Each is Σ_{i <= 12} Aⁱ x / i! of a skew kernel, divided by the least of four numbers ⟨u, K v⟩ with the vectors in
    the file, and times `correction`.  The program takes it as orthogonal, and certifies (f_l − max) / (√2 L) > ε with
    L = 1 / std, also where the last layer has unit rows.

    Raises:
      ValueError: convolutions `bcop` and `cayley`; names that are missing or not understood, other shapes.
    """
    arrays, row = State("soc", state), Row()
    if not arrays.names("layer1.0.conv.random_conv_filter"):
        kinds = {"conv_matrices": "bcop", "weight": "cayley"}
        kind = next((kind for end, kind in kinds.items() if f"layer1.0.conv.{end}" in arrays), None)
        if kind:
            raise ValueError(f"soc: its convolutions are {kind}; only 'soc' is read")
    row.add("input", InputScale(mean, std, parent=None), claimed=by_construction(1 / float(np.max(std))))
    size, channels = _side(arrays), 3
    image_shape = (size, size, channels)
    for stage in range(1, _STAGES + 1):
        blocks = indices(arrays, rf"layer{stage}\.(\d+)\.conv\.bias")
        if not blocks:
            arrays.peek(f"layer{stage}.0.conv.bias")
        for block in blocks:
            name, ours = f"layer{stage}.{block}", f"stage{stage}_conv{block}"
            if block == blocks[-1]:
                row.add(f"stage{stage}_rearrangement", SpaceToDepth(parent=None))
                size, channels = size // 2, channels * 4
            channels = add_conv(row, arrays, f"{name}.conv", ours, (size, size, channels))
            _add_activation(row, arrays, f"{name}.activation", f"{ours}_activation", channels)
    weight, bias = _last(row, arrays, size, channels)
    arrays.finish()
    return row.network(weight, bias, image_shape, formula="root two", strict=True, source=SOURCE)


def _side(arrays: State) -> int:
    """Of the images: 32 for each pixel that is left of the last layer's input."""
    if "last_layer.weight" not in arrays:
        return 32
    left = arrays.sizes("last_layer.weight", 2)[1] / arrays.sizes(f"layer{_STAGES}.0.conv.bias", 1)[0]
    return 32 * max(round(left**0.5), 1)


def add_conv(row: Row, arrays: State, name: str, ours: str, shape: tuple[int, int, int]) -> int:
    """A convolution for images of that shape; the number of channels that come out."""
    features = arrays.sizes(f"{name}.bias", 1)[0]
    channels = max(features, shape[2])
    k = arrays.sizes(f"{name}.random_conv_filter", 4)[3]
    raw = arrays.take(f"{name}.random_conv_filter", channels, channels, k, k)
    skew = 0.5 * (raw - raw.swapaxes(0, 1)[:, :, ::-1, ::-1])
    kernel = skew * (float(arrays.take(f"{name}.correction", 1)[0]) / _four_norm(arrays, name, skew))
    own = {"params": {"kernel": hwio(kernel), "bias": arrays.take(f"{name}.bias", features)}}
    with in_float64():
        own = jax.tree.map(jnp.asarray, own)
        layer, folded = fold_conv(lambda own: own["params"]["kernel"], own, features, k, ops.taylor(TERMS), shape)
        params = {key: np.asarray(leaf) for key, leaf in folded["params"].items()}
    row.add(ours, layer, params)
    return features


def _four_norm(arrays: State, name: str, skew: np.ndarray) -> float:
    """The least of Σ K u v over four pairs of vectors, each of some of the axes (out, in, row, column) of K."""
    out, _, k, _ = skew.shape
    of_u = {1: (1, out, 1, k), 2: (1, out, k, 1), 3: (1, out, k, k), 4: (out, 1, k, k)}
    of_v = {1: (out, 1, k, 1), 2: (out, 1, 1, k), 3: (out, 1, 1, 1), 4: (1, out, 1, 1)}
    sigma = min(
        float(np.sum(skew * arrays.take(f"{name}.u{i}", *of_u[i]) * arrays.take(f"{name}.v{i}", *of_v[i])))
        for i in range(1, 5)
    )
    if not sigma > 0:
        raise ValueError(f"soc: {name!r}: the least of its four norms is {sigma:g}, by which nothing can be divided")
    return sigma


def _add_activation(row: Row, arrays: State, name: str, ours: str, channels: int) -> None:
    """maxmin, hh1 or hh2, by the parameters that there are of any."""
    layer: Layer = MaxMin(parent=None)
    params = None
    if any(entry.endswith(".activation.theta") for entry in arrays.names()):
        layer = Householder(parent=None)
        params = {"angle": arrays.take(f"{name}.theta", 1, channels // 2, 1, 1).ravel()}
    elif any(entry.endswith(".activation.theta0") for entry in arrays.names()):
        layer = Householder2(parent=None)
        params = {f"angle{i}": arrays.take(f"{name}.theta{i}", channels // 2) for i in range(3)}
    row.add(ours, layer, params)


def _last(row: Row, arrays: State, size: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """(weight, bias) of the head: unit rows, or the logits themselves after a convolution 1×1."""
    if "last_layer.weight" in arrays:
        row.add("flatten", Flatten(parent=None))
        weight = arrays.take("last_layer.weight", None, size * size * channels)
        return weight[:, from_channels_first((size, size), channels)], arrays.take("last_layer.bias", len(weight))
    classes = add_conv(row, arrays, "last_layer", "last", (size, size, channels))
    row.add("flatten", Flatten(parent=None))
    return np.eye(classes), np.zeros(classes)
