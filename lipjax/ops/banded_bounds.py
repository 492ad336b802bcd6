"""A proven bound of convolutions that are too large for their matrix, by block rows: exact to 0.1 %, for any border.

Output row i reads the input row r(i, a) by tap a, with a matrix T_a, (W C, W' C'), of a row of taps, 0 where that row
is padding; so the Gram matrix has the blocks

    G[y, y'] = Σ_{i, a, a'} T_a T_a'ᵀ over r(i, a) = y, r(i, a') = y',

or, of the adjoint, G[i, i'] = Σ_{a, a'} T_aᵀ T_a' over r(i, a) = r(i', a').  They vanish for |y − y'| > b, a few rows,
unless the image is padded circularly.  ‖K‖ <= s if s² I − G factorises, which takes a window of b + 1 rows of blocks at
a time: n (b + 1)² w³ operations for n rows of blocks of side w.

Rounding.  With sums of at most m = (b + 1) w terms in the factorisation, of at most p products in G, N = n w and
γ(n) = (8n + 64) u / (1 − (8n + 64) u), success proves (Higham, theorems 10.3 and 3.5)

    ‖K‖² <= s² + γ(m) tr(s² I − G) + γ(p) ‖K‖_F² (1 + γ(p)) <= s² + γ(m) N s² + 2 γ(p) tr(G).
"""

import dataclasses
import itertools
import math
from collections import defaultdict

import numpy as np
import scipy.linalg

from lipjax.ops.plain_conv import Geometry, Operator, Pair
from lipjax.ops.symbols import backward_error

_EPS = float(np.finfo(np.float64).eps)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The block rows of a Gram matrix.

    Attributes:
      geometry, size: of the convolution, with rows and columns exchanged where `is_turned`.
      is_adjoint: whether the Gram matrix is that of the outputs.
      pairs: (y, y'), y >= y' → the (a, a') of the sum.
      count, side: n and w.
    """

    geometry: Geometry
    size: Pair
    is_turned: bool
    is_adjoint: bool
    pairs: dict[Pair, list[Pair]]
    count: int
    side: int

    @property
    def band(self) -> int:
        """b."""
        return max((y - z for y, z in self.pairs), default=0)

    @property
    def work(self) -> float:
        """Multiplications, to a factor."""
        return float(self.count) * (self.band + 1) ** 2 * self.side**3

    def products(self, columns: int) -> int:
        """The most products that an entry of G is a sum of, p, each T with so many columns, or rows."""
        return max((len(taps) for taps in self.pairs.values()), default=0) * columns


def best_rows(kernel_shape: tuple[int, ...], geometry: Geometry, size: Pair) -> Rows:
    """Those of the least work, of both orientations and of inputs and outputs."""
    turned = dataclasses.replace(
        geometry, stride=geometry.stride[::-1], padding=geometry.padding[::-1], dilation=geometry.dilation[::-1]
    )
    found = []
    for is_turned, its, sides, taps in (
        (False, geometry, size, kernel_shape[:2]),
        (True, turned, size[::-1], kernel_shape[1::-1]),
    ):
        rows, columns = its.reads((taps[0], taps[1]), (sides[0], sides[1]))
        outputs = len(columns) * kernel_shape[3] // geometry.groups
        for is_adjoint, count, side in ((False, sides[0], sides[1] * kernel_shape[2]), (True, len(rows), outputs)):
            pairs = _pairs(rows, is_adjoint)
            found.append(Rows(its, (sides[0], sides[1]), is_turned, is_adjoint, pairs, count, side))
    return min(found, key=lambda each: each.work)


def _pairs(rows: np.ndarray, is_adjoint: bool) -> dict[Pair, list[Pair]]:
    """Which taps meet in which block."""
    meeting: dict[int, list[Pair]] = defaultdict(list)  # (block, tap) of those that do
    for (i, a), y in np.ndenumerate(rows):
        if y >= 0:
            key, block = (int(y), i) if is_adjoint else (i, int(y))
            meeting[key].append((block, a))
    found: dict[Pair, list[Pair]] = defaultdict(list)
    for readers in meeting.values():
        for (y, a), (z, b) in itertools.product(readers, readers):
            if y >= z:
                found[y, z].append((a, b))
    return dict(found)


def banded_norm_bound(kernel: np.ndarray, rows: Rows, estimate: float) -> float:
    """An upper bound of the norm of a convolution without groups, 1.001 times the estimate, positive, at least.

    kernel: (k, l, C, C') float64, entries in [−1, 1], of the image as it was before rows and columns were exchanged.
    """
    kernel = kernel.swapaxes(0, 1) if rows.is_turned else kernel
    taps = _tap_matrices(kernel, rows)
    taps = [tap.T for tap in taps] if rows.is_adjoint else taps
    grams = {
        pair: taps[pair[0]] @ taps[pair[1]].T for pair in {pair for pairs in rows.pairs.values() for pair in pairs}
    }
    trace = sum(float(np.trace(grams[pair])) for y in range(rows.count) for pair in rows.pairs.get((y, y), ()))
    margin, of_gram = 1e-3, 2 * backward_error(rows.products(taps[0].shape[1])) * max(trace, 0.0)
    while True:
        shift = (estimate * (1 + margin)) ** 2
        if _is_above(shift, rows, grams):
            unknowns = rows.count * rows.side
            squared = shift * (1 + unknowns * backward_error((rows.band + 1) * rows.side)) + of_gram
            return math.sqrt(squared) * (1 + 8 * _EPS)
        margin *= 1.5


def _tap_matrices(kernel: np.ndarray, rows: Rows) -> list[np.ndarray]:
    """T_a, (W C, W' C'): the convolution of one row of the image with one row of the kernel."""
    its = rows.geometry
    along = Geometry((1, its.stride[1]), ((0, 0), its.padding[1]), its.mode, (1, its.dilation[1]))
    return [Operator(tap[None], along, (1, rows.size[1])).matrix(0) for tap in kernel]


def _is_above(shift: float, rows: Rows, grams: dict[Pair, np.ndarray]) -> bool:
    """Whether shift · I − G factorises, a window of block rows at a time."""
    side, band, count = rows.side, rows.band, rows.count
    window = np.zeros(((band + 1) * side,) * 2)

    def fill(y):  # the blocks of row y, in the last row of the window
        for z in range(max(y - band, 0), y + 1):
            place = (band - (y - z)) * side
            block = window[-side:, place : place + side]
            for pair in rows.pairs.get((y, z), ()):
                block -= grams[pair]
            if y == z:
                block[np.diag_indices(side)] += shift

    for y in range(count + band):  # rows of zeros come after the image, so that the last blocks are factorised, too
        window[:-side, :-side] = window[side:, side:]
        window[-side:] = 0
        if y < count:
            fill(y)
        if y >= band:
            factor, failed = scipy.linalg.lapack.dpotrf(window[:side, :side], lower=1, clean=1)
            if failed:
                return False
            if band:
                half = scipy.linalg.solve_triangular(factor, window[side:, :side].T, lower=True, check_finite=False)
                window[side:, side:] -= half.T @ half
    return True
