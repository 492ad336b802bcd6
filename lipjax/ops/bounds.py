"""Proven upper bounds of the spectral norm of zero-padded convolutions; of matrices see `ops.dense_bounds`.

Estimates of a norm only propose a bound; a floating-point Cholesky factorisation that succeeds disposes.

Every real kernel with k odd is bounded, r = ⌊k/2⌋.
  Skew.  K or, unless it is skew already, its dilation [[0, K], [−K*, 0]] with K* the kernel of the adjoint, of the
  same norm, is the kernel of a real skew operator A.  So iA is Hermitian with a spectrum symmetric about 0, and
  sI + iA >= 0 alone proves ‖A‖ <= s.
  Exact.  Image row by image row, iA is a Hermitian block-Toeplitz matrix of bandwidth r, whose factorisation needs
  the blocks of r rows only: n (nC)³ operations, and no Gram matrix.  Of a rectangle the shorter sides are its rows.
  Twisted circulant.  Let columns wrap around a cyclic grid of m >= n + r points, with a factor e^{iθ} for each turn:
  the zero-padded convolution is a compression of that operator, as outputs in [0, n) read inputs in [−r, n + r), and
  those outside [0, n) fall on grid points that are left out.  (On n points they would wrap into the image: no bound.)
  This operator is block diagonal in the frequencies ω = (2πj + θ)/m, j = 0 … m − 1, each block the block-Toeplitz
  matrix of i Σ_d K[·, d] e^{iωd} over image rows, of bandwidth r: n C³ operations each.  All m of them are needed:
  −ω has the negated spectrum of ω, so half of the frequencies would do only with both ends of each spectrum.  The
  bound is valid for every θ, and with rows and columns exchanged; the least is taken.  The norm of the zero-padded
  operator is about that of the symbols half a grid step from their peak, so when no ω is near the peak the bound is
  nearly exact (it is for [−1, 0, 1]: 2 cos(π/(n + 1))), while the grid θ = 0 overshoots when the peak is on it.
  Rounding.  A factorisation of sI + H, H of side N in blocks of side b, sums at most 2b complex products an entry
  (whose constants are √2 those of real ones: Higham, section 3.6), so success proves
      λmax(−H) <= s + γ tr(sI + H),   γ = (8b + 64) u / (1 − (8b + 64) u),
  however the blocks are ordered (theorem 10.3); tr(sI + H) <= N (s + k max|K|).  The symbols add the roundings of
  their k products and of ω and e^{iωd}, together below 32 k² eps Σ_d ‖K_d‖_F.
"""

import functools
import math

import numpy as np
from scipy.linalg.blas import zherk, ztrsm
from scipy.linalg.lapack import zpotrf

from lipjax.ops import symbols
from lipjax.ops.dense_bounds import at_unit_scale
from lipjax.ops.estimates import skew_norm_estimate
from lipjax.ops.symbols import backward_error

_EPS = float(np.finfo(np.float64).eps)
_EXACT_LIMIT = 256  # (shorter side)·C up to which the exact factorisation is cheap ...
_SMALL_IMAGE_LIMIT = 4096  # ... and up to which it is affordable, for images of at most
_SMALL_IMAGE = 4  # pixels a side, where the circulant bound is loose
_TWISTS = 8
_DILATION_WORK = 17 * 17 * 128**3  # H·W·C³ up to which the dilation of a kernel that is not skew takes a second or two
_LEAST_BLOCK = 32  # rows are grouped up to this block side: LAPACK calls on less cost more than they compute

Size = int | tuple[int, int]  # of an image: height and width, or both at once


def conv_norm_bound(kernel, size: Size) -> float:
    """An upper bound of the norm of the zero-padded, stride-1 convolution with `kernel` of images of that size.

    Exact to 0.1 or 0.2 % when n·C <= 256, n the shorter side (4096 when both are <= 4; any C when k = 1 or the image is
    one pixel), by twisted circulants otherwise; C the channels, C_in + C_out unless the kernel is skew; all in float64.
    A kernel of many channels that is not skew is bounded by its symbols instead (`ops.symbols`).

    Args:
      kernel: (k, k, C_in, C_out) HWIO, k odd, any real entries (skew or not).
      size: (height, width) of the image in pixels, or an integer for both.

    Returns:
      A Python float >= the norm; inf where that is beyond float64.

    Raises:
      ValueError: kernel of another shape, an even k, entries that are complex or not finite, or a side < 1.
    """
    if np.iscomplexobj(kernel):
        raise ValueError("conv_norm_bound: the kernel must be real")
    kernel = np.asarray(kernel, dtype=np.float64)
    if kernel.ndim != 4 or kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
        raise ValueError(f"conv_norm_bound: kernel must be (k, k, C_in, C_out) with k odd, got shape {kernel.shape}")
    if not np.isfinite(kernel).all():
        raise ValueError("conv_norm_bound: the kernel has entries that are not finite")
    sides = _seen(kernel.shape, size)
    if not is_skew(kernel) and by_symbols(kernel.shape, sides):
        return general_norm_bound(kernel, sides)
    kernel = _skew(kernel)
    return (exact_norm_bound if is_exact(kernel.shape, sides) else circulant_norm_bound)(kernel, sides)


