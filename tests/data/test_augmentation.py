import jax
import jax.numpy as jnp
import numpy as np

from lipjax.data.augmentation import random_crop, random_flip


def test_crops_are_windows_of_the_padded_image():
    images = jnp.arange(1, 1 + 200 * 4 * 4, dtype=jnp.int32).reshape(200, 4, 4, 1)
    crops = np.asarray(random_crop(jax.random.key(0), images, 2))
    padded = np.pad(np.asarray(images), ((0, 0), (2, 2), (2, 2), (0, 0)))
    offsets = set()
    for crop, image in zip(crops, padded, strict=True):
        places = [(r, c) for r, c in np.ndindex(5, 5) if np.array_equal(crop, image[r : r + 4, c : c + 4])]
        assert len(places) == 1
        offsets.add(places[0])
    assert len(offsets) == 25


def test_flips_are_even_and_exact():
    images = jax.random.randint(jax.random.key(1), (400, 3, 5, 2), 0, 255).astype(jnp.uint8)
    flipped = random_flip(jax.random.key(2), images)
    assert flipped.dtype == jnp.uint8
    mirrored = np.array([np.array_equal(f, i[:, ::-1]) for f, i in zip(flipped, images, strict=True)])
    same = np.array([np.array_equal(f, i) for f, i in zip(flipped, images, strict=True)])
    assert (mirrored ^ same).all()
    assert 160 < mirrored.sum() < 240


def test_keys_decide():
    images = jnp.arange(4 * 8 * 8, dtype=jnp.uint8).reshape(4, 8, 8, 1)
    first, again, other = (random_crop(jax.random.key(k), images, 4) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
