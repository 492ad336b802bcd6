import numpy as np
import pytest
import scipy.linalg
from threadpoolctl import threadpool_limits

from lipjax import ops
from lipjax.ops import bounds, dense_bounds
from lipjax.ops.bounds import circulant_norm_bound, exact_norm_bound
from lipjax.ops.convolution import dense_operator
from lipjax.ops.dense_bounds import dense_norm_bound


@pytest.fixture(autouse=True, scope="module")
def _one_blas_thread():
    """The blocks here are so small that threads would only wait for each other."""
    with threadpool_limits(1):
        yield


@pytest.fixture(params=[1.0, 0.97, 0.8])
def slack(request, monkeypatch):
    """Scales the estimates of norms; returns what the bound may then exceed its least value by.

    A good estimate hides a wrong proof, as the bound starts 0.1 % above it; a low one leaves all to the proof.
    """
    estimate = bounds.skew_norm_estimate
    monkeypatch.setattr(bounds, "skew_norm_estimate", lambda kernel, size: request.param * estimate(kernel, size))
    return {1.0: 1.0016, 0.97: 1.02, 0.8: 1.15}[request.param]


def true_norm(kernel, size):
    height, width = size if isinstance(size, tuple) else (size, size)
    return np.linalg.norm(dense_operator(kernel, height, width), 2)


def skew(kernel):
    return (kernel - np.flip(kernel, (0, 1)).swapaxes(2, 3)) / 2


def one_tap(rng, k, c, d):
    kernel = np.zeros((k, k, c, d))
    kernel[rng.integers(k), rng.integers(k)] = rng.normal(size=(c, d))
    return kernel


def smooth(rng, k, c, d):
    """Few directions, smoothed or differentiated in space, and a little noise: as trained kernels are."""
    taps = {1: ([1.0],) * 2, 3: ([0.5, 1, 0.5], [-1, 0, 1]), 5: ([0.2, 0.7, 1, 0.7, 0.2], [-1, -2, 0, 2, 1])}[k]
    left, right = rng.normal(size=(c, 2)), rng.normal(size=(d, 2))
    return np.einsum("a,b,ir,or->abio", taps[0], taps[rng.integers(2)], left, right) + 0.05 * rng.normal(
        size=(k, k, c, d)
    )


