"""Training images that have more pixels than the network takes, for random resized crops."""

import numpy as np

from lipjax.data.dataset import Dataset, Split


def at_size(dataset: Dataset, split: Split) -> Split:
    """A split with its images (N, H, W, C) as large as the network takes them: whole, by Pillow's bicubic filter."""
    size = dataset.image_shape[:2]
    if split.images.shape[1:3] == size:
        return split
    from lipjax.data.pictures import resized  # with Pillow, which the digits do without

    return Split(np.minimum(resized(split.images, size), np.uint8(dataset.pixel_max)), split.labels)
