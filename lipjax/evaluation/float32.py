"""What a proof about the float32 program costs: its certificates, and how far its features may be, and are, off."""

from typing import ClassVar

import numpy as np

from lipjax.evaluation.measure import Measure
from lipjax.models import Proven


class Float32(Measure):
    """Columns of float32.csv: the radius within which the float32 program keeps its class; E, proven; the error,
    measured.

    The proof is that of `Proven` with precision='float32': 2 E, of the image and of what is within its radius, is
    subtracted.  What is measured is the l2 distance of its features to those of the float64 program.

    Args:
      proven, deployed: of one network, in float64 and in float32.
      float_slack: a further error of the features, in l2, that is taken off (`Proven.certify`).
    """

    name = "float32"
    done = "certified in float32"
    columns: ClassVar = {"radius": "f8", "error_bound": "f8", "error_measured": "f8"}

    def __init__(self, proven: Proven, deployed: Proven, float_slack: float = 0.0):
        self._proven, self._deployed, self._float_slack = proven, deployed, float_slack

    def key(self):
        return [self._deployed.lipschitz_bound, self._float_slack]

    def batch(self, batch):
        certificate, error = self._deployed.certify_with_error(
            batch.images, batch.labels, float_slack=self._float_slack
        )
        features = [proven.features(batch.images).astype(np.float64) for proven in (self._deployed, self._proven)]
        measured = np.linalg.norm(features[0] - features[1], axis=1)
        return {"radius": certificate.radius, "error_bound": error, "error_measured": measured}

    def summary(self, found, radii):
        accuracy = {text: float(np.mean(found["radius"] > r)) for text, r in radii.items()}
        about = {
            "certified_accuracy": accuracy,
            "error_bound_max": float(found["error_bound"].max()),
            "error_bound_mean": float(found["error_bound"].mean()),
            "error_measured_max": float(found["error_measured"].max()),
        }
        return {"float32": about}
