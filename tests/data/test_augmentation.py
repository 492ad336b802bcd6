import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipjax.data import DataOptions
from lipjax.data.augmentation import (
    augmented,
    mixed,
    random_affine,
    random_color,
    random_crop,
    random_cutout,
    random_flip,
    random_resized_crop,
)


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


def test_resized_crops_are_parts_of_the_image_of_all_sizes_and_places():
    """Of images whose two channels are the coordinates: where a crop is, and how large, is read off its pixels."""
    height, width = 24, 36
    rows, columns = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    images = jnp.broadcast_to(jnp.asarray(np.stack([rows, columns], -1), jnp.float32), (500, height, width, 2))
    crops = np.asarray(random_resized_crop(jax.random.key(0), images, 0.25, (12, 18)))
    assert crops.shape == (500, 12, 18, 2)
    down, right = crops[:, :, 0, 0], crops[:, 0, :, 1]
    np.testing.assert_allclose(crops[..., 0], np.broadcast_to(down[:, :, None], crops.shape[:3]), atol=1e-6)
    np.testing.assert_allclose(crops[..., 1], np.broadcast_to(right[:, None], crops.shape[:3]), atol=1e-6)
    height, width = (  # the last pixels of the image have no neighbours to be interpolated with
        (pixels[:, -2] - pixels[:, 1]) * pixels.shape[1] / (pixels.shape[1] - 3) for pixels in (down, right)
    )
    area, aspect = height * width, np.log(width / height)
    assert 0.245 < area.min() < 0.26 < 0.98 < area.max() < 1.005
    np.testing.assert_allclose(area.mean(), 0.625, atol=0.03)
    assert np.log(4 / 3) * 0.9 < np.abs(aspect).max() < np.log(4 / 3) + 0.01
    assert abs(aspect.mean()) < 0.03
    for side, pixels in ((height, down), (width, right)):
        start, room = pixels.mean(axis=1) - side / 2, 1 - side
        assert -0.005 < start.min() < 0.02
        assert (start < room + 0.005).all()
        np.testing.assert_allclose((start / room)[room > 0.1].mean(), 0.5, atol=0.05)


def test_a_crop_of_the_whole_is_the_image_or_its_means():
    images = pictures(5)
    np.testing.assert_allclose(random_resized_crop(jax.random.key(0), images, 1.0, (8, 8)), images, atol=1e-6)
    larger = jnp.repeat(jnp.repeat(images, 2, 1), 2, 2)
    half = random_resized_crop(jax.random.key(0), larger, 1.0, (8, 8))
    assert np.abs(np.asarray(half - images)).mean() < 0.15
    np.testing.assert_allclose(half.mean((1, 2)), images.mean((1, 2)), atol=0.02)


def test_larger_images_are_brought_to_the_size_of_the_network():
    images = jax.random.randint(jax.random.key(1), (6, 9, 12, 3), 0, 255).astype(jnp.uint8)
    for options in (DataOptions(crop_padding=1, resized_crop=0.5), DataOptions(crop_padding=0, flip=False)):
        out = augmented(jax.random.key(0), images, options, 255, jnp.float32, (6, 8))
        assert (out.shape, out.dtype) == ((6, 6, 8, 3), jnp.float32)
        assert 0 <= out.min() < out.max() <= 1


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


def pictures(count=400, size=8):
    return jax.random.uniform(jax.random.key(3), (count, size, size, 3))


@pytest.mark.parametrize("change", [random_color, random_affine])
def test_about_half_of_the_images_change_and_stay_pictures(change):
    images = pictures()
    changed = change(jax.random.key(0), images, 1.0)
    same = np.all(np.asarray(changed == images), axis=(1, 2, 3))
    assert 160 < same.sum() < 240
    assert changed.dtype == images.dtype
    assert 0 <= changed.min() <= changed.max() <= 1


def test_strength_zero_changes_nothing():
    images = pictures(20)
    np.testing.assert_allclose(random_color(jax.random.key(0), images, 0.0), images, atol=1e-6)  # float32 rounding
    np.testing.assert_allclose(random_affine(jax.random.key(0), images, 0.0), images, atol=1e-5)


def test_colours_keep_the_order_of_grey_levels_and_move_the_mean():
    images = 0.4 + 0.2 * pictures()
    changed = np.asarray(random_color(jax.random.key(0), images, 0.3))
    grey, new = (np.asarray(x).mean(axis=3).reshape(len(images), -1) for x in (images, changed))
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(grey, new, strict=True)]
    assert min(correlation) > 0.99
    assert np.std(new.mean(axis=1) / grey.mean(axis=1)) > 0.05


def test_a_warped_image_has_its_centre_in_place_and_nothing_from_outside():
    """A disc about the centre: rotations leave it, and magnifications within e^±0.3 change its area by their square."""
    rows, columns = np.indices((33, 33)) - 16
    disc = (rows**2 + columns**2 <= 64).astype(np.float32)
    images = jnp.broadcast_to(jnp.asarray(disc)[None, :, :, None], (200, 33, 33, 1))
    warped = np.asarray(random_affine(jax.random.key(0), images, 1.0))[..., 0]
    area = warped.sum(axis=(1, 2)) / disc.sum()
    assert np.exp(-0.66) < area.min() < 0.75 < 1.35 < area.max() < np.exp(0.66)
    centre = np.array([(w * rows).sum() / w.sum() for w in warped]), np.array([(w * columns).sum() for w in warped])
    assert max(np.abs(c).max() for c in centre) < 0.05 * disc.sum()
    assert (warped[:, 16, 16] == 1).all()


def test_cutout_blanks_one_square_and_nothing_else():
    images = pictures(50) * 0.4
    blank = np.asarray(random_cutout(jax.random.key(0), images, 4)) == 0.5
    assert (blank.all(axis=3) == blank.any(axis=3)).all()
    for hole in blank[..., 0]:
        rows, columns = hole.any(axis=1), hole.any(axis=0)
        assert 2 <= rows.sum() <= 4
        assert 2 <= columns.sum() <= 4
        assert hole.sum() == rows.sum() * columns.sum()


def test_mixed_images_are_between_two_of_the_batch():
    images = pictures(6)
    mixture, order, part = mixed(jax.random.key(0), images, 0.4)
    assert sorted(order.tolist()) == list(range(6))
    assert 0 <= part <= 1
    np.testing.assert_allclose(mixture, part * images + (1 - part) * images[order], rtol=1e-6)


def test_all_that_is_asked_is_done_and_depends_on_the_key():
    images = jax.random.randint(jax.random.key(1), (64, 8, 8, 3), 0, 255).astype(jnp.uint8)
    none = DataOptions(crop_padding=0, flip=False)
    np.testing.assert_allclose(augmented(jax.random.key(0), images, none, 255, jnp.float32), images / 255, rtol=1e-6)
    changes = {"color": 1.0, "affine": 1.0, "cutout": 3, "flip": True, "crop_padding": 2, "resized_crop": 0.3}
    for change in ({key: value} for key, value in changes.items()):
        options = dataclasses.replace(none, **change)
        first, again, other = (augmented(jax.random.key(k), images, options, 255, jnp.float32) for k in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
        assert not np.array_equal(first, images / 255)
