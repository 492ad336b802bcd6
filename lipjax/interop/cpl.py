"""Convex potential layers (MILES-PSL/Convex-Potential-Layer), as its state dict names them."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from lipjax.interop.claim import by_construction, norm_power_steps
from lipjax.interop.network import MEANS, Foreign, Pixels, Row, State, hwio
from lipjax.interop.potential import POOL, add_dense_step, add_features, add_pool, add_step, indices, side_of
from lipjax.layers import Flatten, InputScale
from lipjax.ops.arithmetic import in_float64
from lipjax.ops.general_conv import adjoint, conv

SOURCE = "MILES-PSL/Convex-Potential-Layer at c6dc197, layers.py, model.py, util.py"
EPSILON, STEPS = 1e-4, 100
_CONV, _DENSE = "model.stable_block", "model.layers_linear"


def read(
    state: Mapping[str, np.ndarray], mean: Pixels | None = None, std: Pixels = 1.0, num_classes: int | None = None
) -> Foreign:
    """x − h Wᵀ σ(W x + b), h = 2 / (σ² + 1e-4), over images and then over features; unit rows, or the first features.

    σ is the program's estimate of ‖W‖, `eval_sv_max` in the file, or by 100 power iterations from the vector in the
    file where that is 0.  The program takes each layer as 1-Lipschitz, which is true where ‖W‖² <= σ² + 1e-4; that norm
    is proven.  It certifies where min_j (f_l − f_j) / ‖w_l − w_j‖ > ε / min(std), or, without unit rows, by √2.
    """
    arrays, row = State("cpl", _once(state)), Row()
    convs, denses = indices(arrays, rf"{_CONV}\.(\d+)\.kernel"), indices(arrays, rf"{_DENSE}\.(\d+)\.weights")
    if not convs:
        arrays.peek(f"{_CONV}.0.kernel")
    width = arrays.sizes(f"{_CONV}.{convs[0]}.kernel", 4)[1]
    side = arrays.sizes(f"{_CONV}.{convs[0]}.pm.u", 4)[2] // POOL
    count = width * side * side
    has_rows = "model.last_last.weight" in arrays
    if has_rows:
        weight = arrays.take("model.last_last.weight", None, count)
        bias = arrays.take("model.last_last.bias", len(weight))
        if num_classes not in (None, len(weight)):
            raise ValueError(f"cpl: num_classes={num_classes}: the last layer has {len(weight)} rows")
    else:
        num_classes = num_classes or 10
        weight, bias = np.eye(num_classes, count), np.zeros(num_classes)
    if side_of("cpl", count, width) * POOL != arrays.sizes(f"{_CONV}.{convs[0]}.pm.u", 4)[3]:
        raise ValueError("cpl: images must be square")
    mean = MEANS.get(len(weight), 0.0) if mean is None else mean
    row.add("input", InputScale(mean, std, parent=None), claimed=by_construction(1 / float(np.min(std))))
    for number, index in enumerate(convs):
        _add_conv(row, arrays, f"{_CONV}.{index}", f"conv{number}", width, side * POOL)
    add_pool(row, width)
    add_features(row, side)
    for number, index in enumerate(denses):
        name = f"{_DENSE}.{index}"
        matrix = arrays.take(f"{name}.weights", None, count)
        arrays.take(f"{name}.alpha", 1)
        norm = _norm(arrays, name, matrix, arrays.take(f"{name}.pm.u", 1, count)[0])
        add_dense_step(row, f"dense{number}", matrix, arrays.take(f"{name}.bias", len(matrix)), norm)
    arrays.finish()
    row.add("flatten", Flatten(parent=None))
    image_shape = (side * POOL, side * POOL, 3)
    formula = "rows" if has_rows else "root two"
    return row.network(weight, bias, image_shape, formula=formula, strict=True, source=SOURCE)


def _once(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the second names that everything has, under `base`; ValueError where they are not all of these arrays."""
    twice = {"model.base.1.": f"{_CONV}.", "model.base.2.": f"{_DENSE}."}
    kept = {}
    for name, array in state.items():
        first = next((name.replace(old, new, 1) for old, new in twice.items() if name.startswith(old)), None)
        if first is None:
            kept[name] = array
        elif first not in state or not np.array_equal(state[first], array):
            raise ValueError(f"cpl: {name!r} must be the array {first!r}")
    if len(kept) < len(state):
        second = {new: old for old, new in twice.items()}
        for name in kept:
            other = next((name.replace(new, old, 1) for new, old in second.items() if name.startswith(new)), None)
            if other is not None and other not in state:
                raise ValueError(f"cpl: {other!r} is missing, a second name of {name!r}")
    return kept


def _add_conv(row: Row, arrays: State, name: str, ours: str, width: int, side: int) -> None:
    inner = arrays.sizes(f"{name}.kernel", 4)[0]
    kernel = arrays.take(f"{name}.kernel", inner, width, 3, 3)
    start = arrays.take(f"{name}.pm.u", 1, width, side, side)[0].transpose(1, 2, 0)
    norm = _norm(arrays, name, hwio(kernel), start)
    add_step(row, ours, hwio(kernel), arrays.take(f"{name}.bias", inner), width, norm)


def _norm(arrays: State, name: str, operator: np.ndarray, start: np.ndarray) -> float:
    """(σ² + ε)^½, so that h = 2 over its square."""
    sigma = float(arrays.take(f"{name}.eval_sv_max", 1)[0])
    if sigma == 0:
        sigma = power_iteration(operator, start, STEPS)
    return float(np.sqrt(sigma * sigma + EPSILON))


def power_iteration(operator: np.ndarray, start: np.ndarray, steps: int) -> float:
    """⟨W u, v⟩ after v ← W u, u ← Wᵀ v, both to unit length, so many times: ‖Wᵀ v‖ of the last v.

    W is a matrix (inner, D), or a convolution with a kernel HWIO.
    """
    if operator.ndim == 2:
        operator, start = hwio(operator[:, :, None, None]), start.reshape(1, 1, -1)
    with in_float64():
        kernel, image = jnp.asarray(operator), jnp.asarray(start)
        v = conv(norm_power_steps(kernel, image / jnp.linalg.norm(image), steps - 1)[None], kernel)
        return float(jnp.linalg.norm(conv(v, adjoint(kernel))) / jnp.linalg.norm(v))
