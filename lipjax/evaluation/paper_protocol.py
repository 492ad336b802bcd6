"""The quantities that the paper's experiments report, for comparison beside the proven ones.  They are no proof.

Two steps of a proof are missing: the convolutions are taken as exactly 1-Lipschitz, so that Lip(g) = 1 / min(std), and
only the RIVALS classes with the largest logits beside the label count, however many classes there are.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lipjax.certificates.lln import certify_crc
from lipjax.evaluation.certification import penultimate_features
from lipjax.models.lipconvnet import LipConvnet

RIVALS = 9


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """One image: the radius that the paper's protocol gives it, l2, pixels in [0, 1]; 0 where it is misclassified."""

    index: int
    radius: float


def paper_batch(
    model: LipConvnet, variables: Mapping[str, Any], images: np.ndarray, labels: np.ndarray, first: int
) -> list[PaperRow]:
    """Rows of images (N, H, W, C) float32 in [0, 1] with labels (N,), of which the first has the index `first`."""
    features = penultimate_features(model, variables, images).astype(np.float64)
    head = variables["params"]["head"]
    rivals = min(RIVALS, model.num_classes - 1)
    if model.head == "crc":
        radius = certify_crc(features, head, labels, rivals=rivals).radius
    else:
        radius = _lln_radius(features, head, labels, rivals)
    scale = float(np.min(model.input_scale()[1]))
    return [PaperRow(first + i, float(r * scale)) for i, r in enumerate(radius)]


def _lln_radius(features: np.ndarray, head, labels: np.ndarray, rivals: int) -> np.ndarray:
    """min over the rivals i of (f_l − f_i) / ‖w_l − w_i‖, (N,), in float64."""
    weight = np.asarray(head["weight"], np.float64)
    weight = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    logits = features @ weight.T + np.asarray(head["bias"], np.float64)
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    others = np.where(np.arange(len(weight)) == labels[:, None], -np.inf, logits)
    strongest = np.argsort(-others, axis=1)[:, :rivals]
    margins = own - np.take_along_axis(logits, strongest, axis=1)
    slopes = np.linalg.norm(weight[labels][:, None] - weight[strongest], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = np.where(margins > 0, margins / slopes, 0.0)
    return distances.min(axis=1)
