"""SDP-based Lipschitz layers (araujoalexandre/Lipschitz-SLL-Networks), as `model_state_dict` names them."""

from collections.abc import Mapping

import numpy as np

from lipjax.interop.network import Foreign, Pixels, Row, State, hwio, mean_of
from lipjax.interop.potential import POOL, add_dense_step, add_features, add_pool, add_step, indices, side_of
from lipjax.layers import Flatten, InputScale

SOURCE = "araujoalexandre/Lipschitz-SLL-Networks at 1abe5e1, core/models and core/evaluate.py"


def read(state: Mapping[str, np.ndarray], mean: Pixels | None = None) -> Foreign:
    """x − 2 Wᵀ T⁻¹ σ(W x + b), T_i = Σ_j |W Wᵀ|_ij q_j / q_i, over images and then over features; unit rows.

    Of images the program multiplies and divides by the same q_i, so that q is without effect.  As T > 0 is diagonal,
    this is the step with T^(−½) W, T^(−½) b in place of W, b: what is proven is the norm of that.  The program takes
    each layer as 1-Lipschitz, by its theorem, and certifies where min_j (f_l − f_j) / ‖w_l − w_j‖ > ε.
    Pixels are shifted by the mean of the dataset, by default that of so many classes.
    """
    arrays, row = State("sll", _without_alpha(state)), Row()
    convs = indices(arrays, r"model\.model\.(\d+)\.kernel")
    last = max(indices(arrays, r"model\.model\.(\d+)\.weight"), default=0)
    denses = [i for i in indices(arrays, r"model\.model\.(\d+)\.weight") if i != last]
    arrays.sizes(f"model.model.{convs[0] if convs else 1}.kernel", 4)
    width = arrays.sizes(f"model.model.{convs[0]}.kernel", 4)[1]
    weight = arrays.take(f"model.model.{last}.weight", None, None)
    bias = arrays.take(f"model.model.{last}.bias", len(weight))
    side = side_of("sll", weight.shape[1], width)
    row.add("input", InputScale(mean_of("sll", mean, len(weight)), parent=None))
    for number, index in enumerate(convs):
        inner = arrays.sizes(f"model.model.{index}.kernel", 4)[0]
        kernel = arrays.take(f"model.model.{index}.kernel", inner, width, 3, 3)
        offset = arrays.take(f"model.model.{index}.bias", 1, inner, 1, 1).ravel()
        root = _root_of_t(autocorrelation(kernel), 0 * arrays.take(f"model.model.{index}.q", inner))
        add_step(row, f"conv{number}", hwio(kernel * root[:, None, None, None]), offset * root, width)
    add_pool(row, width)
    add_features(row, side)
    for number, index in enumerate(denses):
        matrix = arrays.take(f"model.model.{index}.weight", None, weight.shape[1])
        offset = arrays.take(f"model.model.{index}.bias", 1, len(matrix)).ravel()
        root = _root_of_t(np.abs(matrix @ matrix.T), arrays.take(f"model.model.{index}.q", len(matrix)))
        add_dense_step(row, f"dense{number}", matrix * root[:, None], offset * root)
    arrays.finish()
    row.add("flatten", Flatten(parent=None))
    return row.network(weight, bias, (side * POOL, side * POOL, 3), formula="rows", strict=True, source=SOURCE)


def _without_alpha(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As the program reads its files: what has 'alpha' in its name is left out."""
    return {name: array for name, array in state.items() if "alpha" not in name}


def autocorrelation(kernel: np.ndarray) -> np.ndarray:
    """Σ over shifts of |Σ_{c, taps} K[i, c, t] K[j, c, t + shift]|, (inner, inner), of a kernel (inner, C, k, k)."""
    k = kernel.shape[-1]
    padded = np.pad(kernel, ((0, 0), (0, 0), (k - 1, k - 1), (k - 1, k - 1)))
    total = np.zeros((len(kernel), len(kernel)))
    for a in range(2 * k - 1):
        for b in range(2 * k - 1):
            total += np.abs(np.einsum("icyx,jcyx->ij", padded[:, :, a : a + k, b : b + k], kernel, optimize=True))
    return total


def _root_of_t(sizes: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """T^(−½), 0 where T is 0, as the program has it."""
    t = (sizes * np.exp(log_q)).sum(axis=1) * np.exp(-log_q)
    return np.where(t > 0, 1 / np.sqrt(np.where(t > 0, t, 1.0)), 0.0)
