"""A proven bound of the norm of zero-padded convolutions of many channels, of any real kernel, by their symbols.

Let rows and columns both wrap around cyclic grids of m >= n + r points, with factors e^{iθ} for each turn: as in
`bounds`, the zero-padded convolution is a compression of that operator, which is block diagonal in the frequencies
ω = ((2πj + θ)/m, (2πj' + θ')/m'), with the blocks

    B(ω) = Σ_{a,b} K[a, b] e^{i(ω_1 a + ω_2 b)},    (C_in, C_out).

Hence ‖K‖ <= s if s² I − B Bᴴ >= 0 at every ω of one grid: so many Gram matrices and Cholesky factorisations of the
smaller side C of B, and none of the 2C channels of a dilation at n rows.  B(−ω) is the conjugate of B(ω), as K is real,
so of a grid that −1 maps to itself (θ, θ' = 0 or π) half is enough.  The least over the twists θ, θ' is taken: the
peak of ‖B‖ then lies between the points of the grid, as it does for a padded image.

Rounding, for entries of K in [−1, 1].  B̃ is off by what phases and sums of k l products are, below e = 32 k l eps
Σ ‖K_ab‖_F.  With c the longer side of B and γ = (8c + 64) u / (1 − (8c + 64) u), the Gram matrix is off by
γ ‖B̃‖_F² <= γ (1 + γ) tr(G̃), and tr(G̃) <= C s², as a factorisation that succeeds has positive pivots; its own backward
error is γ tr(s² I − G̃) <= γ C s² (Higham, theorems 10.3 and 3.5; section 3.6 for complex products).  So success proves

    ‖B‖ <= s (1 + 3 C γ)^½ + e.
"""

import functools
from collections.abc import Iterable

import numpy as np
import scipy.ndimage
from scipy.linalg.blas import zherk
from scipy.linalg.lapack import zpotrf

from lipjax.ops.estimates import conv_norm_estimate

_EPS = float(np.finfo(np.float64).eps)
_TWISTS = 8  # a side
_KEPT = 4  # twists that are tried, of those that promise most
_MAP, _POWER_STEPS = 24, 8  # points a side at which ‖B‖ is estimated, by so many power iterations

_TINY = float(np.finfo(np.float32).tiny)


def symbol_norm_bound(kernel: np.ndarray, size: tuple[int, int]) -> float:
    """An upper bound of the norm of the zero-padded convolution of images (H, W), proven at every frequency of a grid.

    kernel: (k, l, C_in, C_out) float64, k and l odd, not all 0, entries in [−1, 1].
    """
    estimate = max(conv_norm_estimate(kernel, size), 0.5)
    return grid_norm_bound(kernel, points(kernel.shape, size), estimate)


def grid_norm_bound(kernel: np.ndarray, grid: tuple[int, int], estimate: float, twisted: bool = True) -> float:
    """A bound of the norms of the symbols at every frequency of a grid of so many points, of the best of the twists.

    Args:
      kernel: (k, l, C_in, C_out) float64, entries in [−1, 1].
      estimate: positive; the bound is 1.001 times that at least.
      twisted: whether columns and rows may be multiplied by e^{iθ} at each turn; if not, θ = 0.
    """
    kernel = kernel if kernel.shape[2] <= kernel.shape[3] else kernel.swapaxes(2, 3)  # B ↦ Bᵀ: the same norms
    symbol = functools.partial(_symbol, kernel)
    pending = [list(frequencies) for frequencies in _grids(kernel, grid, _TWISTS if twisted else 1)]
    margin = 1e-3
    failed: list[np.ndarray | None] = [None] * len(pending)
    while True:
        bound = estimate * (1 + margin)
        for i, frequencies in enumerate(pending):
            while frequencies:
                known = failed[i]
                gram = _gram(symbol(frequencies[-1])) if known is None else known
                if not _is_above(bound, gram):
                    failed[i] = gram
                    break
                failed[i] = None
                frequencies.pop()
            if not frequencies:
                return _with_rounding(kernel, bound)
        margin *= 1.25


def rounding(shape: tuple[int, ...]) -> float:
    """The largest part of `symbol_norm_bound`, relative to it, that allows for rounding.

    As in `bounds.rounding`: with b the bound, ‖K_ab‖_F <= √C b for each tap.
    """
    taps, smaller = shape[0] * shape[1], min(shape[2:])
    return 2 * smaller * backward_error(max(shape[2:])) + 33 * taps**2 * smaller**0.5 * _EPS


