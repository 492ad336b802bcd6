"""Images as they stand on a page: PNG in base64."""

import base64
import io

import numpy as np
from PIL import Image

LARGEST = 192  # pixels of a side; larger images are made smaller


def picture(image: np.ndarray) -> str:
    """A PNG of an image (H, W, C), in base64; pixels in [0, 1], others are cut."""
    pixels = np.rint(255 * np.clip(np.asarray(image, np.float64), 0, 1)).astype(np.uint8)
    drawn = Image.fromarray(pixels[..., 0] if pixels.shape[-1] in (1, 2) else pixels[..., :3])
    if max(drawn.size) > LARGEST:
        drawn.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    drawn.save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
