"""A plain network as one .npz of arrays, which numpy alone reads and runs (`export.interpreter`)."""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from lipjax.export import interpreter
from lipjax.export.deployed import Deployed

SUMS_IN_ANY_ORDER = True
PACKAGES: tuple[str, ...] = ()


def written(network: Deployed) -> bytes:
    """Arrays under their place, such as 3/branches/1/0/kernel, and the texts 'description' and 'metadata' (JSON)."""
    backbone, head = network.layers
    arrays: dict[str, np.ndarray] = {}
    layers = [_named(layer, str(place), arrays) for place, layer in enumerate([*backbone, *head])]
    shape = list(network.proven.image_shape)
    description = {"format": "lipjax plain network 1", "image_shape": shape, "layers": layers}
    about = {**network.metadata(), "outputs": ["logits"], "layers_of_the_backbone": len(backbone)}
    file = io.BytesIO()
    np.savez(file, description=np.array(json.dumps(description)), metadata=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _named(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """The value with each array replaced by its path, under which it goes to `arrays`."""
    if isinstance(value, dict):
        return {key: _named(entry, f"{path}/{key}", arrays) for key, entry in value.items()}
    if isinstance(value, list):
        return [_named(entry, f"{path}/{place}", arrays) for place, entry in enumerate(value)]
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return path
    return value


def loaded(content: bytes) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    """images → (features, logits), by the interpreter."""
    layers, _ = interpreter.read(io.BytesIO(content))
    with np.load(io.BytesIO(content)) as file:
        count = json.loads(str(file["metadata"]))["layers_of_the_backbone"]

    def run(images):
        features = interpreter.run(layers[:count], images)
        return features, interpreter.run(layers[count:], features)

    return run
