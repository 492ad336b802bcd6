"""BRONet (ntuaislab/BRONet): the networks of its folder `bronet`, as their state dict `backbone` names them."""

from collections.abc import Mapping

import numpy as np

from lipjax.interop import liresnet
from lipjax.interop.claim import by_svd
from lipjax.interop.network import Foreign, Row, State, hwio, orthogonalised_rows
from lipjax.layers import BlockReflectorConv, Centring, Flatten, L2Pool, MaxMin, OrthogonalDense, PatchConv, ZeroPad

SOURCE = "ntuaislab/BRONet at 9b07077, bronet/models and bronet/test.py"


def read(
    state: Mapping[str, np.ndarray],
    act_name: str = "MinMax",
    use_lln: bool = True,
    backbone_type: str | None = None,
    backbone_zero_padding: bool = True,
    backbone_quasi_residual: bool = True,
    neck_conv_type: str | None = None,
    neck_conv_patch_size: int = 4,
    neck_conv_patch_size_2: int = 0,
    neck_linear_type: str | None = None,
) -> Foreign:
    """The network of a state dict: a stem, a trunk of block reflectors, a neck, dense layers, unit rows.

    Of the first kind, whose images keep their size, or the second ('v2': the border stays), with free layers before it
    ('hybrid') or none; necks and dense layers 'cholesky' or 'bro', necks 'l2' too.  Its bound is that of LiResNet,
    with 1 for reflectors by construction.

    Raises:
      ValueError: as `liresnet.read`; backbones 'soc', 'sll', 'lot', 'cholesky' and 'cayley'.
    """
    arrays, row = State("bronet", state), Row()
    liresnet.check_settings("bronet", act_name, use_lln)
    kind = (backbone_type or "bro").lower().replace("hybrid", "").replace("v2", "")
    if kind != "bro" or "conv.I_low" not in arrays:
        raise ValueError(f"bronet: backbone_type={kind!r}: only trunks of block reflectors, 'bro', are read")
    size, image_shape = liresnet.add_stem(row, arrays)
    if "conv_1.weights" in arrays:
        liresnet.add_trunk(row, arrays, "conv_1", size)
    keeps_border = _keeps_border(arrays, backbone_type, neck_conv_patch_size, size)
    size = _add_reflectors(row, arrays, size, keeps_border, backbone_zero_padding, backbone_quasi_residual)
    width = arrays.sizes("conv.bias", 2)[1]
    size = _add_patches(
        row, arrays, width, size, (neck_conv_patch_size, neck_conv_patch_size_2), (neck_conv_type or "").lower()
    )
    _add_map(row, arrays, width, size, (neck_linear_type or "").lower())
    out = arrays.sizes("neck.bias", 1)[0]
    if "linear.residual_identity" in arrays:
        _add_dense(row, arrays, out)
    elif "linear.weights" in arrays:
        liresnet.add_dense(row, arrays, out)
    return liresnet.finished(row, arrays, image_shape, SOURCE)


def _add_reflectors(
    row: Row, arrays: State, size: tuple[int, int], keeps_border: bool, pads: bool, is_residual: bool
) -> tuple[int, int]:
    """I − 2 V (V*V + ε)⁻¹ V* at each frequency of a grid, V = I + W γ / √depth; the size of what comes out.

    The first kind takes the transform of V without conjugation, a convolution with the kernel turned around; the second
    conjugates it, pads the image by one pixel and keeps what comes there.
    """
    depth, width, rank = arrays.sizes("conv.weights", 5)[:3]
    weights = arrays.take("conv.weights", depth, width, rank, 3, 3) * arrays.take("conv.gamma", depth, width, 1, 1, 1)
    bias, mean = (arrays.take(f"conv.{name}", depth, width) for name in ("bias", "running_mean"))
    liresnet.check_identity(arrays, "conv.identity", (width, rank), is_kernel=True)
    liresnet.check_identity(arrays, "conv.I_low", (1, 1, 1, rank, rank))
    liresnet.check_identity(arrays, "conv.I_full", (1, 1, 1, width, width))
    if is_residual:
        weights = weights * depth**-0.5
        weights[:, range(rank), range(rank), 1, 1] += 1
    kernels = weights if keeps_border else weights[..., ::-1, ::-1]
    for index in range(depth):
        name = f"reflector{index}"
        if keeps_border and pads:
            size = (size[0] + 2, size[1] + 2)
            row.add(f"{name}_border", ZeroPad(*size, parent=None))
        own = {"rank": rank, "ridge": 1e-7, "use_bias": False, "circular": keeps_border or not pads}
        layer = BlockReflectorConv(width, 3, **own, parent=None)  # type: ignore[arg-type]
        row.add(name, layer, {"kernel": hwio(kernels[index].swapaxes(0, 1))})
        row.add(f"{name}_centring", Centring(parent=None), {"bias": bias[index]}, {"mean": mean[index]})
        row.add(f"{name}_activation", MaxMin(parent=None))
    return size


