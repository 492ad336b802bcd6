import math

import numpy as np
import pytest

from lipjax import ops


def modulus(polynomial, t):
    value = np.ones_like(t, dtype=complex)
    for c in reversed(polynomial.coefficients):
        value = 1 + c * 1j * t * value
    return np.abs(polynomial.scale * value)


def test_taylor_is_the_truncated_exponential():
    z = np.linspace(-1, 1, 9) * (1 + 1j)
    nested = np.ones_like(z)
    for c in reversed(ops.taylor(6).coefficients):
        nested = 1 + c * z * nested
    np.testing.assert_allclose(nested, sum(z**k / math.factorial(k) for k in range(6)), rtol=1e-14)


@pytest.mark.parametrize("norm", [0.0, 0.1, 1.0, 1.9, 2.4, 2.8, 3.0])
@pytest.mark.parametrize(
    "polynomial", [ops.taylor(2), ops.taylor(6), ops.taylor(15), ops.Polynomial((1, 0.5044, 0.2933, 0.1854), 0.997)]
)
def test_gain_encloses_the_range_and_is_attained(polynomial, norm):
    lowest, highest = polynomial.gain(norm)
    sampled = modulus(polynomial, np.linspace(0, norm, 20001))
    assert lowest <= sampled.min() + 1e-15
    assert highest >= sampled.max() - 1e-15
    # A grid of 20,001 points misses an extremum by at most h²/8 max|q''|, below 1e-7 on [0, 3].
    assert lowest >= sampled.min() - 1e-7
    assert highest <= sampled.max() + 1e-7


def test_gain_finds_a_narrow_peak_that_ends_and_midpoint_miss():
    polynomial = ops.taylor(6)
    t = np.linspace(0, 2.8, 2000001)
    assert polynomial.gain(2.8)[1] >= modulus(polynomial, t).max()
    assert polynomial.gain(2.8)[1] > max(modulus(polynomial, np.array([0.0, 1.4, 2.8]))) + 5e-4


def test_gain_of_random_polynomials(rng):
    for _ in range(50):
        polynomial = ops.Polynomial(tuple(rng.normal(size=rng.integers(1, 9))), rng.uniform(0.5, 2))
        norm = rng.uniform(0.1, 3)
        sampled = modulus(polynomial, np.linspace(0, norm, 4001))
        lowest, highest = polynomial.gain(norm)
        assert lowest <= sampled.min() * (1 + 1e-14)
        assert highest >= sampled.max() * (1 - 1e-14)
        assert highest <= sampled.max() * (1 + 1e-4)


def test_gain_beyond_the_range_of_floats():
    lowest, highest = ops.taylor(15).gain(1e30)
    assert highest == np.inf
    assert 0 <= lowest < np.inf


def test_hashable_by_value():
    assert {ops.taylor(6): 1}[ops.taylor(6)] == 1
    assert hash(ops.taylor(6)) != hash(ops.taylor(7))
    assert ops.Polynomial([np.float64(1), 0.5]) == ops.Polynomial((1.0, 0.5))


@pytest.mark.parametrize(
    "call", [lambda: ops.taylor(1), lambda: ops.Polynomial(()), lambda: ops.Polynomial((math.nan,))]
)
def test_bad_polynomials(call):
    with pytest.raises(ValueError, match="terms must be at least 2|coefficients and scale must be finite"):
        call()


@pytest.mark.parametrize("norm", [-1.0, math.nan, math.inf])
def test_bad_norm(norm):
    with pytest.raises(ValueError, match="norm must be finite and >= 0"):
        ops.taylor(6).gain(norm)
