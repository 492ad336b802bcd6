"""Networks: layers composed, proven and certified."""

from lipjax.models.lipconvnet import LipConvnet, fold

__all__ = ["LipConvnet", "fold"]
