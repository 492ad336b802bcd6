import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from lipjax import ops
from lipjax.ops.convolution import dense_operator
from lipjax.ops.skew import normalised_skew_kernel

GOLDEN = ["soc_3x3", "soc_stride2", "soc_1x1", "soc_channel_reduce", "soc_channel_expand"]
TAYLOR = ops.taylor(6)
EQUIRIPPLE = ops.Polynomial((1, 0.5044, 0.2933, 0.1854), norm=2)


def nhwc(x):
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def hwio(kernel):
    return jnp.asarray(kernel.transpose(2, 3, 1, 0))


def layer(g, x, kernel, terms, gradient):
    """Rearrangement for the stride-2 case, channel padding, p(A), channel cut and bias."""
    if x.shape[1] > g["y_n5"].shape[2]:
        x = ops.space_to_depth(x)
    channels = kernel.shape[-1]
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))
    return ops.orthogonal_conv(x, kernel, ops.taylor(terms), gradient)[..., : len(g["bias"])] + g["bias"]


def assert_relative(actual, expected, tolerance):
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def pulled_back(x, kernel, polynomial, gradient, g):
    """(y, cotangent of x, cotangent of the kernel) for the cotangent g of y."""
    y, vjp = jax.vjp(lambda x, kernel: ops.orthogonal_conv(x, kernel, polynomial, gradient), x, kernel)
    return y, *vjp(g)


def random_case(rng, k, size, channels, norm, dtype="float64"):
    """(x, skew kernel with ‖A‖ = norm, g)."""
    kernel = np.asarray(ops.skew_kernel(rng.normal(size=(k, k, channels, channels))))
    kernel = kernel * norm / np.linalg.norm(dense_operator(kernel, size, size), 2)
    x, g = (jnp.asarray(rng.normal(size=(8, size, size, channels)), dtype) for _ in range(2))
    return x, jnp.asarray(kernel, dtype), g


def kernel_error(actual, exact):
    """(relative error, cosine) of what reaches the raw kernel."""
    actual, exact = (np.asarray(ops.skew_kernel(kernel)).ravel() for kernel in (actual, exact))
    norms = np.linalg.norm(actual), np.linalg.norm(exact)
    return np.linalg.norm(actual - exact) / norms[1], actual @ exact / np.prod(norms)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("gradient", ops.GRADIENTS)
@pytest.mark.parametrize("convolutions", [5, 11, 14])
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_outputs(golden, name, convolutions, gradient):
    g = golden(name)
    y = layer(g, nhwc(g["x"]), hwio(g["skew_filter"]), convolutions + 1, gradient)
    assert_relative(y, nhwc(g[f"y_n{convolutions}"]), 1e-13)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("gradient", ["exact", "fast"])
@pytest.mark.parametrize("convolutions", [5, 11])
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_gradients(golden, name, convolutions, gradient):
    g = golden(name)
    vectors = {key: jnp.asarray(g[key].ravel()) for key in ("u1", "u2", "u3", "u4", "v1", "v2", "v3", "v4")}

    def loss(x, kernel):
        return jnp.sum(layer(g, x, kernel, convolutions + 1, gradient) * nhwc(g["cot"]))

    def loss_of_raw(raw):
        return loss(nhwc(g["x"]), normalised_skew_kernel(raw, vectors))

    gx, gs = jax.grad(loss, argnums=(0, 1))(nhwc(g["x"]), hwio(g["skew_filter"]))
    assert_relative(gx, nhwc(g[f"gx_{gradient}_n{convolutions}"]), 1e-12)
    assert_relative(gs, hwio(g[f"gS_{gradient}_n{convolutions}"]), 1e-12)
    # The gradient of the 1×1 kernel through the norm cancels to 1e-2 of its terms, hence 1e-10 as asked, not 1e-12.
    assert_relative(jax.grad(loss_of_raw)(hwio(g["weight"])), hwio(g[f"gW_{gradient}_n{convolutions}"]), 1e-10)


