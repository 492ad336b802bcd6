"""The quantities that the paper's experiments report, for comparison beside the proven ones.  They are no proof.

Two steps of a proof are missing: Lip(g) is taken as training estimates it, 1 / min(std) with the paper's layers, and
only the RIVALS classes with the largest logits beside the label count, however many classes there are.
"""

from typing import ClassVar

import numpy as np

from lipjax.evaluation.measure import Measure
from lipjax.models import Proven

RIVALS = 9


class PaperProtocol(Measure):
    """The column of paper_protocol.csv: the radius that the paper's protocol gives, 0 where an image is misclassified.

    Args:
      estimated_bound: Lip(g), see `Classifier.estimated_bound`.
    """

    name = "paper_protocol"
    done = "done by the paper's protocol"
    columns: ClassVar = {"radius": "f8"}

    def __init__(self, proven: Proven, estimated_bound: float):
        self._proven, self._bound = proven, estimated_bound

    def batch(self, batch):
        rivals = min(RIVALS, self._proven.num_classes - 1)
        features = self._proven.features(batch.images)
        return {"radius": self._proven.certify_head(features, batch.labels, rivals=rivals).radius / self._bound}

    def summary(self, found, radii):
        accuracy = {text: float(np.mean(found["radius"] > r)) for text, r in radii.items()}
        return {"paper_protocol_not_a_proof": accuracy}
