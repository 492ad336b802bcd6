"""Image-classification data as uint8 arrays in memory."""

from lipjax.data.dataset import DataError, Dataset, Split
from lipjax.data.description import Description
from lipjax.data.options import DataOptions
from lipjax.data.sources import load, loaded

__all__ = ["DataError", "DataOptions", "Dataset", "Description", "Split", "load", "loaded"]
