"""What held-out images say of a state: the choice of a checkpoint."""

from typing import Any

import numpy as np

from lipjax.certificates.certificate import certified_accuracy, over_bound
from lipjax.config import parse_radii
from lipjax.data import Split
from lipjax.models import Classifier
from lipjax.models.program import penultimate_features
from lipjax.training.recipe import TrainState


def evaluate(model: Classifier, state: TrainState, split: Split, pixel_max: int, radii: Any) -> dict[str, Any]:
    """Accuracy and certified accuracy on held-out images.

    An estimate, used to choose a checkpoint and for nothing else: the bound is that of training
    (`Classifier.estimated_bound`), which the proven one, computed by certify.py, may exceed by a little.
    """
    variables = {"params": state.params, "spectral": state.spectral}
    images = split.images.astype(np.float32) / np.float32(pixel_max)
    features = penultimate_features(model, variables, images)
    certifier = model.parts()[1].certifier({"params": variables["params"]["head"]})
    certificate = over_bound(certifier(features, split.labels), float(model.estimated_bound(variables)))
    record = {"validation_accuracy": float(np.mean(certificate.prediction == split.labels))}
    for text, radius in parse_radii(radii).items():
        record[f"validation_certified_estimate_{text}"] = certified_accuracy(certificate, radius)
    return record
