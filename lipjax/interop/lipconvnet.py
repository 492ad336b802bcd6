"""Networks of the authors' PyTorch program, as our model and variables."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from lipjax import ops
from lipjax.models.lipconvnet import LipConvnet

_CONVOLUTION = re.compile(r"(init_layer|block(\d+)\.(\d+))\.ortho\.weight")
# Their names in the head → collection and name of ours.
_HEADS = {
    "lln": {"weight": ("params", "weight"), "bias": ("params", "bias")},
    "crc": {
        "linear1.weight": ("params", "w1"),
        "linear1.bias": ("params", "b1"),
        "linear2.weight": ("params", "w2"),
        "linear2.bias": ("params", "b2"),
        "_u": ("spectral", "power_vector"),
    },
}
# The same of their activations maxmin, hh1 and hh2, by our names; all in params.
_ACTIVATIONS: dict[str, dict[str, str]] = {
    "householder2": {f"theta{i}": f"angle{i}" for i in range(3)},
    "householder": {"theta": "angle"},
    "max_min": {},
}
_READ = (
    "read are networks of convolutions soc, activations maxmin, hh1 and hh2, pooling max and lip1, last layers LLN and "
    "crc_full"
)
_VECTORS = tuple(f"{side}{j}" for side in "uv" for j in range(1, 5))


def from_pytorch(state: Mapping[str, np.ndarray]) -> tuple[LipConvnet, dict[str, Any]]:
    """(model, variables) from the authors' state dict as numpy arrays.

    Reads depth, widths, input size, head (LLN or CRC), pooling (max or projection) and activation (maxmin, hh1 or hh2)
    off the names and shapes; keeps the dtype of the arrays.  OIHW kernels become HWIO, power vectors are flattened.
    The polynomials are the authors': 6 Taylor terms in training, 15 in evaluation.  `docs/interop.md` has the line that
    turns a .pth file into .npz.

    Raises:
      ValueError: names that are missing or not understood (each error names them), or an architecture that is not
        LipConvnet.
    """
    state = {name: np.asarray(value) for name, value in state.items()}
    positions = {name: match for name in state if (match := _CONVOLUTION.fullmatch(name))}
    if "init_layer.ortho.weight" not in positions or len(positions) < 2:
        raise ValueError(
            "from_pytorch: found no 'init_layer.ortho.weight' and 'block1.0.ortho.weight'; not a LipConvnet of "
            f"convolutions soc; {_READ}"
        )
    blocks = max(int(match[2]) for match in positions.values() if match[2])
    depth = 5 * (1 + max(int(match[3]) for match in positions.values() if match[3]))
    is_crc = "logits_layer.linear1.weight" in state
    outer = _take(state, "logits_layer.linear2.weight" if is_crc else "logits_layer.weight")
    model = LipConvnet(
        depth=depth,
        init_channels=len(_take(state, "init_layer.ortho.bias")),
        input_size=2**blocks,
        in_channels=_take(state, "shift").size,
        num_classes=len(outer),
        head="crc" if is_crc else "lln",
        hidden=outer.shape[1] if is_crc else LipConvnet.hidden,
        pooling="projection" if f"block1.{depth // 5 - 1}.act.theta" in state else "max",
        activation=_activation(state),
        polynomial=ops.taylor(6),
        eval_polynomial=ops.taylor(15),
        mean=tuple(map(float, state["shift"].ravel())),
        std=tuple(map(float, _take(state, "scale").ravel())),
    )

    flat: dict[tuple[str, ...], np.ndarray] = {}
    used = {"shift", "scale"}
    for theirs, path in _places(model):
        array = _take(state, theirs)
        # Power vectors and angles are flat, kernels HWIO; matrices and vectors stay as they are.
        is_kernel = path[-1] == "kernel"
        flat[path] = array.transpose(2, 3, 1, 0) if is_kernel else array if path[1] == "head" else array.ravel()
        used.add(theirs)
    if is_crc:
        used.add("logits_layer._v")  # W1 u, normalised: follows from u
    left = sorted(set(state) - used)
    if left:
        raise ValueError(f"from_pytorch: names not understood: {', '.join(left)}; {_READ}")
    return model, traverse_util.unflatten_dict(flat)


def _places(model: LipConvnet) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(their name, our path) of every array."""
    for step in model.steps():
        theirs = "init_layer" if step.name == "stem" else re.sub(r"_conv", ".", step.name)
        yield f"{theirs}.ortho.weight", ("params", step.name, "kernel")
        yield f"{theirs}.ortho.bias", ("params", step.name, "bias")
        for vector in _VECTORS:
            yield f"{theirs}.ortho._{vector}", ("spectral", step.name, "vectors", vector)
        if not step.pool:
            for name, ours in _ACTIVATIONS[model.activation].items():
                yield f"{theirs}.act.{name}", ("params", f"{step.name}_activation", ours)
        elif model.pooling == "projection":
            yield f"{theirs}.act.theta", ("params", f"{step.name}_pool", "theta")
    for theirs, (collection, ours) in _HEADS[model.head].items():
        yield f"logits_layer.{theirs}", (collection, "head", ours)


def _activation(state: Mapping[str, np.ndarray]) -> str:
    """After the first convolution, which no pooling follows."""
    return next(
        ours for ours, names in _ACTIVATIONS.items() if all(f"init_layer.act.{name}" in state for name in names)
    )


def _take(state: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in state:
        raise ValueError(f"from_pytorch: {name!r} is missing; {_READ}")
    return state[name]
