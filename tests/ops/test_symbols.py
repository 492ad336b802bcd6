"""Bounds by symbols: never below the norm of the padded convolution, near it on images of some pixels."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from lipjax import ops
from lipjax.ops import bounds, symbols
from lipjax.ops.bounds import general_norm_bound
from lipjax.ops.convolution import dense_operator
from lipjax.ops.estimates import conv_norm_estimate


@pytest.fixture(autouse=True, scope="module")
def _one_blas_thread():
    with threadpool_limits(1):
        yield


def true_norm(kernel, size):
    return np.linalg.norm(dense_operator(kernel, *size), 2)


def smooth(rng, k, c, d):
    taps = {1: ([1.0],) * 2, 3: ([0.5, 1, 0.5], [-1, 0, 1]), 5: ([0.2, 0.7, 1, 0.7, 0.2], [-1, -2, 0, 2, 1])}[k]
    return np.einsum("a,b,io->abio", taps[rng.integers(2)], taps[rng.integers(2)], rng.normal(size=(c, d)))


@pytest.mark.parametrize("estimated", [1.0, 0.9])
@pytest.mark.parametrize("kind", ["random", "smooth", "near the identity"])
def test_never_below_the_true_norm(kind, estimated, rng, monkeypatch):
    """Also where the estimate is low, so that all is left to the proof."""
    monkeypatch.setattr(symbols, "conv_norm_estimate", lambda *a: estimated * conv_norm_estimate(*a))
    for _ in range(40):
        k, (c, d), size = int(rng.choice([1, 3, 5])), rng.integers(1, 5, 2), tuple(map(int, rng.integers(1, 9, 2)))
        kernel = (
            smooth(rng, k, c, d) if kind == "smooth" else rng.normal(size=(k, k, c, d)) * 10.0 ** rng.integers(-3, 4)
        )
        if kind == "near the identity":
            kernel = 0.1 * kernel / np.abs(kernel).max()
            kernel[k // 2, k // 2] += np.eye(c, d)
        assert true_norm(kernel, size) <= general_norm_bound(kernel, size)


@pytest.mark.parametrize("taps", [[-1, 0, 1], [1, 2, 1], [0, 0, 1], [1, 0.5, -1]])
@pytest.mark.parametrize("size", [(2, 3), (3, 3), (7, 4), (1, 6)])
def test_every_point_of_the_grid_counts(taps, size, monkeypatch):
    """One frequency decides here: a grid one point short, or without one of its points, bounds too little."""
    monkeypatch.setattr(symbols, "conv_norm_estimate", lambda *a: 0.1)
    kernel = np.multiply.outer(np.outer(taps, taps), np.eye(1))
    true = true_norm(kernel, size)
    assert true <= general_norm_bound(kernel, size)
    if taps == [1, 2, 1]:  # the twist half a turn a side puts the grid half a step from the peak: exact
        assert general_norm_bound(kernel, size) <= 1.26 * true


@pytest.mark.parametrize(("size", "limit"), [((8, 8), 1.06), ((16, 16), 1.02), ((12, 20), 1.02)])
def test_ratio(size, limit, rng):
    for kernel in (rng.normal(size=(3, 3, 12, 12)), 0.1 * rng.normal(size=(3, 3, 12, 12))):
        kernel[1, 1] += np.eye(12)
        found = conv_norm_estimate(kernel, size)
        assert found * (1 - 1e-3) <= general_norm_bound(kernel, size) <= limit * found


def test_half_of_a_symmetric_grid_is_enough(rng):
    """With θ, θ' = 0 or half a turn −1 maps the grid to itself, and what is left out is conjugate."""
    for size in [(4, 4), (5, 3), (6, 5)]:
        kernel = rng.normal(size=(3, 3, 2, 2))
        sides = symbols.points(kernel.shape, size)
        for twists in [(0, 0), (0, 4), (4, 0), (4, 4)]:
            kept = [index for index in np.ndindex(*sides) if symbols._is_first(index, twists, sides)]
            at = [2 * np.pi * (np.arange(m) + t / 8) / m for m, t in zip(sides, twists, strict=True)]

            def norms(indices, at=at, kernel=kernel):
                return {round(np.linalg.norm(symbols._symbol(kernel, (at[0][i], at[1][j])), 2), 9) for i, j in indices}

            assert norms(kept) == norms(np.ndindex(*sides))
            assert len(kept) <= (np.prod(sides) + 4) / 2


def test_the_stated_rounding_is_no_less_than_what_the_bound_allows(monkeypatch):
    with_rounding, allowed = symbols._with_rounding, []
    monkeypatch.setattr(symbols, "_with_rounding", lambda *a: allowed.append(with_rounding(*a) / a[1] - 1) or 1.0)
    for shape in [(3, 3, 90, 80), (5, 5, 12, 200), (3, 3, 3, 300)]:
        kernel = np.random.default_rng(0).normal(size=shape)
        ops.conv_norm_bound(kernel, 16)
        stated = symbols.rounding(shape)
        assert 0 < allowed[-1] <= stated < 1e-8
        assert f"{stated:.1e}" in bounds.method(shape, 16, is_skew=False)


def test_scales(rng):
    kernel = rng.normal(size=(3, 3, 2, 3))
    for exponent in (-600, 600):
        scaled = general_norm_bound(np.ldexp(kernel, exponent), (4, 5))
        assert scaled == pytest.approx(np.ldexp(general_norm_bound(kernel, (4, 5)), exponent), rel=1e-12)
    assert general_norm_bound(np.zeros((3, 3, 2, 2)), (4, 4)) == 0.0
