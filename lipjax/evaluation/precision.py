"""How far the computed features and logits are from those of the same network in float64."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from lipjax.evaluation.measure import Measure
from lipjax.models import Proven
from lipjax.ops.arithmetic import in_float64

PRECISIONS = ("float32", "bfloat16")


class Precision(Measure):
    """Columns of precision.csv: l2 distances of features, and the largest difference of a logit, to those in float64.

    float32 is what certificates are computed from; bfloat16 (parameters, images and all between) shows what they are
    not to be computed from.
    """

    name = "precision"
    done = "compared"
    columns: ClassVar = {f"{what}_{name}": "f8" for name in PRECISIONS for what in ("features", "logits")}

    def __init__(self, proven: Proven):
        self._proven = proven

    def batch(self, batch):
        with in_float64():
            exact = self._run(batch.images, jnp.float64)
        columns = {}
        for name in PRECISIONS:
            features, logits = self._run(batch.images, jnp.dtype(name))
            columns[f"features_{name}"] = np.linalg.norm(features - exact[0], axis=1)
            columns[f"logits_{name}"] = np.abs(logits - exact[1]).max(axis=1)
        return columns

    def summary(self, found, radii):
        return {
            "precision": {
                name: {
                    "features_max": float(found[f"features_{name}"].max()),
                    "features_mean": float(found[f"features_{name}"].mean()),
                    "logits_max": float(found[f"logits_{name}"].max()),
                }
                for name in PRECISIONS
            }
        }

    def _run(self, images, dtype) -> tuple[np.ndarray, np.ndarray]:
        """(features, logits) computed in a dtype, as float64."""
        features, logits = self._proven.outputs(jnp.asarray(images, dtype), dtype)
        return np.asarray(features).astype(np.float64), np.asarray(logits).astype(np.float64)
