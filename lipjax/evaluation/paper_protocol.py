"""The quantities that the paper's experiments report, for comparison beside the proven ones.  They are no proof.

Two steps of a proof are missing: the convolutions are taken as exactly 1-Lipschitz, so that Lip(g) = 1 / min(std), and
only the RIVALS classes with the largest logits beside the label count, however many classes there are.
"""

import dataclasses

import numpy as np

from lipjax.models import Proven

RIVALS = 9


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """One image: the radius that the paper's protocol gives it, l2, pixels in [0, 1]; 0 where it is misclassified."""

    index: int
    radius: float


def paper_batch(
    proven: Proven, nominal_bound: float, images: np.ndarray, labels: np.ndarray, first: int
) -> list[PaperRow]:
    """Rows of images (N, H, W, C) float32 in [0, 1] with labels (N,), of which the first has the index `first`."""
    rivals = min(RIVALS, proven.num_classes - 1)
    radius = proven.certify_head(proven.features(images), labels, rivals=rivals).radius / nominal_bound
    return [PaperRow(first + i, float(r)) for i, r in enumerate(radius)]
