"""Almost orthogonal layers (berndprach/AOL, TensorFlow): its models by the names of their weights."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from lipjax.interop.network import Foreign, Row, State, from_channels_first
from lipjax.interop.sll import autocorrelation
from lipjax.layers import FirstChannels, Flatten, InputScale, MaxMin, OrthogonalDense, Patches, StridedConv

SOURCE = "berndprach/AOL at 9881e70, src/aol_code/layers, models and metrics"
EPSILON = 1e-6
_NAME = re.compile(r"(?:.*/)?aol_(conv2d|dense)(?:_(\d+))?/(kernel|bias)_parameters(?::0)?")


def read(state: Mapping[str, np.ndarray], num_classes: int = 10, image_shape: Sequence[int] = (32, 32, 3)) -> Foreign:
    """A network of AOLConv2D and AOLDense, K[i, ·] (Σ_j |K Kᵀ|_ij + 1e-6)^(−½); its last outputs are the logits.

    Its models patchwise (Small, Medium, Large), convolutional, standard_convolutional and fully connected are told
    apart by the shapes: where a convolution takes more channels than there are, patches of pixels become channels;
    where it takes fewer, the first ones are kept; these, the last layer, and in the standard model convolutions of
    patches have no activation.  Pixels are in [0, 1].  The program takes each layer as 1-Lipschitz, by its theorem, and
    certifies where f_l − √2 ε is the first of the largest scores.
    """
    arrays, row = State("aol", _renamed(state)), Row()
    layers = sorted({name.rpartition(".")[0] for name in arrays.names()}, key=_number)
    height, image_width, channels = image_shape
    size, shape = (height, image_width), (height, image_width, channels)
    is_standard = f"conv0.{_KERNEL}" in arrays and arrays.sizes(f"conv0.{_KERNEL}", 4)[2] == channels
    reduction = None if is_standard else _reduction(arrays, layers, channels)
    row.add("input", InputScale(parent=None))
    for number, name in enumerate(layers):
        following = layers[number + 1] if number + 1 < len(layers) else None
        if name.startswith("conv"):
            is_bare = number == reduction or (is_standard and arrays.sizes(f"{name}.{_KERNEL}", 4)[2] > channels)
            size, channels = _add_conv(row, arrays, name, size, channels, following, is_bare)
            if number == reduction:
                row.add(f"{name}_reduced", FirstChannels(channels // 4, parent=None))
                channels //= 4
            continue
        if size != (1, 1) or number == 0 or not layers[number - 1].startswith("dense"):
            row.add("flatten", Flatten(parent=None))
            size, channels = (1, 1), channels * size[0] * size[1]
        channels = _add_dense(row, arrays, name, channels)
        if following:
            row.add(f"{name}_activation", MaxMin(neighbours=True, parent=None))
    if layers[-1].startswith("conv"):
        row.add("flatten", Flatten(parent=None))
    arrays.finish()
    if size != (1, 1) or num_classes > channels:
        left = f"{channels} outputs on {size[0]}×{size[1]} pixels are left"
        raise ValueError(f"aol: num_classes={num_classes}, image_shape={shape}: {left}")
    rows, bias = np.eye(num_classes, channels), np.zeros(num_classes)
    return row.network(rows, bias, shape, formula="root two", strict=False, source=SOURCE)


def _number(name: str) -> tuple[str, int]:
    kind = name.rstrip("0123456789")
    return kind, int(name.removeprefix(kind))


_KERNEL, _BIAS = "kernel_parameters", "bias_parameters"


def _renamed(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As conv0.kernel_parameters, …, dense0.bias_parameters, in the order in which Keras numbers them."""
    matches = {name: match for name in state if (match := _NAME.fullmatch(name))}
    strange = [name for name in state if name not in matches]
    if strange or not matches:
        about = f"not understood: {strange[0]!r}" if strange else "there are none"
        raise ValueError(f"aol: {about}; names must be as 'aol_conv2d_1/kernel_parameters:0' and 'aol_dense/…'")
    numbers = {kind: sorted({int(m[2] or 0) for m in matches.values() if m[1] == kind}) for kind in ("conv2d", "dense")}
    renamed = {}
    for name, match in matches.items():
        kind, number = match[1], numbers[match[1]].index(int(match[2] or 0))
        renamed[f"{'conv' if kind == 'conv2d' else 'dense'}{number}.{match[3]}_parameters"] = state[name]
    return renamed