KINDS = {
    "random": lambda rng, k, c, d: rng.normal(size=(k, k, c, d)),
    "smooth": smooth,
    "constant": lambda rng, k, c, d: np.full((k, k, c, d), 0.7),
    "one_tap": one_tap,
    "low_rank": lambda rng, k, c, d: np.multiply.outer(rng.normal(size=(k, k, c)), rng.normal(size=d)),
    "two_pixels": lambda rng, k, c, d: np.where(rng.random((k, k, 1, 1)) < 0.3, rng.normal(size=(k, k, c, d)), 0.0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_never_below_the_true_norm(kind, slack, rng):
    """Both proofs, on 60 kernels of each kind, skew (as they are) and not (through the dilation)."""
    for i in range(60):
        k, size, c = int(rng.choice([1, 3, 5])), int(rng.integers(1, 9)), int(rng.integers(1, 4))
        d = c if i % 2 else int(rng.integers(1, 4))
        kernel = KINDS[kind](rng, k, c, d) * 10.0 ** rng.integers(-3, 4)
        kernel = skew(kernel) if i % 2 else kernel
        true = true_norm(kernel, size)
        assert true <= exact_norm_bound(kernel, size) <= slack * true
        assert true <= circulant_norm_bound(kernel, size)
        assert true <= ops.conv_norm_bound(kernel, size) <= slack * true


def test_larger_images(rng):
    for size in range(9, 17):
        for k in (3, 5):
            kernel = skew(KINDS["smooth" if size % 2 else "random"](rng, k, 2, 2))
            true = true_norm(kernel, size)
            assert true <= exact_norm_bound(kernel, size) <= 1.0016 * true
            assert true <= circulant_norm_bound(kernel, size) <= (1.05 if k == 3 else 1.1) * true


@pytest.mark.parametrize("general", [False, True])
@pytest.mark.parametrize("taps", [[-1, 0, 1], [1, 0.5, -1], [0, 0, 1], [1, 2, 1]])
@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_circulant_bound_on_tridiagonal_matrices(taps, size, general, slack, rng):
    """One frequency decides here: a grid one point short, or without one of its points, bounds too little."""
    kernel = np.zeros((3, 3, 1, 1) if general else (3, 3, 2, 2))
    if general:
        kernel[1, :, 0, 0] = taps
    else:
        kernel[1, :, 0, 1], kernel[1, :, 1, 0] = taps, -np.array(taps)[::-1]
    true = np.linalg.norm(scipy.linalg.toeplitz([taps[1], taps[0]] + [0] * (size - 2), taps[1:] + [0] * (size - 2)), 2)
    for oriented in (kernel, kernel.swapaxes(0, 1)):
        assert true <= circulant_norm_bound(oriented, size) <= 1.25 * slack * true
    # of the derivative and of the smoothing kernel, one twist puts the grid half a step from the peak: exact
    if taps[0] in (taps[2], -taps[2]) and taps[1] in (0, 2):
        assert circulant_norm_bound(kernel, size) <= slack * true


@pytest.mark.parametrize("end", [1, -1])
def test_all_frequencies_count(end, slack):
    """−ω has the negated spectrum of ω: the largest eigenvalue of iA stands at positive or negative frequencies."""
    kernel = np.zeros((3, 3, 2, 2))
    rotation = np.array([[0.0, -1.0], [1.0, 0.0]])
    kernel[1, 0], kernel[1, 1], kernel[1, 2] = end * np.eye(2), rotation, -end * np.eye(2)
    for size in range(2, 10):
        for oriented in (kernel, -kernel, kernel.swapaxes(0, 1)):
            true = true_norm(oriented, size)
            assert true <= circulant_norm_bound(oriented, size) <= 1.25 * slack * true


@pytest.mark.parametrize(("size", "limit"), [(1, 1.0016), (2, 1.0016), (4, 1.0016), (8, 1.03), (12, 1.02), (16, 1.015)])
@pytest.mark.parametrize("kind", ["random", "smooth"])
def test_ratio(kind, size, limit, rng, monkeypatch):
    """As if even these few channels were too many for the exact bound."""
    monkeypatch.setattr(bounds, "_EXACT_LIMIT", 0)
    for _ in range(2):
        kernel = skew(KINDS[kind](rng, 3, 6, 6))
        found = scipy.sparse.linalg.svds(dense_operator(kernel, size, size), 1, return_singular_vectors=False)[0]
        assert found * (1 - 1e-10) <= ops.conv_norm_bound(kernel, size) <= limit * found


def test_rule(monkeypatch):
    """Exact for small images or few channels, circulant otherwise; a 1×1 kernel sees one pixel."""
    monkeypatch.setattr(bounds, "exact_norm_bound", lambda kernel, size: ("exact", size))
    monkeypatch.setattr(bounds, "circulant_norm_bound", lambda kernel, size: ("circulant", size))
    monkeypatch.setattr(bounds, "general_norm_bound", lambda kernel, size: ("symbols", size))
    for shape, size, expected in [
        ((3, 3, 32, 32), 4, ("exact", (4, 4))),
        ((3, 3, 16, 16), 8, ("exact", (8, 8))),
        ((3, 3, 17, 17), 8, ("exact", (8, 8))),
        ((3, 3, 33, 33), 8, ("circulant", (8, 8))),
        ((1, 1, 300, 300), 8, ("exact", (1, 1))),
        ((3, 3, 20, 13), 8, ("circulant", (8, 8))),
        ((3, 3, 33, 33), (7, 90), ("exact", (7, 90))),
        ((3, 3, 40, 40), (8, 7), ("circulant", (8, 7))),
        ((3, 3, 90, 80), (16, 16), ("symbols", (16, 16))),
        ((3, 3, 90, 90), (16, 16), ("circulant", (16, 16))),
    ]:
        kernel = np.random.default_rng(0).normal(size=shape)
        assert ops.conv_norm_bound(skew(kernel) if shape[2] == shape[3] else kernel, size) == expected
    monkeypatch.setattr(bounds, "_SMALL_IMAGE_LIMIT", 64)
    assert ops.conv_norm_bound(skew(np.random.default_rng(0).normal(size=(3, 3, 32, 32))), 4) == ("circulant", (4, 4))


@pytest.mark.parametrize("bound", [exact_norm_bound, circulant_norm_bound])
def test_no_estimate_at_all(bound, monkeypatch, rng):
    monkeypatch.setattr(bounds, "skew_norm_estimate", lambda kernel, size: 0.0)
    kernel = skew(rng.normal(size=(3, 3, 5, 5)))
    true = true_norm(kernel, 6)
    assert true <= bound(kernel, 6) <= 1.6 * true


def test_the_factorisation_decides_at_the_norm(rng):
    """sI + H factorises for s a hair above −λmin(H) and not a hair below, also with a smaller last block."""
    for side, rows, reach in [
        (40, 3, 1),
        (20, 5, 1),
        (20, 4, 1),
        (3, 25, 1),
        (16, 7, 2),
        (40, 5, 2),
        (5, 1, 1),
        (40, 2, 3),
    ]:
        band = rng.normal(size=(2 * reach + 1, side, side)) + 1j * rng.normal(size=(2 * reach + 1, side, side))
        band = band + np.flip(band, 0).conj().swapaxes(1, 2)
        matrix = bounds._toeplitz(band, rows)
        np.testing.assert_array_equal(matrix, matrix.conj().T)
        least = -np.linalg.eigvalsh(matrix)[0]
        assert bounds._is_positive(band, rows, least * (1 + 1e-9))
        assert not bounds._is_positive(band, rows, least * (1 - 1e-9))


def test_rounding_is_small_and_covers():
    kernel = skew(np.random.default_rng(0).uniform(-1, 1, size=(3, 3, 64, 64)))
    assert 0 < bounds._with_rounding(kernel, 12.0, 8192, 2048) - 12.0 < 1e-5
    assert bounds._with_rounding(kernel, 12.0, 64, 64) - 12.0 > 64 * 64 * 12.0 * 2**-53


def test_dense_bound_is_tight_to_its_margin(rng):
    for shape in [(1, 1), (5, 5), (30, 70), (70, 30), (200, 200)]:
        matrix = rng.normal(size=shape)
        true = np.linalg.norm(matrix, 2)
        assert true <= dense_norm_bound(matrix) <= 1.0005 * true
    clustered = np.diag(np.concatenate([np.full(90, 1.0), np.linspace(0.999, 1.0, 90)]))
    assert 1.0 <= dense_norm_bound(clustered) <= 1.0005


def test_a_low_estimate_is_not_believed(monkeypatch, rng):
    """The factorisation decides: an estimate a factor 0.9 too low must not lower the bound below the norm."""
    matrix = rng.normal(size=(100, 100))
    monkeypatch.setattr("lipjax.ops.dense_bounds.largest_eigenvalue", lambda gram: 0.81 * np.linalg.eigvalsh(gram)[-1])
    assert dense_norm_bound(matrix) >= np.linalg.norm(matrix, 2)


@pytest.mark.parametrize("name", ["soc_3x3", "soc_stride2", "soc_1x1", "soc_channel_reduce", "soc_channel_expand"])
def test_golden_layers(golden, name):
    g = golden(name)
    kernel = g["skew_filter"].transpose(2, 3, 1, 0)
    size = g["y_n5"].shape[-1]
    true = true_norm(kernel, size)
    bound = ops.conv_norm_bound(kernel, size)
    assert true <= bound <= 1.05 * true
    gain = ops.taylor(15).gain(bound)[1]
    assert float(g["norm_exact50"]) * (1 - 1e-12) <= gain <= 1.05 * float(g["norm_exact50"])


@pytest.mark.parametrize("bound", [ops.conv_norm_bound, exact_norm_bound, circulant_norm_bound])
def test_scales(bound, rng):
    """Squares of the entries would under- or overflow; the bound does not."""
    for kernel in (rng.normal(size=(3, 3, 2, 2)), skew(rng.normal(size=(3, 3, 2, 2)))):
        for exponent in (-600, 600):
            assert bound(np.ldexp(kernel, exponent), 4) == pytest.approx(
                np.ldexp(bound(kernel, 4), exponent), rel=1e-12
            )
        kernel[0, 0, 0, 1] = 0.0
        mixed = skew(kernel)
        mixed[0, 1, 0, 1], mixed[2, 1, 1, 0] = 1e200, -1e200
        assert 1e200 * (1 - 1e-12) <= bound(mixed, 4) <= 1.0016e200 * 1.3
    assert bound(np.zeros((3, 3, 2, 2)), 4) == 0.0


def test_beyond_the_range_of_floats():
    assert ops.conv_norm_bound(np.full((3, 3, 8, 8), 1e308), 8) == np.inf
    tiny = np.array([[1e-200, 0.6], [0.0, 5e-324]])
    assert dense_norm_bound(tiny) >= 0.6
    np.testing.assert_allclose(dense_norm_bound(np.full((3, 3), 1e-200)), 3e-200, rtol=1e-3)


def test_taps_outside_the_image_do_not_count(rng):
    """A one-pixel image sees the middle tap alone, however large the others are."""
    kernel = rng.normal(size=(5, 5, 2, 3)) * 1e9
    kernel[2, 2] = rng.normal(size=(2, 3))
    for bound in (ops.conv_norm_bound, exact_norm_bound, circulant_norm_bound):
        assert np.linalg.norm(kernel[2, 2], 2) <= bound(kernel, 1) <= 1.0016 * np.linalg.norm(kernel[2, 2], 2)


def test_errors():
    with pytest.raises(ValueError, match="must be real"):
        ops.conv_norm_bound(np.ones((3, 3, 1, 1)) * 1j, 4)
    for shape in [(2, 2, 3, 3), (3, 3, 3), (3, 1, 2, 2)]:
        with pytest.raises(ValueError, match="k odd"):
            ops.conv_norm_bound(np.zeros(shape), 4)
    with pytest.raises(ValueError, match="not finite"):
        ops.conv_norm_bound(np.full((3, 3, 1, 1), np.nan), 4)
    with pytest.raises(ValueError, match="size must be at least 1"):
        ops.conv_norm_bound(np.zeros((3, 3, 1, 1)), 0)
    for size in [(4, 0), (4,), (4, 4, 4), 4.0]:
        with pytest.raises(ValueError, match=r"an integer or \(height, width\), got"):
            ops.conv_norm_bound(np.zeros((3, 3, 1, 1)), size)


@pytest.mark.parametrize(
    ("k", "channels", "size"), [(1, 5, 9), (3, 2, 1), (3, 4, 6), (5, 3, 2), (3, 80, 4), (3, 9, 32)]
)
def test_the_stated_rounding_is_no_less_than_what_the_bound_allows(k, channels, size, monkeypatch):
    with_rounding, allowed = bounds._with_rounding, []

    def spy(kernel, shift, side, block):
        bound = with_rounding(kernel, shift, side, block)
        allowed.append(bound / shift - 1)
        return bound

    monkeypatch.setattr(bounds, "_with_rounding", spy)
    kernel = skew(np.random.default_rng(k).normal(size=(k, k, channels, channels)))
    ops.conv_norm_bound(kernel, size)
    stated = bounds.rounding(kernel.shape, size)
    assert 0 < allowed[0] <= stated < 1e-6
    assert f"{stated:.1e}" in bounds.method(kernel.shape, size)


@pytest.mark.parametrize("shape", [(40, 40), (200, 30), (1, 7)])
def test_the_stated_rounding_of_a_matrix_is_no_less_than_what_its_bound_allows(shape):
    matrix = np.eye(*shape)  # nothing rounds, so the factorisation succeeds at the first shift, 1 + 1e-4
    allowed = dense_norm_bound(matrix) / (1 + 1e-4) - 1
    assert 0 < allowed <= dense_bounds.dense_rounding(shape) + 4e-16 < 1e-10


def cosines(k, c, d):
    return np.cos(np.arange(k * k * c * d) ** 2 % 97).reshape(k, k, c, d).round(6)


@pytest.mark.parametrize(
    ("shape", "size", "estimate", "is_skew", "expected"),
    [
        ((1, 4, 4), 5, 1.138, True, "0x1.26a57afea3fd3p+0"),
        ((3, 6, 6), 4, 6.239, True, "0x1.93d81f85e402dp+2"),
        ((3, 8, 8), 8, 10.505, True, "0x1.53fd33db36843p+3"),
        ((3, 40, 40), 8, 28.409, True, "0x1.ce4f70804efb0p+4"),
        ((5, 5, 5), 6, 10.011, True, "0x1.44004228b19ccp+3"),
        ((5, 4, 2), 9, 5.913, False, "0x1.7ebe198752ba7p+3"),
        ((3, 20, 24), 8, 16.888, False, "0x1.1898800230466p+5"),
        ((3, 20, 20), 4, 11.569, False, "0x1.766cc64839575p+4"),
    ],
)
def test_bounds_of_squares_are_those_of_0_2_to_the_last_bit(shape, size, estimate, is_skew, expected, monkeypatch):
    """Given the same estimate, which is of the machine's float32 products."""
    monkeypatch.setattr(bounds, "skew_norm_estimate", lambda kernel, size: estimate)
    kernel = cosines(*shape)
    kernel = skew(kernel) if is_skew else kernel
    assert ops.conv_norm_bound(kernel, size) == ops.conv_norm_bound(kernel, (size, size)) == float.fromhex(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_rectangles_never_below_the_true_norm(kind, slack, rng):
    for i in range(30):
        k, c = int(rng.choice([1, 3, 5])), int(rng.integers(1, 4))
        size = int(rng.integers(1, 10)), int(rng.integers(1, 6))
        size = size if i % 4 < 2 else size[::-1]
        kernel = KINDS[kind](rng, k, c, c if i % 2 else int(rng.integers(1, 4)))
        kernel = skew(kernel) if i % 2 else kernel
        true = true_norm(kernel, size)
        assert true <= exact_norm_bound(kernel, size) <= slack * true
        assert true <= circulant_norm_bound(kernel, size)
        assert true <= ops.conv_norm_bound(kernel, size) <= slack * true


def test_the_stated_rounding_of_rectangles_covers(monkeypatch):
    with_rounding, allowed = bounds._with_rounding, []
    monkeypatch.setattr(bounds, "_with_rounding", lambda *a: allowed.append(with_rounding(*a) / a[1] - 1) or 1.0)
    for size in [(3, 40), (40, 3), (12, 20), (20, 12)]:
        for channels in (4, 40):
            kernel = skew(np.random.default_rng(0).normal(size=(5, 5, channels, channels)))
            ops.conv_norm_bound(kernel, size)
            assert 0 < allowed[-1] <= bounds.rounding(kernel.shape, size) < 1e-6