def points(shape: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """Of the grid of a kernel of that shape."""
    return size[0] + shape[0] // 2, size[1] + shape[1] // 2


def _phases(shape: tuple[int, ...], frequency: tuple[float, float]) -> np.ndarray:
    """ω_1 a + ω_2 b of all taps of a kernel of that shape, (k l,)."""
    rows, columns = (np.arange(k) - k // 2 for k in shape[:2])
    return (frequency[0] * rows[:, None] + frequency[1] * columns[None, :]).ravel()


def _symbol(kernel: np.ndarray, frequency: tuple[float, float]) -> np.ndarray:
    """B(ω), (C_in, C_out) complex."""
    phases, symbol = _phases(kernel.shape, frequency), np.empty(kernel.shape[2:], np.complex128)
    taps = kernel.reshape(len(phases), -1)
    symbol.real, symbol.imag = ((wave(phases) @ taps).reshape(symbol.shape) for wave in (np.cos, np.sin))
    return symbol


def _gram(symbol: np.ndarray) -> np.ndarray:
    """The conjugate of −B Bᴴ, of the same spectrum, its lower triangle: in the order that BLAS takes without a copy."""
    return zherk(-1.0, symbol.T, trans=2, lower=1)


def _is_above(bound: float, negated_gram: np.ndarray) -> bool:
    """Whether bound² I − G factorises."""
    trial = negated_gram.copy(order="F")
    trial[np.diag_indices_from(trial)] += bound**2
    return zpotrf(trial, lower=1, clean=0, overwrite_a=True)[1] == 0


def backward_error(side: int) -> float:
    """γ of a factorisation, or of complex products, in sums of so many terms."""
    roundoff = (8 * side + 64) * _EPS / 2
    return roundoff / (1 - roundoff)


def _with_rounding(kernel: np.ndarray, bound: float) -> float:
    """What success at `bound` proves."""
    smaller, larger = kernel.shape[2:]
    taps = kernel.shape[0] * kernel.shape[1]
    off = 32 * taps * _EPS * float(np.sqrt((kernel**2).sum(axis=(2, 3))).sum())
    return (bound * (1 + 3 * smaller * backward_error(larger)) ** 0.5 + off) * (1 + 4 * _EPS)


def _grids(
    kernel: np.ndarray, sides: tuple[int, int], twists_a_side: int = _TWISTS
) -> Iterable[list[tuple[float, float]]]:
    """The grids of the twists that promise the least norms; of each the frequencies, those of large norm last."""
    norms = _norm_map(kernel)

    def predicted(frequencies):
        where = np.asarray(frequencies).T * (_MAP / (2 * np.pi))
        return scipy.ndimage.map_coordinates(norms, where, order=1, mode="grid-wrap")

    found = []
    for twists in np.ndindex(twists_a_side, twists_a_side):
        opposite = tuple(-twist % _TWISTS for twist in twists)
        if opposite < twists:  # the same symbols, conjugate
            continue
        at = [2 * np.pi * (np.arange(m) + t / _TWISTS) / m for m, t in zip(sides, twists, strict=True)]
        indices = [index for index in np.ndindex(*sides) if opposite != twists or _is_first(index, twists, sides)]
        frequencies = [(float(at[0][i]), float(at[1][j])) for i, j in indices]
        value = predicted(frequencies)
        found.append((float(value.max()), twists, [frequencies[n] for n in np.argsort(value)]))
    return [frequencies for _, _, frequencies in sorted(found)[:_KEPT]]


def _is_first(index: tuple[int, ...], twists: tuple[int, ...], sides: tuple[int, ...]) -> bool:
    """Whether a frequency comes before its negative, (−j − 2t) mod m with t = 0 or ½ a turn, or is its own."""
    negative = tuple((-j - 2 * t // _TWISTS) % m for j, t, m in zip(index, twists, sides, strict=True))
    return index <= negative


def _norm_map(kernel: np.ndarray) -> np.ndarray:
    """Estimates of ‖B‖ at (_MAP, _MAP) frequencies 2πj/_MAP, by power iterations in float32, all at once.

    B v = Σ_t e^{iφ_t} K_t v: products of a tap with the vectors of all frequencies, their real and imaginary parts.
    """
    half = list(np.ndindex(_MAP // 2 + 1, _MAP))
    at = [(2 * np.pi * i / _MAP, 2 * np.pi * j / _MAP) for i, j in half]
    waves = np.exp(1j * np.asarray([_phases(kernel.shape, frequency) for frequency in at])).astype(np.complex64)
    taps = kernel.astype(np.float32).reshape(waves.shape[1], *kernel.shape[2:])

    def product(vectors, matrices, waves):
        parts = np.concatenate([vectors.real, vectors.imag])
        total = np.zeros((len(vectors), matrices.shape[2]), np.complex64)
        for wave, matrix in zip(waves.T, matrices, strict=True):
            of_tap = parts @ matrix
            total.real += wave.real[:, None] * of_tap[: len(half)] - wave.imag[:, None] * of_tap[len(half) :]
            total.imag += wave.real[:, None] * of_tap[len(half) :] + wave.imag[:, None] * of_tap[: len(half)]
        return total

    start = np.random.default_rng(0).normal(size=kernel.shape[3])
    vectors, lengths = np.tile(start, (len(half), 1)).astype(np.complex64), np.zeros(len(half))
    for _ in range(_POWER_STEPS):
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _TINY)
        images = product(vectors, taps.swapaxes(1, 2), waves)
        lengths, vectors = np.linalg.norm(images, axis=1), product(images, taps, waves.conj())
    norms = np.zeros((_MAP, _MAP))
    for (i, j), length in zip(half, lengths, strict=True):
        norms[i, j] = norms[-i % _MAP, -j % _MAP] = length
    return norms
