"""Image-classification data as uint8 arrays in memory."""

from lipjax.data.dataset import DataError, Dataset, Split
from lipjax.data.options import DataOptions
from lipjax.data.sources import load

__all__ = ["DataError", "DataOptions", "Dataset", "Split", "load"]
