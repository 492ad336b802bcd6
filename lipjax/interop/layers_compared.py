"""The benchmark of 1-Lipschitz layers (berndprach/1LipschitzLayersCompared): its networks, of any convolution."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lipjax.interop import compared_convs as convs
from lipjax.interop import soc
from lipjax.interop.cpl import power_iteration
from lipjax.interop.network import Foreign, Pixels, Row, State, hwio, mean_of
from lipjax.interop.potential import add_step, indices
from lipjax.interop.sll import autocorrelation
from lipjax.layers import CayleyConv, FirstChannels, Flatten, InputScale, MaxMin, PlainConv, SpaceToDepth, ZerosAround

NAME = "1LipschitzLayersCompared"
SOURCE = "berndprach/1LipschitzLayersCompared at 27ef0b9 (models/) and e2eec63 (lipnn/)"
EPSILON = 1e-6

Shape = tuple[int, int, int]
Adder = Callable[[Row, State, str, str, Shape], None]


def read(
    state: Mapping[str, np.ndarray],
    mean: Pixels | None = None,
    num_classes: int = 10,
    image_shape: Sequence[int] | None = None,
) -> Foreign:
    """ConvNet: a convolution, blocks of convolutions that halve the resolution, a last convolution; first channels.

    Convolutions AOLConv2d and BCOP wrap around the image, CayleyConv is circular, LOT is circular on an image with a
    pixel of zeros around, which is cut off again; SOC, CPLConv2d and SLLConv2d have zeros around.  Each is told by its
    names.  The activation takes neighbouring channels.  The program takes each layer as 1-Lipschitz, and certifies
    where (f_l − max) / √2 > ε.
    """
    arrays, row = State(NAME, state), Row()
    blocks = indices(arrays, r"Block(\d+)\.0\..*")
    if not blocks:
        raise ValueError(f"{NAME}: no 'Block1.0.…' among the names; not a network of this program")
    side = 2 ** len(blocks)
    shape: Shape = tuple(image_shape or (side, side, 3))  # type: ignore[assignment]
    if shape[:2] != (side, side):
        raise ValueError(f"{NAME}: image_shape={shape}: its {len(blocks)} blocks are for images of {side}×{side}")
    width = _width(arrays)
    row.add("input", InputScale(mean_of(NAME, mean, num_classes), parent=None))
    row.add("channels", ZerosAround(channels=(0, width - shape[2]), parent=None))
    here: Shape = (side, side, width)
    _add(row, arrays, "FirstConv", "first", here)
    row.add("first_activation", MaxMin(neighbours=True, parent=None))
    for block in blocks:
        for number, index in enumerate(indices(arrays, rf"Block{block}\.(\d+)\..*")):
            ours = f"block{block}_conv{number}"
            _add(row, arrays, f"Block{block}.{index}", ours, here)
            row.add(f"{ours}_activation", MaxMin(neighbours=True, parent=None))
        row.add(f"block{block}_first", FirstChannels(here[2] // 2, parent=None))
        row.add(f"block{block}_rearrangement", SpaceToDepth(parent=None))
        here = (here[0] // 2, here[1] // 2, here[2] * 2)
    if arrays.names("ClassificationHead.1."):
        _add_linear(row, arrays, "ClassificationHead.1", "last", here[2])
    else:
        _add(row, arrays, "ClassificationHead.0", "last", here)
    row.add("flatten", Flatten(parent=None))
    arrays.finish()
    if num_classes > here[2]:
        raise ValueError(f"{NAME}: num_classes={num_classes}: there are {here[2]} outputs")
    rows = np.eye(num_classes, here[2])
    return row.network(rows, np.zeros(num_classes), shape, formula="root two", strict=True, source=SOURCE)


def _width(arrays: State) -> int:
    """Channels of the first convolution, which all kinds have a bias of."""
    return arrays.sizes("FirstConv.bias", 1)[0]


def _add(row: Row, arrays: State, name: str, ours: str, shape: Shape) -> None:
    """A convolution of the kind that its names say, for images of that shape, of as many channels as there are."""
    add, first = _kind(arrays, name), _kind(arrays, "FirstConv")
    if add is None or add is not first:
        held = ", ".join(n.removeprefix(f"{name}.") for n in arrays.names(f"{name}.")) or "nothing"
        but = "the first one is of another kind" if add else "no convolution that is read here has these"
        raise ValueError(f"{NAME}: {name!r} has {held}; {but}")
    add(row, arrays, name, ours, shape)


def _kind(arrays: State, name: str) -> Adder | None:
    return next((add for end, add in _KINDS.items() if f"{name}.{end}" in arrays), None)


def _plain(row: Row, arrays: State, name: str, ours: str, kernel: np.ndarray, mode: str) -> None:
    """A convolution with a kernel OIHW, and the bias."""
    out, _, k, _ = kernel.shape
    layer = PlainConv(out, k, padding=k // 2, padding_mode=mode, parent=None)
    row.add(ours, layer, {"kernel": hwio(kernel), "bias": arrays.take(f"{name}.bias", out)})


def _square(arrays: State, name: str, channels: int) -> np.ndarray:
    """A kernel (C, C, k, k)."""
    k = arrays.sizes(name, 4)[3]
    return arrays.take(name, channels, channels, k, k)


def _aol(row, arrays, name, ours, shape) -> None:
    raw = _square(arrays, f"{name}.parametrizations.weight.original", shape[2])
    scale = (autocorrelation(raw.swapaxes(0, 1)).sum(axis=1) + EPSILON) ** -0.5
    _plain(row, arrays, name, ours, raw * scale[:, None, None], "circular")


def _bcop(row, arrays, name, ours, shape) -> None:
    count = arrays.sizes(f"{name}.param_matrices", 3)[0]
    matrices = arrays.take(f"{name}.param_matrices", count, shape[2], shape[2])
    mask = arrays.take(f"{name}.mask", count - 1, 1, shape[2])
    _plain(row, arrays, name, ours, convs.bcop_kernel(matrices, mask), "circular")


def _cayley(row, arrays, name, ours, shape) -> None:
    raw = _square(arrays, f"{name}.weight", shape[2])
    alpha = float(arrays.take(f"{name}.alpha"))
    half = np.fft.rfft2(raw, shape[:2])
    kernel = raw * (alpha / np.linalg.norm(half))
    params = {"kernel": hwio(kernel), "bias": arrays.take(f"{name}.bias", shape[2])}
    row.add(ours, CayleyConv(shape[2], raw.shape[3], parent=None), params)


def _lot(row, arrays, name, ours, shape) -> None:
    raw = _square(arrays, f"{name}.weight", shape[2])
    _plain(row, arrays, name, ours, convs.lot_kernel(raw, shape[0]), "zeros")


def _cpl(row, arrays, name, ours, shape) -> None:
    kernel = hwio(_square(arrays, f"{name}.kernel", shape[2]))
    start = arrays.take(f"{name}.u", 1, shape[2], *shape[:2])[0].transpose(1, 2, 0)
    sigma = power_iteration(kernel, start, 100)
    norm = math.sqrt(sigma * sigma + EPSILON)
    add_step(row, ours, kernel, arrays.take(f"{name}.bias", shape[2]), shape[2], norm)


def _sll(row, arrays, name, ours, shape) -> None:
    kernel = _square(arrays, f"{name}.kernel", shape[2])
    q = np.abs(arrays.take(f"{name}.q", shape[2])) + EPSILON
    root = ((autocorrelation(kernel) * q).sum(axis=1) / q + EPSILON) ** -0.5
    bias = arrays.take(f"{name}.bias", shape[2]) * root
    add_step(row, ours, hwio(kernel * root[:, None, None, None]), bias, shape[2])


def _soc(row, arrays, name, ours, shape) -> None:
    soc.add_conv(row, arrays, name, ours, shape)


def _refused(kind: str, why: str) -> Adder:
    def refuse(row, arrays, name, ours, shape):
        raise ValueError(f"{NAME}: {name!r}: is a {kind}, which is not read: {why}")

    return refuse


# By a name that no other kind has, the first that fits.
_KINDS: dict[str, Adder] = {
    "parametrizations.weight.original": _aol,
    "param_matrices": _bcop,
    "us": _refused("ECO", "the program computes it in half precision"),
    "random_conv_filter": _soc,
    "psi": _refused("SandwichConv", "no layer of ours has its theorem"),
    "alpha": _cayley,
    "u": _cpl,
    "q": _sll,
    "weight": _lot,
}


def _add_linear(row: Row, arrays: State, name: str, ours: str, channels: int) -> None:
    """CayleyLinear, or BnBLinearBCOP: Björck's iteration, 20 times, without any scale."""
    if f"{name}.psi" in arrays:
        raise ValueError(f"{NAME}: {name!r}: is a SandwichFc, which is not read")
    raw, bias = arrays.take(f"{name}.weight", channels, channels), arrays.take(f"{name}.bias", channels)
    if _kind(arrays, "FirstConv") is _cayley:
        kernel = raw * (float(arrays.take(f"{name}.alpha", 1)[0]) / np.linalg.norm(raw))
        row.add(ours, CayleyConv(channels, 1, parent=None), {"kernel": kernel.T[None, None], "bias": bias})
    else:
        kernel = convs.bjorck(raw).T[None, None]
        row.add(ours, PlainConv(channels, 1, parent=None), {"kernel": kernel, "bias": bias})
