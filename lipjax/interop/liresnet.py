"""LiResNet (hukkai/liresnet and its forks): GloroNet, as its state dict `backbone` names it."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from lipjax.interop.claim import by_power_iteration, by_svd
from lipjax.interop.network import Foreign, Row, State, from_channels_first, hwio, orthogonalised_rows
from lipjax.layers import Centring, Flatten, InputScale, MaxMin, OrthogonalDense, PatchConv, ResidualConv, StridedConv
from lipjax.ops.arithmetic import in_float64
from lipjax.ops.general_conv import patches, strided_kernel

STEPS = 500  # power iterations at certification
SOURCE = "hukkai/liresnet at 57cd248, models/model.py, models/blocks.py, train.py"


def read(state: Mapping[str, np.ndarray], act_name: str = "MinMax", use_lln: bool = True) -> Foreign:
    """The network of a state dict: stem, trunk, neck and dense layers of MinMax, and a last layer of unit rows.

    Its bound is a product of power iterations of 500 steps in float32, from the vectors in the file, for stem and
    trunk, and of float32 singular values for the others; it certifies where f_l >= f_j + ε L ‖w_l − w_j‖ for all j, so
    that ties count.

    Raises:
      ValueError: names that are missing or not understood, other shapes, an activation or last layer of another kind.
    """
    arrays, row = State("liresnet", state), Row()
    check_settings("liresnet", act_name, use_lln)
    size, image_shape = add_stem(row, arrays)
    add_trunk(row, arrays, "conv", size)
    width = arrays.sizes("conv.weights", 5)[1]
    add_neck(row, arrays, width, size)
    add_dense(row, arrays, arrays.sizes("neck.bias", 1)[0])
    return finished(row, arrays, image_shape, SOURCE)


def check_settings(program: str, act_name: str, use_lln: bool) -> None:
    """ValueError for what the configuration in the file says and is not read."""
    if act_name.lower() != "minmax":
        raise ValueError(f"{program}: act_name={act_name!r}: only networks of MinMax are read")
    if not use_lln:
        raise ValueError(f"{program}: use_lln=False: only networks with a last layer of unit rows are read")


def add_stem(row: Row, arrays: State) -> tuple[tuple[int, int], tuple[int, int, int]]:
    """x − ½, the stem and its activation; (size of what comes out, shape of the images)."""
    width, channels, side, _ = arrays.sizes("stem.0.weight", 4)
    kernel = hwio(arrays.take("stem.0.weight", width, channels, side, side))
    start = arrays.take("stem.0.init_x", 1, channels, None, None)[0].transpose(1, 2, 0)
    height = start.shape[0]
    trunk = next((name for name in ("conv_1.init_x", "conv.init_x") if name in arrays), None)
    # Kernels of one patch have the stride of their side; others that which the trunk behind them says, or 2.
    is_patch = side > 7
    stride = side if is_patch else 2 if trunk is None else max(height // arrays.sizes(trunk, 4)[2], 1)
    out = (-(-height // stride), -(-start.shape[1] // stride))
    with in_float64():
        rearranged, image = (
            np.asarray(strided_kernel(jnp.asarray(kernel), stride)),
            np.asarray(patches(jnp.asarray(start[None]), stride))[0],
        )
    row.add("input", InputScale(0.5, parent=None))
    claimed = by_power_iteration(rearranged, image, STEPS)
    params = {"kernel": kernel, "bias": arrays.take("stem.0.bias", width)}
    row.add("stem", StridedConv(width, side, stride, parent=None), params, claimed=claimed)
    row.add("stem_activation", MaxMin(parent=None))
    return out, (height, start.shape[1], channels)


def add_trunk(row: Row, arrays: State, prefix: str, size: tuple[int, int]) -> None:
    """Layers I + W γ / √depth of LiResConv, each with centring and activation."""
    depth, width = arrays.sizes(f"{prefix}.weights", 5)[:2]
    kernels = arrays.take(f"{prefix}.weights", depth, width, width, 3, 3)
    gain = arrays.take(f"{prefix}.gamma", depth, width, 1, 1, 1)[:, :, 0, 0, 0]
    bias, mean = (arrays.take(f"{prefix}.{name}", depth, width) for name in ("bias", "running_mean"))
    starts = arrays.take(f"{prefix}.init_x", 1, depth * width, *size).reshape(depth, width, *size)
    check_identity(arrays, f"{prefix}.identity", (depth, width, width), is_kernel=True)
    for index in range(depth):
        layer, name = ResidualConv(depth, 3, use_bias=False, parent=None), f"{prefix.replace('conv', 'trunk')}{index}"
        params = {"kernel": hwio(kernels[index]), "gain": gain[index]}
        with in_float64():
            whole = np.asarray(layer.whole_kernel(params))
        claimed = by_power_iteration(whole, starts[index].transpose(1, 2, 0), STEPS)
        row.add(name, layer, params, claimed=claimed)
        row.add(f"{name}_centring", Centring(parent=None), {"bias": bias[index]}, {"mean": mean[index]})
        row.add(f"{name}_activation", MaxMin(parent=None))


def check_identity(arrays: State, name: str, shape: tuple[int, ...], is_kernel: bool = False) -> None:
    """ValueError unless the buffer is the identity that readers take it for: (…, n, m), or a kernel (…, n, m, 3, 3)."""
    array = arrays.take(name, *shape, *((3, 3) if is_kernel else ()))
    eye = np.zeros(array.shape)
    (eye[..., 1, 1] if is_kernel else eye)[...] = np.eye(shape[-2], shape[-1])
    if not np.array_equal(array, eye):
        raise ValueError(f"{arrays.program}: {name!r} must be the identity")


def add_neck(row: Row, arrays: State, width: int, size: tuple[int, int]) -> None:
    """Patches of 4×4 pixels and a dense layer, both with orthogonalised rows; the activation after both."""
    kernel = arrays.take("neck.kernel", width, width * 16)
    rows = orthogonalised_rows(kernel).reshape(width, width, 4, 4)
    matrix = rows.transpose(2, 3, 1, 0).reshape(-1, width)
    layer = PatchConv(width, 4, parent=None)
    row.add("neck", layer, {"bias": np.zeros(width)}, {"matrix": matrix}, by_svd(matrix))
    row.add("flatten", Flatten(parent=None))
    add_map(row, arrays, orthogonalised_rows, width, (size[0] // 4, size[1] // 4))


def add_map(row: Row, arrays: State, orthogonalised, width: int, size: tuple[int, int]) -> None:
    """The dense layer of the neck, of features in the order (c, row, column)."""
    out = arrays.sizes("neck.bias", 1)[0]
    weight = orthogonalised(arrays.take("neck.weight", out, width * size[0] * size[1]))
    matrix = weight.T[from_channels_first(size, width)]
    params = {"bias": arrays.take("neck.bias", out)}
    row.add("dense0", OrthogonalDense(out, parent=None), params, {"matrix": matrix}, by_svd(matrix))
    row.add("dense0_activation", MaxMin(parent=None))


def add_dense(row: Row, arrays: State, width: int) -> None:
    """Dense layers I + W γ / √depth with orthogonalised rows; what is in `eval_weight` is computed anew from them."""
    depth = arrays.sizes("linear.weights", 3)[0]
    weights = arrays.take("linear.weights", depth, width, width)
    gain, bias = arrays.take("linear.gamma", depth, width, 1), arrays.take("linear.bias", depth, width)
    check_identity(arrays, "linear.identity", (width, width))
    arrays.take("linear.eval_weight", depth, width, width)
    for index in range(depth):
        matrix = orthogonalised_rows(np.eye(width) + weights[index] * gain[index] * depth**-0.5).T
        layer, name = OrthogonalDense(width, parent=None), f"dense{index + 1}"
        row.add(name, layer, {"bias": bias[index]}, {"matrix": matrix}, by_svd(matrix))
        row.add(f"{name}_activation", MaxMin(parent=None))


def finished(row: Row, arrays: State, image_shape: tuple[int, int, int], source: str) -> Foreign:
    """With the last layer, once nothing is left."""
    width = row.variables["params"][row.layers[-2][0]]["bias"].shape[0]
    weight = arrays.take("head.weight", None, width)
    bias = arrays.take("head.bias", len(weight))
    arrays.finish()
    return row.network(weight, bias, image_shape, formula="rows", strict=False, source=source)
