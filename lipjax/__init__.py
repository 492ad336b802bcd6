"""Image classifiers with proven l2 robustness: skew orthogonal convolutions, certified heads, deterministic radii."""

from lipjax import network, ops
from lipjax.certification import certify, load_trained
from lipjax.models import LipConvnet, fold

__all__ = ["LipConvnet", "certify", "fold", "load_trained", "network", "ops"]
