"""What is done to training images at random, under jit: moves of pixels, colours, warps, holes, mixtures."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from lipjax.data.options import DataOptions

# Colours and warps are applied to half of the images each: the others show the data as it is.
PROBABILITY = 0.5

# At strength 1: factors of brightness, contrast and saturation within 1 ± COLOUR; rotations within ± DEGREES, shears
# within ± SHEAR, magnifications within e^{± ZOOM}.  About those of RandAugment at the strength of its authors.
COLOUR, DEGREES, SHEAR, ZOOM = 0.9, 30.0, 0.3, 0.3


# Sides of random resized crops: the aspect ratio, to that of the image, is within ASPECT and 1 / ASPECT, as is usual.
ASPECT = 4 / 3


def augmented(
    key: jax.Array, images: jax.Array, options: DataOptions, pixel_max: int, dtype, size: tuple[int, ...] | None = None
) -> jax.Array:
    """Images (N, H, W, C) of a batch, uint8, as pixels in [0, 1] of `dtype`, changed as the options say.

    Args:
      size: (height, width) of what comes out; None: (H, W).
    """
    height, width = images.shape[1:3] if size is None else size
    crop_key, flip_key = jax.random.split(key)
    if options.resized_crop or images.shape[1:3] != (height, width):
        pixels = images.astype(dtype) / pixel_max
        images = random_resized_crop(jax.random.fold_in(key, 7), pixels, options.resized_crop or 1.0, (height, width))
    if options.crop_padding:
        images = random_crop(crop_key, images, options.crop_padding)
    if options.flip:
        images = random_flip(flip_key, images)
    if jnp.issubdtype(images.dtype, jnp.integer):
        images = images.astype(dtype) / pixel_max
    if options.color:
        images = random_color(jax.random.fold_in(key, 3), images, options.color)
    if options.affine:
        images = random_affine(jax.random.fold_in(key, 4), images, options.affine)
    if options.cutout:
        images = random_cutout(jax.random.fold_in(key, 5), images, options.cutout)
    return images


def random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Each image (N, H, W, C) zero-padded by `padding` pixels and cut back to H×W at a uniformly random place."""
    n, height, width, _ = images.shape
    rows, columns = jax.random.randint(key, (2, n), 0, 2 * padding + 1)
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = rows[:, None, None] + jnp.arange(height)[None, :, None]
    columns = columns[:, None, None] + jnp.arange(width)[None, None, :]
    return padded[jnp.arange(n)[:, None, None], rows, columns]


def random_resized_crop(key: jax.Array, images: jax.Array, smallest: float, size: tuple[int, int]) -> jax.Array:
    """A random part of each image (N, H, W, C), pixels in [0, 1], resized to `size` (Szegedy et al., 2015).

    Its area, to that of the image, is uniform in [smallest, 1], its aspect ratio to that of the image log-uniform in
    [1 / ASPECT, ASPECT] as far as it fits into the image, its place uniform; linear, antialiased.
    """
    n, height, width, channels = images.shape
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    area = jax.random.uniform(area_key, (n,), images.dtype, smallest, 1)
    most = jnp.minimum(jnp.log(ASPECT), -jnp.log(area))  # beyond it a side would be longer than the image's
    aspect = jnp.exp(most * jax.random.uniform(aspect_key, (n,), images.dtype, -1, 1))
    sides = jnp.stack([height * jnp.sqrt(area / aspect), width * jnp.sqrt(area * aspect)], axis=1)
    room = jnp.maximum(jnp.asarray([height, width], images.dtype) - sides, 0)
    first = room * jax.random.uniform(place_key, (n, 2), images.dtype)
    scale = jnp.asarray(size, images.dtype) / sides

    def resized(image, scale, first):
        shape = (*size, channels)
        return jax.image.scale_and_translate(image, shape, (0, 1), scale, -first * scale, "linear", antialias=True)

    return jnp.clip(jax.vmap(resized)(images, scale, first), 0, 1)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Each image (N, H, W, C) mirrored left to right with probability 1/2."""
    mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def random_color(key: jax.Array, images: jax.Array, strength: float) -> jax.Array:
    """Brightness, contrast and saturation of images (N, H, W, C), pixels in [0, 1], multiplied by random factors.

    Contrast is about the mean grey of the image, saturation about the grey of each pixel (the mean of its channels).
    """
    spread = COLOUR * strength
    factors = jax.random.uniform(key, (3, len(images), 1, 1, 1), images.dtype, 1 - spread, 1 + spread)
    changed = jnp.clip(images * factors[0], 0, 1)
    grey = jnp.mean(changed, axis=(1, 2, 3), keepdims=True)
    changed = jnp.clip(grey + factors[1] * (changed - grey), 0, 1)
    grey = jnp.mean(changed, axis=3, keepdims=True)
    return _some(jax.random.fold_in(key, 1), jnp.clip(grey + factors[2] * (changed - grey), 0, 1), images)


def random_affine(key: jax.Array, images: jax.Array, strength: float) -> jax.Array:
    """Images (N, H, W, C) rotated, sheared and magnified about their centres at random; zeros come in from outside.

    Pixels are bilinear in their four neighbours.
    """
    _, height, width, _ = images.shape
    angle, shear, zoom = strength * jax.random.uniform(key, (3, len(images)), images.dtype, -1, 1)
    angle, shear, zoom = jnp.deg2rad(DEGREES) * angle, SHEAR * shear, jnp.exp(ZOOM * zoom)
    cos, sin = zoom * jnp.cos(angle), zoom * jnp.sin(angle)
    rows, columns = (jnp.arange(size, dtype=images.dtype) - (size - 1) / 2 for size in (height, width))
    rows, columns = rows[:, None], columns[None, :]

    def warped(image, cos, sin, shear):
        across = columns + shear * rows
        from_rows = cos * rows - sin * across + (height - 1) / 2
        from_columns = sin * rows + cos * across + (width - 1) / 2
        sample = [from_rows, from_columns]
        return jax.vmap(lambda plane: map_coordinates(plane, sample, order=1), in_axes=2, out_axes=2)(image)

    return _some(jax.random.fold_in(key, 1), jax.vmap(warped)(images, cos, sin, shear), images)


def random_cutout(key: jax.Array, images: jax.Array, side: int) -> jax.Array:
    """Of each image (N, H, W, C) the side×side square about a random pixel is set to 0.5 (DeVries & Taylor, 2017)."""
    n, height, width, _ = images.shape
    row_key, column_key = jax.random.split(key)
    rows = jax.random.randint(row_key, (n, 1), 0, height)
    columns = jax.random.randint(column_key, (n, 1), 0, width)

    def inside(center, size):
        return (jnp.arange(size) >= center - side // 2) & (jnp.arange(size) < center - side // 2 + side)

    hole = inside(rows, height)[:, :, None] & inside(columns, width)[:, None, :]
    return jnp.where(hole[..., None], jnp.asarray(0.5, images.dtype), images)


def mixed(key: jax.Array, images: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mixup (Zhang et al., 2018): λ x + (1 − λ) x', the order of x' and λ.

    x' is the batch in another order, λ of Beta(α, α).
    """
    part = jax.random.beta(jax.random.fold_in(key, 0), alpha, alpha, dtype=images.dtype)
    order = jax.random.permutation(jax.random.fold_in(key, 1), len(images))
    return part * images + (1 - part) * images[order], order, part


def _some(key: jax.Array, changed: jax.Array, images: jax.Array) -> jax.Array:
    """Each image changed with PROBABILITY."""
    return jnp.where(jax.random.bernoulli(key, PROBABILITY, (len(images), 1, 1, 1)), changed, images)
