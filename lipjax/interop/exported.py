"""Plain layers exported by torchlip (`vanilla_export`) and orthogonium: a state dict, and what stands around it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lipjax.config import integer
from lipjax.interop.claim import Claim, by_construction
from lipjax.interop.network import Foreign, Pixels, Reader, State
from lipjax.models import plain

# Of each program: what its certificates divide margins by, and where that is said.
_CLAIMS = {
    "torchlip": ("two", "deel-torchlip 1.0.5, vanilla_export of its modules"),
    "orthogonium": ("root two", "orthogonium 0.0.4, weights of its layers in evaluation"),
}


def reader(program: str) -> Reader:
    """The reader of one of these programs."""

    def read(
        state: Mapping[str, np.ndarray],
        layers: Sequence[Mapping[str, Any]] | None = None,
        image_shape: Sequence[int] | None = None,
        mean: Pixels | None = None,
        std: Pixels | None = None,
    ) -> Foreign:
        """The network of the layers that the setting `layers` names, the last a dense one; see `described`.

        The program takes each layer as 1-Lipschitz.  By torchlip each logit is, so that a radius is (f_l − max) / 2; by
        orthogonium all of them together, so that it is (f_l − max) / √2.
        """
        arrays = State(program, state)
        if layers is None or image_shape is None:
            name = "layers" if layers is None else "image_shape"
            raise ValueError(f"{program}: {name} is in no state dict; give {name}=… (docs/interop.md)")
        description = described(arrays, layers)
        arrays.finish()
        less, over = np.asarray(0 if mean is None else mean), np.asarray(1 if std is None else std, np.float64)
        if mean is not None or std is not None:
            description.insert(0, {"kind": "affine", "scale": 1 / over, "shift": -less / over})
        try:
            model, variables = plain.network(description, image_shape)
        except ValueError as error:
            raise ValueError(f"{program}: {error}") from error
        formula, source = _CLAIMS[program]
        scale = 1 / float(np.min(over))
        claimed = [by_construction()._replace(layer=name) for name, _ in model.backbone.layers]  # type: ignore[attr-defined]
        if scale != 1:
            claimed[0] = by_construction(scale)._replace(layer=claimed[0].layer)
        return Foreign(model, variables, Claim(tuple(claimed), formula, True, source))

    return read


def described(arrays: State, layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The plain description (docs/plain.md) of a list of layers.

    {"weights": NAME, …}: the convolution or dense layer with NAME.weight and, where there is one, NAME.bias, with
    'stride', 'padding', 'padding_mode', 'dilation' and 'groups' as in the program; {"kind": "group_sort_2"}: of
    neighbouring channels the smaller and the larger one, in this order; {"kind": "scaled_average_pool", "size": n}:
    means times n; {"kind": "flatten"}: (c, row, column); all other kinds are those of plain descriptions.
    """
    found: list[dict[str, Any]] = []
    for layer in layers:
        kind = layer.get("kind")
        if "weights" in layer:
            found.append(_weighted(arrays, dict(layer)))
        elif kind == "group_sort_2":
            turned = {"kind": "affine", "scale": -1.0, "shift": 0.0}
            found += [turned, {"kind": "max_min", "pairing": "neighbours"}, turned]
        elif kind == "scaled_average_pool":
            size = layer.get("size", 2)
            if not integer(1)[1](size):
                raise ValueError(f"{arrays.program}: size={size!r}: must be {integer(1)[0]}")
            found += [{"kind": "average_pool", "size": size}, {"kind": "affine", "scale": float(size), "shift": 0.0}]
        elif kind == "flatten":
            found.append({"order": "chw", **layer})
        else:
            found.append(dict(layer))
    return found


def _weighted(arrays: State, layer: dict[str, Any]) -> dict[str, Any]:
    """A convolution or a dense layer with its arrays."""
    name = layer.pop("weights")
    shape = arrays.peek(f"{name}.weight").shape
    if len(shape) not in (2, 4):
        raise ValueError(f"{arrays.program}: '{name}.weight' must have 2 or 4 dimensions, got {shape}")
    weight = arrays.take(f"{name}.weight", *shape)
    kernel = weight.T if len(shape) == 2 else weight.transpose(2, 3, 1, 0)
    made = {"kind": "dense" if len(shape) == 2 else "conv", "kernel": kernel, **layer}
    if f"{name}.bias" in arrays:
        made["bias"] = arrays.take(f"{name}.bias", shape[0])
    return made
