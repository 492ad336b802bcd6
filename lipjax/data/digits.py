"""The UCI optical digits: 1,797 real 8×8 images, shipped with the package (digits.npz, attribution in DIGITS.md)."""

from importlib import resources

import numpy as np

TRAIN_IMAGES = 1437
PIXEL_MAX = 16


def load_digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{'train': (images, labels), 'test': …}: images (N, 8, 8, 1) uint8 in [0, 16], labels (N,) int32.

    The file holds the images in one fixed random order; the first 1,437 are for training, the last 360 for testing.
    """
    with resources.files("lipjax.data").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = arrays["images"][..., None], arrays["labels"].astype(np.int32)
    return {
        "train": (images[:TRAIN_IMAGES], labels[:TRAIN_IMAGES]),
        "test": (images[TRAIN_IMAGES:], labels[TRAIN_IMAGES:]),
    }