@pytest.mark.usefixtures("float64")
def test_fast_and_exact_golden_gradients_differ(golden):
    """Else the two would not be told apart by the test above."""
    g = golden("soc_3x3")
    difference = np.abs(g["gS_fast_n5"] - g["gS_exact_n5"]).max() / np.abs(g["gS_exact_n5"]).max()
    assert difference > 1e-3


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("k", "size"), [(1, 3), (3, 2), (3, 4), (5, 3)])
def test_many_terms_are_the_matrix_exponential(rng, k, size):
    kernel = ops.skew_kernel(rng.normal(size=(k, k, 3, 3))) / 5
    x = jnp.asarray(rng.normal(size=(2, size, size, 3)))
    exponential = scipy.linalg.expm(dense_operator(np.asarray(kernel), size, size))
    y = ops.orthogonal_conv(x, kernel, ops.taylor(30))
    np.testing.assert_allclose(y.reshape(2, -1), x.reshape(2, -1) @ exponential, rtol=0, atol=1e-12)
    np.testing.assert_allclose(jnp.linalg.norm(y), jnp.linalg.norm(x), rtol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("size", [2, 5])
def test_input_gradient_is_exact_for_any_coefficients(rng, size):
    polynomial = ops.Polynomial((0.9, 0.5, 0.3, 0.2), scale=0.97)
    kernel = ops.skew_kernel(rng.normal(size=(3, 3, 4, 4))) / 4
    x, g = (jnp.asarray(rng.normal(size=(2, size, size, 4))) for _ in range(2))

    y, x_gradient, kernel_gradient = pulled_back(x, kernel, polynomial, "fast", g)
    exact_y, exact_x, exact_kernel = pulled_back(x, kernel, polynomial, "exact", g)
    assert_relative(y, exact_y, 1e-13)
    assert_relative(x_gradient, exact_x, 1e-13)
    # The kernel gradient of one convolution would be exact; the nest's is close in direction, through skew_kernel.
    assert kernel_error(kernel_gradient, exact_kernel)[1] > 0.9


@pytest.mark.usefixtures("float64")
def test_the_fast_gradient_of_degree_1_is_exact(rng):
    """One outer product is all there is."""
    kernel = ops.skew_kernel(rng.normal(size=(3, 3, 4, 4)))
    x, g = (jnp.asarray(rng.normal(size=(2, 5, 5, 4))) for _ in range(2))
    _, _, actual = pulled_back(x, kernel, ops.Polynomial((0.7,), 0.9), "fast", g)
    _, _, exact = pulled_back(x, kernel, ops.Polynomial((0.7,), 0.9), "exact", g)
    assert_relative(actual, exact, 1e-13)


@pytest.mark.parametrize("gradient", ops.GRADIENTS)
def test_float32_is_as_accurate_as_its_digits_at_the_edge(rng, gradient):
    """14 applications at ‖A‖ = 2.8, where terms of the series reach 4: rounding grows to a few units, no further."""
    with jax.enable_x64(True):
        double = random_case(rng, 3, 4, 8, 2.8)
        single = [part.astype("float32") for part in double]
        double = [part.astype("float64") for part in single]
        expected = pulled_back(*double[:2], ops.taylor(15), gradient, double[2])
        actual = pulled_back(*single[:2], ops.taylor(15), gradient, single[2])
        for part, reference in zip(actual, expected, strict=True):
            assert part.dtype == "float32"
            assert_relative(part, reference, 2e-6)


def residuals(terms, gradient):
    """Number of (N, H, W, C) arrays kept between the forward and the backward pass."""
    x, kernel = jnp.ones((2, 6, 6, 4)), ops.skew_kernel(jnp.arange(9 * 16.0).reshape(3, 3, 4, 4) / 1e3)
    _, vjp = jax.vjp(lambda x, k: ops.orthogonal_conv(x, k, ops.taylor(terms), gradient), x, kernel)
    return sum(leaf.shape == x.shape for leaf in jax.tree.leaves(vjp))


def test_the_fast_gradient_stores_one_activation_whatever_the_number_of_terms():
    assert residuals(3, "fast") == residuals(15, "fast") == 1
    assert residuals(15, "exact") > residuals(3, "exact") > 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("gradient", ops.GRADIENTS)
def test_dtype_is_kept(dtype, gradient):
    kernel = jnp.zeros((3, 3, 4, 4), dtype)
    for size in (2, 4):
        x = jnp.ones((2, size, size, 4), dtype)
        parts = jax.eval_shape(lambda x: pulled_back(x, kernel, TAYLOR, gradient, x), x)
        assert {part.dtype for part in parts} == {jnp.dtype(dtype)}


def test_errors():
    x, kernel = jnp.zeros((2, 4, 4, 4)), jnp.zeros((3, 3, 4, 4))
    with pytest.raises(ValueError, match=r"gradient must be one of \('fast', 'exact'\), got 'slow'"):
        ops.orthogonal_conv(x, kernel, ops.taylor(6), "slow")
    with pytest.raises(ValueError, match="k odd"):
        ops.orthogonal_conv(x, jnp.zeros((2, 2, 4, 4)), ops.taylor(6))
    with pytest.raises(ValueError, match=r"x must be \(N, H, W, 6\)"):
        ops.orthogonal_conv(x, jnp.zeros((3, 3, 6, 6)), ops.taylor(6))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("gradient", ops.GRADIENTS)
@pytest.mark.parametrize(("k", "size"), [(1, 3), (3, 2), (3, 5)])
def test_operators_are_interchangeable(rng, k, size, gradient):
    x, kernel, g = random_case(rng, k, size, 4, 1.5)
    value, vjp = jax.vjp(lambda x, kernel: ops.orthogonal_conv(x, kernel, EQUIRIPPLE, gradient), x, kernel)
    for operator in ("convolution", "dense", *(["matmul"] if k == 1 else [])):
        forced = lambda x, kernel, o=operator: ops.orthogonal_conv(x, kernel, EQUIRIPPLE, gradient, operator=o)  # noqa: E731
        other, other_vjp = jax.vjp(forced, x, kernel)
        for actual, expected in zip((other, *other_vjp(g)), (value, *vjp(g)), strict=True):
            assert_relative(actual, expected, 1e-12)
    with pytest.raises(ValueError, match="operator must be one of .*, got 'fft'"):
        ops.orthogonal_conv(x, kernel, EQUIRIPPLE, gradient, operator="fft")
