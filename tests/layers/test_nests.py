"""What the export writes as nested sums, read back: proven as the polynomial of a skew operator that it is."""

import jax
import numpy as np
import pytest

import lipjax
from lipjax.layers import ShiftMixing, SkewOrthogonalConv
from lipjax.layers.nests import nest_bound, shift_bound
from lipjax.layers.plain import affine, conv, matrix, total
from lipjax.models import plain
from lipjax.ops import taylor


def written(layer, shape):
    """(bound of a layer as it is folded, what the export writes of it)."""
    own = jax.tree.map(np.asarray, dict(layer.init(jax.random.key(0), np.zeros((1, *shape), np.float32))))
    with jax.enable_x64(True):
        own = layer.tightened(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), own), shape)
        layer, own = layer.folded(own, shape)
        return layer.proof(own, shape).lipschitz, layer.plain(own, shape)


LAYERS = {
    "of more than 2048 unknowns": (SkewOrthogonalConv(16), (12, 12, 16)),
    "of few pixels": (SkewOrthogonalConv(4), (5, 6, 3)),
    "Taylor": (SkewOrthogonalConv(2, polynomial=taylor(6)), (5, 5, 2)),
    "shift mixing": (ShiftMixing(0.5), (3, 3, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_written_of_a_layer_has_its_bound_when_it_is_read(name):
    ours, description = written(*LAYERS[name])
    read = lipjax.bound(description, image_shape=LAYERS[name][1]).lipschitz
    assert ours * (1 - 1e-5) <= read <= ours * (1 + 1e-6)  # of few unknowns the whole matrix is proven


def nest(kernels):
    """x + K_1 (x + K_2 (x + …))."""
    layers: list = []
    for kernel in reversed(kernels):
        layers = [total([], [*layers, conv(kernel)])]
    return layers


def skew(rng):
    kernel = rng.normal(size=(3, 3, 3, 3)) / 6
    return kernel - np.flip(kernel, (0, 1)).swapaxes(2, 3)


def true_norm(layer, own, shape):
    unknowns = int(np.prod(shape))
    with jax.enable_x64(True):
        rows = np.asarray(layer.evaluate(own, np.eye(unknowns).reshape(unknowns, *shape))).reshape(unknowns, -1)
    return np.linalg.norm(rows, 2)


@pytest.mark.parametrize("off", [0.0, 1e-7, 1e-6])
def test_the_bound_of_a_nest_is_attained_and_never_exceeded(off, rng):
    """Of kernels that are multiples of one but for rounding, and for more than that."""
    first, shape = skew(rng), (4, 5, 3)
    kernels = [c * first * (1 + off * rng.choice([-1, 1], size=first.shape)) for c in (1.0, 0.6, -0.2)]
    kernels[0] = first
    layer, own = plain.read(nest(kernels), shape)
    ((name, found),) = layer.layers
    bound, _ = nest_bound(found, {"params": own["params"][name]}, shape)
    true = true_norm(layer, own, shape)
    assert true <= bound <= true * (1.01 + 100 * off)


def test_what_kernels_are_off_multiples_of_the_first_counts():
    """1×1, so that the norm is known to 1e-6: the polynomial alone would be below the true norm."""
    first = 2 * np.array([[0.0, 1.0], [-1.0, 0.0]])[None, None]
    second = -first * np.array([[1.0, 1.0], [1 + 9e-6, 1.0]])
    layer, own = plain.read(nest([first, second]), (2, 2, 2))
    ((name, found),) = layer.layers
    bound, _ = nest_bound(found, {"params": own["params"][name]}, (2, 2, 2))
    exact, _ = nest_bound(*_read(nest([first, -first])), (2, 2, 2))
    true = true_norm(layer, own, (2, 2, 2))
    assert exact < true <= bound <= true * (1 + 1e-4)


def _read(description):
    layer, own = plain.read(description, (2, 2, 2))
    ((name, found),) = layer.layers
    return found, {"params": own["params"][name]}


def test_what_is_no_such_nest_is_not_taken_for_one(rng):
    first, shape = skew(rng), (4, 5, 3)
    others = {
        "another kernel": nest([first, skew(rng)]),
        "not skew": nest([rng.normal(size=(3, 3, 3, 3))] * 2),
        "off": nest([first, first * (1 + 1e-4 * rng.choice([-1, 1], size=first.shape))]),
        "bias": [total([], [conv(first, np.ones(3))])],
        "cut": [total([], [conv(first, padding=((2, 0), (1, 1)))])],
        "two": [total([], [], [conv(first)])],
    }
    for name, description in others.items():
        layer, own = plain.read(description, shape)
        place, found = layer.layers[0]
        assert nest_bound(found, {"params": own["params"][place]}, shape) is None, name


@pytest.mark.parametrize(("columns", "size"), [(4, 1e-4), (4, 0.3), (12, 1e-4), (12, 0.3)])
def test_the_bound_of_a_shift_is_attained_where_rotations_are_too_long(columns, size):
    """As of `ShiftMixing`; of twelve columns on eight channels, of which the first eight alone reach a channel."""
    rotation, shape = (1 + size) ** 0.5 * np.eye(8, columns), (2, 2, 8)
    moved = total([{"kind": "shift", "count": columns}], [affine(-1.0)])
    layers = [matrix(rotation, None, shape), moved, matrix(rotation.T, None, shape)]
    layer, own = plain.read([total([], layers)], shape)
    place, found = layer.layers[0]
    bound, _ = shift_bound(found, {"params": own["params"][place]}, shape)
    true = true_norm(layer, own, shape)
    assert true <= bound <= true + 1e-3 * size


def test_shifts_of_channels_that_are_not_rotated_back_are_not_taken_for_such(rng):
    rotation, shape = np.linalg.qr(rng.normal(size=(8, 4)))[0], (3, 3, 8)
    moved = total([{"kind": "shift", "count": 4}], [affine(-1.0)])
    more = total([{"kind": "shift", "count": 4}], [affine(-1.5)])
    for middle, back, known in [(moved, rotation, True), (more, rotation, False), (moved, 1.01 * rotation, False)]:
        layers = [matrix(rotation, None, shape), middle, matrix(back.T, None, shape)]
        layer, own = plain.read([total([], layers)], shape)
        place, found = layer.layers[0]
        bound = shift_bound(found, {"params": own["params"][place]}, shape)
        assert (bound is not None) == known
        assert not known or true_norm(layer, own, shape) <= bound[0] <= 1 + 1e-9
