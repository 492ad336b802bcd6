"""Image classifiers with proven l2 robustness: skew orthogonal convolutions, certified heads, deterministic radii."""

from lipjax import ops
from lipjax.evaluation.certification import certify, load_trained
from lipjax.models import network
from lipjax.models.lipconvnet import LipConvnet, fold

__all__ = ["LipConvnet", "certify", "fold", "load_trained", "network", "ops"]
