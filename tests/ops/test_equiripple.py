import math

import numpy as np
import pytest
import scipy.optimize

from lipjax import ops
from lipjax.ops.equiripple import _spread

NORMS = (0.5, 0.8, 1.0, 1.4, 1.5, 1.9, 2.0, 2.4, 2.7, 3.0)


def defect(polynomial, norm):
    lowest, highest = polynomial.gain(norm)
    return 1 - lowest / highest


@pytest.mark.parametrize("norm", NORMS)
def test_defect_decreases_with_the_degree_and_beats_taylor(norm):
    defects = [defect(ops.equiripple(degree, norm), norm) for degree in range(2, 11)]
    for degree, (here, above) in enumerate(zip(defects, [1.0, *defects], strict=False), 2):
        assert here <= max(0.9 * above, 1e-13)
        # Both are at the resolution of `gain` in the corner of high degrees and short intervals.
        assert here <= max(defect(ops.taylor(degree + 1), norm), 3e-15)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("degree", range(2, 11))
def test_scaled_to_one_on_the_interval(degree, norm):
    polynomial = ops.equiripple(degree, norm)
    assert polynomial.degree == degree
    assert polynomial.norm == norm
    assert polynomial.coefficients[0] == 1.0
    highest = polynomial.gain(norm)[1]
    assert 1 - 1e-14 <= highest <= 1
    if degree < 6:
        assert polynomial.gain(1.3 * norm)[1] > 1


@pytest.mark.parametrize(
    ("degree", "norm", "figure"),
    [
        *[(3, 1.0, 3.6e-4), (4, 1.0, 2.4e-6), (5, 1.0, 1.7e-8)],
        *[(3, 1.5, 4.8e-3), (4, 1.5, 7.0e-5), (5, 1.5, 6.2e-7)],
        *[(3, 2.0, 2.9e-2), (4, 2.0, 8.8e-4), (5, 2.0, 1.3e-5), (6, 2.0, 1.4e-7)],
    ],
)
def test_defect_is_below_that_of_the_best_deviation_from_one(degree, norm, figure):
    """The prototype's max ||p| − 1| before scaling, by sequential linear programming: its defect is twice as large."""
    assert 0.9 * figure < defect(ops.equiripple(degree, norm), norm) < 2 * figure


@pytest.mark.parametrize(("degree", "norm"), [(3, 1.4), (4, 1.0), (4, 1.957), (4, 2.4), (5, 1.9), (5, 2.4), (7, 3.0)])
def test_error_alternates(degree, norm):
    polynomial = ops.equiripple(degree, norm)
    t = norm * np.sqrt((1 - np.cos(np.linspace(0, np.pi, 20001))) / 2)
    p = polynomial.scale * np.ones_like(t, complex)
    nested = np.ones_like(p)
    for c in reversed(polynomial.coefficients):
        nested = 1 + 1j * t * c * nested
    squared = np.abs(p * nested) ** 2
    middle, ripple = (squared.max() + squared.min()) / 2, np.ptp(squared) / 2
    at_end = np.flatnonzero(np.abs(squared - middle) > 0.999 * ripple)
    signs = np.sign(squared[at_end] - middle)
    assert np.count_nonzero(np.diff(signs)) == degree  # d + 1 alternations


@pytest.mark.parametrize(("degree", "norm"), [(2, 0.7), (2, 1.9), (3, 1.4), (4, 1.9), (4, 2.6), (4, 3.0), (5, 2.4)])
def test_no_better_polynomial_is_found(degree, norm):
    """Differential evolution over the free coefficients, which knows nothing of Chebyshev."""
    best = _spread(ops.equiripple(degree, norm).coefficients, norm)
    found = scipy.optimize.differential_evolution(
        lambda free: _spread((1.0, *free), norm), [(0.0, 1.0)] * (degree - 1), seed=0, maxiter=200, tol=1e-8
    )
    assert best <= found.fun * (1 + 1e-3)


def test_phase_stays_near_that_of_the_exponential():
    polynomial = ops.equiripple(4, 1.957)
    t = np.linspace(0.01, 1.957, 100)
    value = np.ones_like(t, complex)
    for c in reversed(polynomial.coefficients):
        value = 1 + 1j * t * c * value
    assert np.abs(np.angle(value) / t - 1).max() < 0.1


def test_cached_and_hashable():
    assert ops.equiripple(4, 1.9) is ops.equiripple(np.int64(4), 1.9)
    assert len({ops.equiripple(4, 1.9), ops.equiripple(4, 1.9), ops.equiripple(4, 2.0)}) == 2


@pytest.mark.parametrize("degree", [1, 0, 11, 4.0, True, "4"])
def test_bad_degree(degree):
    with pytest.raises(ValueError, match="degree must be an integer from 2 to 10, got"):
        ops.equiripple(degree, 1.0)


@pytest.mark.parametrize("norm", [0.49, 3.01, math.nan, -1.0])
def test_bad_norm(norm):
    with pytest.raises(ValueError, match=r"norm must be in \[0.5, 3.0\], got"):
        ops.equiripple(4, norm)
