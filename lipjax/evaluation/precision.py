"""How far the computed features and logits are from those of the same network in float64."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lipjax.models import Classifier

PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class PrecisionRow:
    """One image: l2 distances of features, and the largest difference of a logit, to those in float64.

    float32 is what certificates are computed from; bfloat16 (parameters, images and all between) shows what they are
    not to be computed from.
    """

    index: int
    features_float32: float
    logits_float32: float
    features_bfloat16: float
    logits_bfloat16: float


def precision_batch(
    model: Classifier, variables: Mapping[str, Any], images: np.ndarray, first: int
) -> list[PrecisionRow]:
    """Rows of images (N, H, W, C) float32, of which the first one has the index `first`."""
    with jax.enable_x64(True):
        exact = _run(model, variables, images, jnp.float64)
    columns = []
    for name in PRECISIONS:
        features, logits = _run(model, variables, images, jnp.dtype(name))
        columns += [np.linalg.norm(features - exact[0], axis=1), np.abs(logits - exact[1]).max(axis=1)]
    return [PrecisionRow(first + i, *map(float, row)) for i, row in enumerate(zip(*columns, strict=True))]


def precision_summary(rows: list[PrecisionRow]) -> dict[str, dict[str, float]]:
    """{'float32': {'features_max': …, 'features_mean': …, 'logits_max': …}, 'bfloat16': …}."""
    summary = {}
    for name in PRECISIONS:
        features = np.array([getattr(row, f"features_{name}") for row in rows])
        logits = max(getattr(row, f"logits_{name}") for row in rows)
        summary[name] = {
            "features_max": float(features.max()),
            "features_mean": float(features.mean()),
            "logits_max": logits,
        }
    return summary


def _run(model, variables, images, dtype) -> tuple[np.ndarray, np.ndarray]:
    """(features, logits) computed in a dtype, as float64."""
    cast = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype), dict(variables))
    with jax.default_matmul_precision("highest"):
        outputs = _features_and_logits(model, cast, jnp.asarray(images, dtype))
    features, logits = (np.asarray(output).astype(np.float64) for output in outputs)
    return features, logits


@jax.jit(static_argnums=0)
def _features_and_logits(model, variables, images):
    features = model.apply(variables, images, method="features")
    return features, model.apply(variables, features, method="classify")
