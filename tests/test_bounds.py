import numpy as np
import pytest

from lipjax import ops
from lipjax.ops.bounds import circulant_norm_bound, dense_norm_bound
from lipjax.ops.convolution import dense_operator


def true_norm(kernel, size):
    return np.linalg.norm(dense_operator(kernel, size, size), 2)


def random_kernels(rng, count):
    for i in range(count):
        k, c = int(rng.choice([1, 3, 5])), int(rng.integers(1, 7))
        d = c if i % 2 else int(rng.integers(1, 7))
        kernel = rng.normal(size=(k, k, c, d)) * 10.0 ** rng.integers(-3, 4)
        yield np.array(ops.skew_kernel(kernel.astype("float32")), float) if i % 4 == 1 else kernel


def test_never_below_the_true_norm(rng):
    for kernel in random_kernels(rng, 120):
        size = int(rng.integers(1, 9))
        bound, true = ops.conv_norm_bound(kernel, size), true_norm(kernel, size)
        assert true <= bound <= 1.001 * true + 1e-300


def test_circulant_bound_never_below(rng):
    for kernel in random_kernels(rng, 120):
        size = int(rng.integers(1, 9))
        assert circulant_norm_bound(kernel, size + kernel.shape[0] // 2) >= true_norm(kernel, size)


def test_the_grid_of_the_image_itself_is_no_bound():
    """A cyclic convolution on n points wraps taps around; on n + ⌊k/2⌋ points it cannot (the fault this guards)."""
    rng = np.random.default_rng(3)
    ratios = []
    for _ in range(200):
        kernel = rng.normal(size=(3, 3, 1, 1))
        size = int(rng.integers(2, 5))
        ratios.append(circulant_norm_bound(kernel, size) / true_norm(kernel, size))
    assert min(ratios) < 0.99


def test_both_ends_of_the_spectrum_count():
    """i·L̂ of this skew kernel has its largest |eigenvalue| at the negative end on the half-grid of frequencies."""
    rng = np.random.default_rng(5)
    ends = set()
    for _ in range(20):
        kernel = np.array(ops.skew_kernel(rng.normal(size=(3, 3, 2, 2)).astype("float32")), float)
        size, grid = 10, 11
        phases = np.exp(2j * np.pi / grid * np.outer(np.arange(grid), np.arange(3) - 1))
        half = np.arange(grid // 2 + 1)
        symbols = 1j * np.einsum("ra,wb,abio->rwio", phases[half], phases, kernel)
        eigenvalues = np.linalg.eigvalsh(symbols)
        ends.add(bool(eigenvalues.max() > -eigenvalues.min()))
        bound = circulant_norm_bound(kernel, grid)
        assert bound >= max(eigenvalues.max(), -eigenvalues.min())
        assert bound >= true_norm(kernel, size)
    assert ends == {True, False}


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
    monkeypatch.setattr("lipjax.ops.bounds._largest_eigenvalue", lambda gram: 0.81 * np.linalg.eigvalsh(gram)[-1])
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


@pytest.mark.parametrize(("channels", "size"), [(8, 24), (2, 48)])
def test_large_images_use_the_grid(channels, size, rng):
    """Beyond 4096 unknowns: never below a norm found by power iteration, which is a lower bound of the truth."""
    kernel = np.array(ops.skew_kernel(rng.normal(size=(3, 3, channels, channels)).astype("float32")), float)
    operator = dense_operator(kernel, size, size)
    vector = rng.normal(size=len(operator))
    for _ in range(200):
        vector = operator @ vector
        vector /= np.linalg.norm(vector)
    found = np.linalg.norm(operator @ vector)
    assert found <= ops.conv_norm_bound(kernel, size) <= 1.05 * found


def test_scales(rng):
    """Squares of the entries would under- or overflow; the bound does not."""
    kernel = rng.normal(size=(3, 3, 2, 2))
    for exponent in (-600, 600):
        scaled = np.ldexp(kernel, exponent)
        np.testing.assert_allclose(ops.conv_norm_bound(scaled, 4), np.ldexp(ops.conv_norm_bound(kernel, 4), exponent))
    assert ops.conv_norm_bound(np.zeros((3, 3, 2, 2)), 4) == 0.0


def test_beyond_the_range_of_floats():
    assert ops.conv_norm_bound(np.full((3, 3, 8, 8), 1e308), 8) == np.inf
    tiny = np.array([[1e-200, 0.6], [0.0, 5e-324]])
    assert dense_norm_bound(tiny) >= 0.6
    np.testing.assert_allclose(dense_norm_bound(np.full((3, 3), 1e-200)), 3e-200, rtol=1e-3)


def test_small_images_with_many_channels_use_the_grid(monkeypatch, rng):
    """Above a limit even small images take the circulant bound: the dense matrix would not fit."""
    monkeypatch.setattr("lipjax.ops.bounds._SMALL_IMAGE_LIMIT", 8)
    for _ in range(20):
        kernel = rng.normal(size=(3, 3, 2, 2))
        assert ops.conv_norm_bound(kernel, 3) == circulant_norm_bound(kernel, 4) >= true_norm(kernel, 3)


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


def test_large_images_use_a_grid_that_is_large_enough(monkeypatch, rng):
    """As if no size were small enough for the dense bound; on the n-grid a tenth of these bounds would be too small."""
    monkeypatch.setattr("lipjax.ops.bounds._DENSE_LIMIT", 0)
    for _ in range(150):
        k, size = int(rng.choice([3, 5])), int(rng.integers(5, 8))
        kernel = rng.normal(size=(k, k, 1, 1))
        assert ops.conv_norm_bound(kernel, size) >= true_norm(kernel, size)
