"""What floating point does to a layer: how far the executed map is from the one in real arithmetic.

The executed layer f̃ maps an array v of floating-point numbers to f̃(v) with

    ‖f̃(v) − f(v)‖ <= relative ‖v‖ + absolute,

in any order in which the sums of a block are added up, with or without fused multiply-add (docs/soundness.md).  Both
numbers are for float64, of unit roundoff u = 2^−53; in an arithmetic of unit roundoff t u, up to that of float32, t
times as much.  So what is of higher order in u is counted with the roundoff of float32.

Sums, products, quotients and comparisons are those of IEEE 754; √ is within SQUARE_ROOT, cos and sin within SINE units
of roundoff, which is more than the libraries of any backend state.  Numbers below the normal range may be flushed to 0.
"""

import math
from typing import NamedTuple

import numpy as np

ROUNDOFF = 2.0**-53
COARSEST = 2.0**29  # the roundoff of float32 in units of that of float64
SQUARE_ROOT = 2.0
LARGEST = 1e140  # numbers whose squares, and sums of those, are in the range of float64
SINE = 4.0

# Each bound here is a sum of products of a few positive numbers: its own float64 rounding is far below this part of it.
_ENLARGED = 1 + 1e-9

# The smallest normal number of float32 and its square root, in the units above (of float64: 1e-291 and 1e-137).
_TINY = 2.0**-126 / COARSEST
_ROOT_OF_TINY = 2.0**-63 / COARSEST


def largest(dtype) -> float:
    """The largest number of float32 or float64 whose square, and sums of such squares, are in its range."""
    return 1e18 if np.dtype(dtype) == np.float32 else LARGEST


class Rounding(NamedTuple):
    """‖f̃(v) − f(v)‖ <= relative ‖v‖ + absolute."""

    relative: float
    absolute: float


EXACT = Rounding(0.0, 0.0)


def gamma(count: float) -> float:
    """A bound of |(1 + δ_1) … (1 + δ_count) − 1| for |δ_i| <= u: count u / (1 − count u)."""
    spread = count * ROUNDOFF * COARSEST
    if not spread < 0.5:
        raise ValueError(f"sums of {count:.3g} roundings are beyond what is proven of float32")
    return count * ROUNDOFF / (1 - spread) * _ENLARGED


def enlarged(relative: float, absolute: float) -> Rounding:
    """The rounding that a formula gives, with room for the rounding of the formula itself."""
    return Rounding(relative * _ENLARGED, absolute * _ENLARGED)


def underflow(entries: int, operations: float) -> float:
    """A bound of the norm of what underflow costs `entries` numbers, each made by so many operations."""
    return _TINY * operations * math.sqrt(entries)


def underflow_of_squares(entries: int, terms: int) -> float:
    """The same for roots of sums of so many squares."""
    return _ROOT_OF_TINY * math.sqrt(2 * terms * entries)


def moved(entries: int) -> Rounding:
    """Of a map that moves numbers, or takes the larger or smaller one: subnormal ones may come out as 0."""
    return Rounding(0.0, underflow(entries, 2))