def _sides(size: Size) -> tuple[int, int]:
    """(height, width)."""
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or not all(isinstance(n, int | np.integer) and n >= 1 for n in sides):
        raise ValueError(f"conv_norm_bound: size must be at least 1, an integer or (height, width), got {size!r}")
    return int(sides[0]), int(sides[1])


def _seen(shape: tuple[int, ...], size: Size) -> tuple[int, int]:
    """(height, width) of the images that decide: a 1×1 kernel sees one pixel at a time."""
    sides = _sides(size)
    return (1, 1) if shape[0] == 1 else sides


def is_exact(shape: tuple[int, ...], size: Size) -> bool:
    """Whether `conv_norm_bound` factorises the operator of a skew kernel of that shape itself."""
    shorter, longer = sorted(_seen(shape, size))
    limit = _SMALL_IMAGE_LIMIT if longer <= _SMALL_IMAGE else _EXACT_LIMIT
    return longer == 1 or shorter * shape[2] <= limit


def by_symbols(shape: tuple[int, ...], size: Size) -> bool:
    """Whether `conv_norm_bound` takes the symbols of a kernel of that shape that is not skew: no dilation is small."""
    channels = shape[2] + shape[3]
    work = math.prod(n + shape[0] // 2 for n in _seen(shape, size)) * channels**3
    return work > _DILATION_WORK and not is_exact((*shape[:2], channels, channels), size)


def method(shape: tuple[int, ...], size: Size, is_skew: bool = True) -> str:
    """How `conv_norm_bound` proves its bound for a kernel of that shape, in words, and what part is for rounding."""
    if not is_skew and by_symbols(shape, size):
        grid = "×".join(map(str, symbols.points(shape, _seen(shape, size))))
        how = f"Cholesky factorisations of its symbols at all {grid} frequencies"
        return f"{how}; about {symbols.rounding(shape):.1e} of it is allowance for rounding"
    if not is_skew:
        shape = (*shape[:2], shape[2] + shape[3], shape[2] + shape[3])
    how = "Cholesky factorisation of the operator"
    if not is_exact(shape, size):
        grids = sorted({n + min(shape[0] // 2, n - 1) for n in _seen(shape, size)})
        how = f"Cholesky factorisations of a twisted circulant at all {' or '.join(map(str, grids))} frequencies"
    return f"{how}; about {rounding(shape, size):.1e} of it is allowance for rounding"


def rounding(shape: tuple[int, ...], size: Size) -> float:
    """The largest part of `conv_norm_bound`, relative to it, that allows for rounding, for a skew kernel of that shape.

    With b the bound, max |K| <= b and ‖K_d‖_F <= √C b for each tap d.  In units where 1/2 <= max |K| <= 1, the trace is
    thus at most N (1 + 2k) b and the roundings of the symbols at most 32 k⁴ √C eps b.
    """
    channels, shorter, longer = shape[2], *sorted(_seen(shape, size))
    k = min(shape[0], 2 * longer - 1)
    block_row = channels * (shorter if is_exact(shape, size) else 1)
    symbols = 32 * k**4 * math.sqrt(channels) * _EPS
    return backward_error(_group(k, block_row, longer) * block_row) * longer * block_row * (1 + 2 * k) + symbols


def is_skew(kernel: np.ndarray) -> bool:
    """Whether the operator of a kernel is skew to the last bit; `skew.check_skew` allows for rounding."""
    return np.array_equal(kernel, -np.flip(kernel, (0, 1)).swapaxes(2, 3))


def _skew(kernel: np.ndarray) -> np.ndarray:
    """The kernel itself if it is skew, else the skew kernel [[0, K], [−K*, 0]] on C_in + C_out channels."""
    if is_skew(kernel):
        return kernel
    adjoint = np.flip(kernel, (0, 1)).swapaxes(2, 3)
    c_in, c_out = kernel.shape[2:]
    dilation = np.zeros((*kernel.shape[:2], c_in + c_out, c_in + c_out))
    dilation[:, :, :c_in, c_in:] = kernel
    dilation[:, :, c_in:, :c_in] = -adjoint
    return dilation


def _for_kernels(made):
    """Crops a kernel to the taps that an image sees, passes it on as `made`, and scales it to unit size."""

    def prepare(bound):
        @functools.wraps(bound)
        def prepared(kernel: np.ndarray, size: Size) -> float:
            sides = _sides(size)
            cropped = [max(len(kernel) // 2 - (n - 1), 0) for n in sides]
            inner = tuple(slice(c, len(kernel) - c) for c in cropped)
            return at_unit_scale(bound)(made(kernel[inner]), sides)

        return prepared

    return prepare


# For any kernel, as it is: see `ops.symbols`.
general_norm_bound = _for_kernels(lambda kernel: kernel)(symbols.symbol_norm_bound)


@_for_kernels(_skew)
def exact_norm_bound(kernel: np.ndarray, size: tuple[int, int]) -> float:
    """An upper bound of the norm of the zero-padded convolution, proven on the operator itself.

    kernel: (k, k, C_in, C_out) float64, finite, k odd; `conv_norm_bound` checks that.
    """
    rows, columns = size
    if columns > rows:
        rows, columns, kernel = columns, rows, kernel.swapaxes(0, 1)
    matrices = [lambda: 1j * np.stack([_toeplitz(row, columns) for row in kernel])]
    return _least_proven(kernel, (rows, columns), [(rows, matrices)])


@_for_kernels(_skew)
def circulant_norm_bound(kernel: np.ndarray, size: tuple[int, int]) -> float:
    """As `exact_norm_bound`, but proven on one of the twisted circulants that contain the operator."""

    def symbol(oriented, frequency):
        k = oriented.shape[1]
        phases = np.exp(1j * frequency * (np.arange(k) - k // 2))
        return 1j * np.einsum("b,abio->aio", phases, oriented)

    def frequencies(oriented, columns, twist):
        grid = columns + oriented.shape[1] // 2
        return [functools.partial(symbol, oriented, 2 * np.pi * (j + twist / _TWISTS) / grid) for j in range(grid)]

    height, width = size
    candidates = [
        (rows, frequencies(oriented, columns, twist))
        for twist in range(_TWISTS)
        for oriented, rows, columns in ((kernel, height, width), (kernel.swapaxes(0, 1), width, height))
    ]
    return _least_proven(kernel, size, candidates)


def _least_proven(kernel: np.ndarray, size: tuple[int, int], candidates: list[tuple[int, list]]) -> float:
    """A bound near the least over candidates (rows, matrices H, by bands, whose largest λ(−H) bounds the norm).

    s grows from an estimate of the norm until sI + H factorises for all matrices of one candidate.  What has been
    proven for a smaller s needs no second proof, and what failed is tried first at the next s.
    """
    estimate = max(skew_norm_estimate(kernel, size), 0.5)  # the largest entry is at least 0.5 (`at_unit_scale`)
    margin = 1e-3
    while True:
        shift = estimate * (1 + margin)
        for rows, matrices in candidates:
            while matrices and _is_positive(band := matrices[-1](), rows, shift):
                matrices.pop()
            if not matrices:
                side = band.shape[1]
                return _with_rounding(kernel, shift, rows * side, _group(len(band), side, rows) * side)
        margin *= 1.5


def _with_rounding(kernel: np.ndarray, shift: float, side: int, block: int) -> float:
    """The bound that factorisations of sI + H in blocks prove, for entries of the kernel in [−1, 1]."""
    k = max(kernel.shape[:2])
    backward = backward_error(block) * side * (shift + k)
    symbols = 32 * k * k * _EPS * float(np.sqrt((kernel**2).sum(axis=(2, 3))).sum())
    return (shift + backward + symbols) * (1 + 4 * _EPS)


def _group(k: int, side: int, rows: int) -> int:
    """How many rows of blocks of that side make a block: enough for block-tridiagonality and for efficiency."""
    return min(rows, max(k // 2, -(-_LEAST_BLOCK // side)))


def _is_positive(band: np.ndarray, rows: int, shift: float) -> bool:
    """Whether sI + H factorises, H Hermitian with blocks H[i, j] = band[i − j + r] for i, j < rows, zero beyond r."""
    group = _group(len(band), band.shape[1], rows)
    blocks = _toeplitz(band, min(rows, 2 * group))
    edge = group * band.shape[1]
    diagonal = np.asfortranarray(blocks[:edge, :edge])
    diagonal[np.diag_indices(edge)] += shift
    coupling = np.asfortranarray(blocks[edge:, :edge].conj().T)
    schur = diagonal
    for left in range(rows - group, -group, -group):  # rows left below this block; the last block may be smaller
        factor, failed = zpotrf(schur, lower=1, clean=0, overwrite_a=schur is not diagonal)
        if failed:
            return False
        below = min(left, group) * band.shape[1]
        if below > 0:
            half = ztrsm(1.0, factor, coupling[:, :below], lower=1)
            schur = zherk(-1.0, half, 1.0, diagonal[:below, :below], trans=2, lower=1)
    return True


def _toeplitz(blocks: np.ndarray, count: int) -> np.ndarray:
    """The block matrix with block [i, j] = blocks[i − j + r] for i, j < count, zero for |i − j| > r."""
    reach, side = len(blocks) // 2, blocks.shape[1]
    matrix = np.zeros((count, side, count, side), blocks.dtype)
    for offset in range(max(-reach, 1 - count), min(reach, count - 1) + 1):
        columns = np.arange(max(0, -offset), count - max(0, offset))
        matrix[columns + offset, :, columns, :] = blocks[offset + reach]
    return matrix.reshape(count * side, count * side)
