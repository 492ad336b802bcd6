"""Nested polynomials p(A) x = s [x + c1 A (x + c2 A (x + ... cd A x))] and the exact range of |p(it)|.

A skew-symmetric operator A has eigenvalues iλ, so the singular values of p(A) are exactly |p(iλ)|, and

    Lip(x -> p(A) x)  <=  max over 0 <= t <= norm of |p(it)|      for every norm >= ‖A‖.

`Polynomial.gain` computes that range without a tolerance: |p(it)|² is a polynomial q in τ = t², and on an interval a
polynomial lies between its smallest and its largest Bernstein coefficient.  Coefficients are floats, hence exact
rationals, and subdivision is done on integers, so nothing is rounded before the final square root.
"""

import dataclasses
import functools
import itertools
import math
from fractions import Fraction

# Bernstein bounds are refined until they lie this close, relative to the scale of q, to a value that q takes.
_RESOLUTION = Fraction(1, 10**15)


@dataclasses.dataclass(frozen=True)
class Polynomial:
    """p(z) = scale · (1 + c1 z (1 + c2 z (1 + ... (1 + cd z)))), with `coefficients` = (c1, ..., cd).

    Hashable by value, so it can be a static argument of a jitted function.

    `norm` is the end of the interval [0, norm] that the polynomial was made for, None if it was made for none.  Layers
    read it: they hold ‖A‖ inside that interval (see `layers.SkewOrthogonalConv`).

    Raises:
      ValueError: no coefficient, a coefficient or scale that is not finite, or a norm that is not positive and finite.
    """

    coefficients: tuple[float, ...]
    scale: float = 1.0
    norm: float | None = None

    def __post_init__(self):
        object.__setattr__(self, "coefficients", tuple(float(c) for c in self.coefficients))
        object.__setattr__(self, "scale", float(self.scale))
        if self.norm is not None:
            object.__setattr__(self, "norm", float(self.norm))
            if not (math.isfinite(self.norm) and self.norm > 0):
                raise ValueError(f"Polynomial: norm must be None or positive and finite, got {self}")
        if not self.coefficients or not all(map(math.isfinite, (*self.coefficients, self.scale))):
            raise ValueError(f"Polynomial: coefficients and scale must be finite, at least one coefficient; got {self}")

    @property
    def degree(self) -> int:
        """Degree of p, which is the number of times the operator A is applied."""
        return len(self.coefficients)

    def gain(self, norm: float) -> tuple[float, float]:
        """(lowest, highest) of |p(it)| over 0 <= t <= norm, scale included.

        Proven: the pair encloses the true range; |p|² at its ends is off by about 1e-15 of its scale only.

        Raises:
          ValueError: norm negative or not finite.
        """
        norm = float(norm)
        if not (math.isfinite(norm) and norm >= 0):
            raise ValueError(f"Polynomial.gain: norm must be finite and >= 0, got {norm}")
        return _gain(self, norm)


def taylor(terms: int) -> Polynomial:
    """The first `terms` terms of the exponential series (paper, equation 1): c_j = 1/j for j < terms, scale 1.

    The paper trains with 6 terms and evaluates with 15; the degree is terms − 1.

    Raises:
      ValueError: fewer than 2 terms.
    """
    if terms < 2:
        raise ValueError(f"taylor: terms must be at least 2, got {terms}")
    return Polynomial(tuple(1.0 / j for j in range(1, terms)))


@functools.lru_cache(maxsize=4096)
def _gain(polynomial: Polynomial, norm: float) -> tuple[float, float]:
    bernstein = _bernstein(_squared_modulus(polynomial), Fraction(norm) ** 2)
    highest = _upper_bound(bernstein)
    lowest = max(-_upper_bound([-b for b in bernstein]), Fraction(0))
    return _sqrt_below(lowest), _sqrt_above(highest)


def _squared_modulus(polynomial: Polynomial) -> list[Fraction]:
    """Coefficients of q with q(t²) = |p(it)|²: with p = Σ a_k z^k, q = (Σ ±a_2j τ^j)² + τ (Σ ±a_2j+1 τ^j)²."""
    expanded = [Fraction(polynomial.scale)]
    for c in polynomial.coefficients:
        expanded.append(expanded[-1] * Fraction(c))
    squared = [Fraction(0)] * (polynomial.degree + 1)
    for parity in (0, 1):
        part = [(-1) ** j * a for j, a in enumerate(expanded[parity::2])]
        for i, a in enumerate(part):
            for j, b in enumerate(part):
                squared[i + j + parity] += a * b
    return squared


def _bernstein(coefficients: list[Fraction], length: Fraction) -> list[Fraction]:
    """Bernstein coefficients on [0, length] of Σ coefficients[k] τ^k."""
    degree = len(coefficients) - 1
    scaled = [q * length**k / math.comb(degree, k) for k, q in enumerate(coefficients)]
    return [sum((math.comb(i, k) * scaled[k] for k in range(i + 1)), Fraction(0)) for i in range(degree + 1)]


def _upper_bound(bernstein: list[Fraction]) -> Fraction:
    """An upper bound of the polynomial, above its maximum by _RESOLUTION at most.

    Depth-first subdivision by de Casteljau's scheme at the midpoint; an interval is dropped once its largest
    coefficient cannot exceed the largest value seen by more than the resolution.
    """
    denominator = math.lcm(*(b.denominator for b in bernstein))
    degree = len(bernstein) - 1
    tolerance = _RESOLUTION * max(abs(b) for b in bernstein)
    seen = max(bernstein[0], bernstein[-1])
    intervals = [([int(b * denominator) for b in bernstein], denominator)]
    while intervals:
        values, denominator = intervals.pop()
        seen = max(seen, Fraction(values[0], denominator), Fraction(values[-1], denominator))
        if Fraction(max(values), denominator) <= seen + tolerance:
            continue
        left, right = [values[0] << degree], [values[-1] << degree]
        for level in range(1, degree + 1):
            values = [a + b for a, b in itertools.pairwise(values)]
            left.append(values[0] << (degree - level))
            right.append(values[-1] << (degree - level))
        intervals += [(left, denominator << degree), (right[::-1], denominator << degree)]
    return seen + tolerance


def _sqrt_above(value: Fraction) -> float:
    try:
        return math.nextafter(math.sqrt(math.nextafter(float(value), math.inf)), math.inf)
    except OverflowError:
        return math.inf


def _sqrt_below(value: Fraction) -> float:
    if value > Fraction(float(2**1000)):
        return 2.0**500  # beyond the range of float64; a valid lower end
    return max(math.nextafter(math.sqrt(max(math.nextafter(float(value), -math.inf), 0.0)), -math.inf), 0.0)