def _keeps_border(arrays: State, backbone_type: str | None, patch: int, size: tuple[int, int]) -> bool:
    """Whether it is of the second kind: by the settings, or by what the neck takes."""
    if backbone_type is not None:
        return "v2" in backbone_type.lower()
    depth, width = arrays.sizes("conv.bias", 2)
    taken = max(arrays.sizes("neck.weight", 2))
    same, larger = (width * ((n // (patch or 1)) ** 2) for n in (size[0], size[0] + 2 * depth))
    if taken in (same, larger) and same != larger:
        return taken == larger
    raise ValueError("bronet: neither the file nor the neck says which kind the trunk is; give backbone_type=…")


def _add_patches(
    row: Row, arrays: State, width: int, size: tuple[int, int], sides: tuple[int, int], kind: str
) -> tuple[int, int]:
    """Of the neck: patches of these sides, 0 for none, or the l2 norm of each; the size of what comes out."""
    for name, patch in zip(("kernel", "kernel_2"), sides, strict=True):
        if not patch:
            continue
        if kind != "l2":
            rows = _neck_rows(arrays, f"neck.{name}", width, width * patch**2, kind)
            rows = rows.reshape(width, width, patch, patch)
            matrix = rows.transpose(2, 3, 1, 0).reshape(-1, width)
            layer = PatchConv(width, patch, parent=None)
            row.add(f"neck_{name}", layer, {"bias": np.zeros(width)}, {"matrix": matrix}, by_svd(matrix))
        else:
            row.add(f"neck_{name}", L2Pool(patch, parent=None))
        size = (size[0] // patch, size[1] // patch)
    return size


def _add_map(row: Row, arrays: State, width: int, size: tuple[int, int], kind: str) -> None:
    """The dense layer of the neck, a reflection or with orthogonalised rows."""
    row.add("flatten", Flatten(parent=None))
    out, into = arrays.sizes("neck.bias", 1)[0], width * size[0] * size[1]
    rows = _neck_rows(arrays, "neck.weight", out, into, kind)
    arrays = State("bronet", {"neck.weight": rows, "neck.bias": arrays.take("neck.bias", out)})
    liresnet.add_map(row, arrays, lambda rows: rows, width, size)


def _neck_rows(arrays: State, name: str, out: int, into: int, kind: str) -> np.ndarray:
    """Orthonormal rows (out, into), by Cholesky or, of the transposed shape or where `kind` says so, by reflection."""
    is_reflector = arrays.peek(name).shape == (into, out) != (out, into)
    if kind == "bro" or (not kind and is_reflector):
        return reflector(arrays.take(name, into, out), 1e-5)[:out, :into]
    return orthogonalised_rows(arrays.take(name, out, into))


def reflector(tall: np.ndarray, ridge: float) -> np.ndarray:
    """I − 2 V (VᵀV + δ I)⁻¹ Vᵀ, δ = ridge · mean(diag VᵀV)."""
    gram = tall.T @ tall
    gram[np.diag_indices_from(gram)] += ridge * np.mean(np.diag(gram))
    return np.eye(len(tall)) - 2 * tall @ np.linalg.solve(gram, tall.T)


def _add_dense(row: Row, arrays: State, width: int) -> None:
    """Reflections of V = I + W γ / √depth, rows of unit length by construction."""
    depth, _, rank = arrays.sizes("linear.weights", 3)
    weights = arrays.take("linear.weights", depth, width, rank)
    gain, bias = arrays.take("linear.gamma", depth, width, 1), arrays.take("linear.bias", depth, width)
    liresnet.check_identity(arrays, "linear.residual_identity", (width, rank))
    liresnet.check_identity(arrays, "linear.identity", (width, width))
    liresnet.check_identity(arrays, "linear.identity_half", (rank, rank))
    eye = np.eye(width, rank)
    for index in range(depth):
        matrix = reflector(eye + weights[index] * gain[index] * depth**-0.5, 1e-7).T
        name = f"dense{index + 1}"
        row.add(name, OrthogonalDense(width, parent=None), {"bias": bias[index]}, {"matrix": matrix})
        row.add(f"{name}_activation", MaxMin(parent=None))
