"""Networks: layers composed, proven and certified."""

from lipjax.models.bounded import bound
from lipjax.models.lipconvnet import LipConvnet
from lipjax.models.network import Classifier, Network, fold
from lipjax.models.proven import Proven, certify, prove

__all__ = ["Classifier", "LipConvnet", "Network", "Proven", "bound", "certify", "fold", "prove"]
