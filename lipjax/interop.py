"""Networks of the authors' PyTorch program, as our model and variables."""

import re
from collections.abc import Mapping
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
_VECTORS = tuple(f"{side}{j}" for side in "uv" for j in range(1, 5))


def from_pytorch(state: Mapping[str, np.ndarray]) -> tuple[LipConvnet, dict[str, Any]]:
    """(model, variables) from the authors' state dict as numpy arrays.

    Reads depth, widths, input size, head (LLN or CRC) and pooling (max or projection) off the names and shapes; keeps
    the dtype of the arrays.  OIHW kernels become HWIO, power vectors are flattened.  The polynomials are the authors':
    6 Taylor terms in training, 15 in evaluation.  `docs/interop.md` has the line that turns a .pth file into .npz.

    Raises:
      ValueError: names that are missing or not understood (each error names them), or an architecture that is not
        LipConvnet.
    """
    state = {name: np.asarray(value) for name, value in state.items()}
    positions = {name: match for name in state if (match := _CONVOLUTION.fullmatch(name))}
    if "init_layer.ortho.weight" not in positions or len(positions) < 2:
        raise ValueError(
            "from_pytorch: found no 'init_layer.ortho.weight' and 'block1.0.ortho.weight'; not a LipConvnet"
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
        pooling="projection" if any(name.endswith(".act.theta") for name in state) else "max",
        polynomial=ops.taylor(6),
        eval_polynomial=ops.taylor(15),
        mean=tuple(map(float, state["shift"].ravel())),
        std=tuple(map(float, _take(state, "scale").ravel())),
    )

    flat: dict[tuple[str, ...], np.ndarray] = {}
    used = {"shift", "scale"}

    def move(name, *path, reshape=lambda array: array):
        flat[path] = reshape(_take(state, name))
        used.add(name)

    for step in model.steps():
        theirs = "init_layer" if step.name == "stem" else re.sub(r"_conv", ".", step.name)
        move(f"{theirs}.ortho.weight", "params", step.name, "kernel", reshape=lambda w: w.transpose(2, 3, 1, 0))
        move(f"{theirs}.ortho.bias", "params", step.name, "bias")
        for vector in _VECTORS:
            move(f"{theirs}.ortho._{vector}", "spectral", step.name, "vectors", vector, reshape=np.ravel)
        if step.pool and model.pooling == "projection":
            move(f"{theirs}.act.theta", "params", f"{step.name}_pool", "theta", reshape=np.ravel)
    for theirs, (collection, ours) in _HEADS[model.head].items():
        move(f"logits_layer.{theirs}", collection, "head", ours)
    if is_crc:
        used.add("logits_layer._v")  # W1 u, normalised: follows from u
    left = sorted(set(state) - used)
    if left:
        raise ValueError(f"from_pytorch: names not understood: {', '.join(left)}")
    return model, traverse_util.unflatten_dict(flat)


def _take(state: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in state:
        raise ValueError(f"from_pytorch: {name!r} is missing; given: {', '.join(sorted(state)) or 'nothing'}")
    return state[name]
