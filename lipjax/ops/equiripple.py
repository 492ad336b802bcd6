"""Equiripple polynomials: the |p(it)| nearest to a constant on an interval, for a given number of convolutions.

Nothing asks an orthogonal layer for the exponential; it asks for |p(it)| ≈ 1 wherever the operator has eigenvalues it.
The best error alternates, and a polynomial of degree d in t² that alternates d + 1 times on [0, σ²] is a Chebyshev one;
to be a squared modulus it must end upwards:

    |p(it)|² = 1 + (−1)^d e T_d(1 − 2 t²/σ²).

So p is a Chebyshev filter.  Its zeros are explicit: with η = arccosh(1/e),

    z = ± σ sinh(θ/2),    θ = (η + iπ (2k + 1 − d mod 2)) / d,    k = 0 … d − 1,

and any choice of one zero of each ± pair has the same |p(it)|.  With all of them in the left half-plane, as
the zeros of the series of exp tend to lie, c_1 = p'(0)/p(0) = −Σ 1/z is largest for the given e.  From e = 0 it grows;
the e at which it is 1 makes p a rotation of the same reach as exp, nested c_1 = 1, with the smallest ripple.

Where the degree is low for the interval (degree 2 from norm 1, 4 from norm 2.5) no e reaches c_1 = 1, or only one past
the best.  Where the ripple is not small the few free coefficients are therefore also sought directly, from Taylor's.
"""

import functools
import math

import numpy as np
import scipy.optimize

from lipjax.ops.polynomials import Polynomial, taylor

DEGREES = (2, 10)
NORMS = (0.5, 3.0)
_SMALL_RIPPLE = 1e-2
_LOG_RIPPLES = np.linspace(math.log(1e-28), math.log(0.9), 400)


def equiripple(degree: int, norm: float) -> Polynomial:
    """The polynomial with c_1 = 1 whose |p(it)| varies least over 0 <= t <= norm, scaled to max |p(it)| <= 1 there.

    Its defect, 1 − min |p| / max |p| on [0, norm], is 9.7e-4 at degree 4 and norm 1.9, where Taylor's is 0.2.

    Args:
      degree: number of applications of A, 2 to 10.
      norm: end of the interval, 0.5 to 3; kept as `Polynomial.norm`.

    Raises:
      ValueError: degree or norm outside these ranges.
    """
    is_integer = isinstance(degree, int | np.integer) and not isinstance(degree, bool)
    if not (is_integer and DEGREES[0] <= degree <= DEGREES[1]):
        raise ValueError(f"equiripple: degree must be an integer from {DEGREES[0]} to {DEGREES[1]}, got {degree!r}")
    if not NORMS[0] <= norm <= NORMS[1]:
        raise ValueError(f"equiripple: norm must be in [{NORMS[0]}, {NORMS[1]}], got {norm!r}")
    return _equiripple(int(degree), float(norm))


@functools.lru_cache(maxsize=1024)
def _equiripple(degree: int, norm: float) -> Polynomial:
    candidates = []
    ripple = _ripple(degree, norm)
    if ripple is not None:
        expanded = np.poly(_zeros(degree, norm, ripple)).real[::-1]
        candidates.append((1.0, *expanded[2:] / expanded[1:-1]))
    if ripple is None or ripple > _SMALL_RIPPLE:
        candidates.append(_direct_search(degree, norm))
    coefficients = min(candidates, key=lambda c: _spread(c, norm))
    scale = 1 / Polynomial(coefficients).gain(norm)[1]
    while Polynomial(coefficients, scale).gain(norm)[1] > 1:
        scale = math.nextafter(scale, 0)
    return Polynomial(coefficients, scale, norm)


def _ripple(degree: int, norm: float) -> float | None:
    """The smallest e with c_1 = 1, if there is one."""

    def excess(log_ripple):
        return -np.sum(1 / _zeros(degree, norm, math.exp(log_ripple))).real - 1

    above = next((i for i, x in enumerate(_LOG_RIPPLES) if excess(x) > 0), None)
    if above is None:
        return None
    return math.exp(scipy.optimize.brentq(excess, _LOG_RIPPLES[above - 1], _LOG_RIPPLES[above], xtol=1e-14))


def _zeros(degree: int, norm: float, ripple: float) -> np.ndarray:
    theta = (math.acosh(1 / ripple) + 1j * math.pi * (2 * np.arange(degree) + 1 - degree % 2)) / degree
    zeros = norm * np.sinh(theta / 2)
    return np.where(zeros.real > 0, -zeros, zeros)


def _direct_search(degree: int, norm: float) -> tuple[float, ...]:
    """Nested coefficients (1, c_2, …) of the least spread near Taylor's, by Nelder and Mead's method, started twice."""
    free = np.array(taylor(degree + 1).coefficients[1:])
    options = {"xatol": 1e-10, "fatol": 1e-12, "maxiter": 4000, "maxfev": 4000}
    for _ in range(2):
        found = scipy.optimize.minimize(lambda c: _spread((1.0, *c), norm), free, method="Nelder-Mead", options=options)
        free = found.x
    return (1.0, *free)


def _spread(coefficients: tuple[float, ...], norm: float) -> float:
    """log(max |p| / min |p|) over a grid of [0, norm]."""
    z = 1j * norm * np.linspace(0, 1, 400)
    p = np.ones_like(z)
    for c in reversed(coefficients):
        p = 1 + c * z * p
    return float(np.ptp(np.log(np.abs(p))))
