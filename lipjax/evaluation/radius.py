"""The certified radius of each image: the measure that is a proof."""

from typing import Any, ClassVar

import numpy as np

from lipjax.evaluation.measure import Measure
from lipjax.models import Proven


class Radius(Measure):
    """Columns of per_image.csv: label, prediction, rival class, certified radius, whether it is exact.

    Args:
      float_slack: an error of the features, in l2, that is taken off every certificate (`Proven.certify`).
    """

    name = "per_image"
    done = "certified"
    columns: ClassVar = {"label": "i8", "prediction": "i8", "rival": "i8", "radius": "f8", "exact": "i8"}

    def __init__(self, proven: Proven, float_slack: float = 0.0):
        self._proven, self._float_slack = proven, float_slack

    def key(self):
        return [self._proven.lipschitz_bound, self._proven.precision, self._float_slack]

    def batch(self, batch):
        found = self._proven.certify(batch.images, batch.labels, float_slack=self._float_slack)
        columns = {name: getattr(found, name) for name in ("prediction", "rival", "radius", "exact")}
        return {"label": batch.labels, **columns}

    def summary(self, found, radii) -> dict[str, Any]:
        radius, right = found["radius"], found["prediction"] == found["label"]
        mean = radius.mean()
        return {
            "standard_accuracy": float(right.mean()),
            "certified_accuracy": {text: float(np.mean(radius > r)) for text, r in radii.items()},
            # JSON has no infinity: an average over a radius without end has no value.
            "average_certified_radius": float(mean) if np.isfinite(mean) else None,
            "exact_fraction": float(found["exact"][right].mean()) if right.any() else None,
        }