def _add_conv(
    row: Row, arrays: State, name: str, size: tuple[int, int], channels: int, following: str | None, is_bare: bool
) -> tuple[tuple[int, int], int]:
    """A convolution, after patches or the first channels where it takes others; (size, channels) of what comes out."""
    k, _, taken, features = arrays.sizes(f"{name}.{_KERNEL}", 4)
    if k % 2 == 0:  # where TensorFlow begins is not where we do
        raise ValueError(f"aol: {name} has a kernel of {k}×{k}; only odd sides are read")
    patch = round((taken / channels) ** 0.5)
    if taken < channels:
        row.add(f"{name}_first", FirstChannels(taken, parent=None))
    elif taken > channels:
        if patch * patch * channels != taken or size[0] % patch or size[1] % patch:
            raise ValueError(f"aol: {name} takes {taken} channels, and there are {channels} on {size} pixels")
        row.add(f"{name}_patches", Patches(patch, parent=None))
        size = (size[0] // patch, size[1] // patch)
    raw = arrays.take(f"{name}.{_KERNEL}", k, k, taken, features)
    scale = (autocorrelation(raw.transpose(2, 3, 0, 1)).sum(axis=1) + EPSILON) ** -0.5
    kernel = raw * scale[:, None]
    if taken > channels:  # patches are (row, column, c) there, (c, row, column) here
        kernel = kernel[:, :, np.argsort(from_channels_first((patch, patch), channels))]
    params = {"kernel": kernel, "bias": arrays.take(f"{name}.{_BIAS}", features)}
    row.add(name, StridedConv(features, k, 1, parent=None), params)
    kept = _kept(arrays, following, size, features)
    if kept == features and following is not None and not is_bare:
        row.add(f"{name}_activation", MaxMin(neighbours=True, parent=None))
    if kept < features and following is not None and following.startswith("dense"):
        row.add(f"{name}_reduced", FirstChannels(kept, parent=None))
    return size, kept if following is not None and following.startswith("dense") else features


def _reduction(arrays: State, layers: list[str], channels: int) -> int | None:
    """The number of the convolution of the convolutional model after which a quarter of the channels is kept.

    It has blocks of as many convolutions, each after patches that become channels, the last after that reduction, which
    no shape shows, and two convolutions that belong to none.
    """
    if not all(name.startswith("conv") for name in layers):
        return None
    shapes = [arrays.sizes(f"{name}.{_KERNEL}", 4) for name in layers]
    before = [channels, *(shape[3] for shape in shapes)]
    blocks = 1 + sum(shape[2] > there for shape, there in zip(shapes, before, strict=False))
    length, rest = divmod(len(layers) - 2, blocks)
    return None if rest or not length else (blocks - 1) * length


def _kept(arrays: State, following: str | None, size: tuple[int, int], features: int) -> int:
    """How many of the channels the next layer takes, pixel by pixel."""
    if following is None:
        return features
    if following.startswith("conv"):
        return min(arrays.sizes(f"{following}.{_KERNEL}", 4)[2], features)
    return min(arrays.sizes(f"{following}.{_KERNEL}", 2)[0] // (size[0] * size[1]), features)


def _add_dense(row: Row, arrays: State, name: str, channels: int) -> int:
    """x K with rows of the kernel scaled."""
    raw = arrays.take(f"{name}.{_KERNEL}", channels, None)
    matrix = raw * ((np.abs(raw @ raw.T).sum(axis=1) + EPSILON) ** -0.5)[:, None]
    params = {"bias": arrays.take(f"{name}.{_BIAS}", matrix.shape[1])}
    row.add(name, OrthogonalDense(matrix.shape[1], parent=None), params, {"matrix": matrix})
    return matrix.shape[1]
