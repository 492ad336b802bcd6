"""Image-classification data as uint8 arrays in memory."""

from lipjax.data.dataset import DataError, Dataset, Split
from lipjax.data.sources import load

__all__ = ["DataError", "Dataset", "Split", "load"]
