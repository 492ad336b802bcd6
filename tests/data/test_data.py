import numpy as np
import pytest

from lipjax.data import load, sources


def test_digits_are_those_of_scikit_learn():
    """Every image of the UCI set, once, with its label; only the order is ours."""
    original = pytest.importorskip("sklearn.datasets").load_digits()
    digits = load("digits")
    images = np.concatenate([digits.train.images, digits.test.images]).reshape(-1, 64)
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    assert images.dtype == np.uint8
    ours = np.concatenate([images, labels[:, None]], axis=1).astype(int)
    theirs = np.concatenate([original.data, original.target[:, None]], axis=1).astype(int)
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_digits_splits():
    digits = load("digits")
    assert digits.train.images.shape == (1437, 8, 8, 1)
    assert digits.test.images.shape == (360, 8, 8, 1)
    assert digits.image_shape == (8, 8, 1)
    assert (digits.num_classes, digits.pixel_max, digits.train.images.max()) == (10, 16, 16)
    assert set(digits.test.labels) == set(range(10))
    assert digits.train.labels[:8].tolist() == [2, 3, 8, 2, 1, 2, 8, 4]  # the split is fixed


def test_hold_out_is_a_fixed_partition():
    digits = load("digits")
    kept, held = digits.hold_out(0.1, seed=3)
    assert (len(kept.labels), len(held.labels)) == (1293, 144)
    again = digits.hold_out(0.1, seed=3)
    np.testing.assert_array_equal(again[1].images, held.images)
    assert not np.array_equal(digits.hold_out(0.1, seed=4)[1].labels, held.labels)
    together = np.concatenate([kept.images, held.images]).reshape(-1, 64)
    np.testing.assert_array_equal(np.sort(together.sum(1)), np.sort(digits.train.images.reshape(-1, 64).sum(1)))
    nothing = digits.hold_out(0.0, seed=3)
    np.testing.assert_array_equal(nothing[0].images, digits.train.images)
    assert len(nothing[1].labels) == 0
    for fraction in (1e-9, 0.9999):
        with pytest.raises(ValueError, match="validation_fraction"):
            digits.hold_out(fraction, seed=0)


@pytest.mark.parametrize("shape", [(28, 28), (32, 32), (3, 2), (33, 64)])
def test_images_keep_their_shape(monkeypatch, shape):
    images, labels = np.full((2, *shape, 1), 7, np.uint8), np.zeros(2, np.int32)
    splits = {"train": (images, labels), "test": (images[:1], labels[:1])}
    monkeypatch.setattr("lipjax.data.named.load_named", lambda name, data_dir, say, forms: (splits, "0123456789"))
    loaded = sources.load("some_set")
    np.testing.assert_array_equal(loaded.train.images, images)
    assert (loaded.image_shape, loaded.pixel_max, loaded.enlarged) == ((*shape, 1), 255, False)
