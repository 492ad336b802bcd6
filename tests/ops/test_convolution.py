import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipjax.ops import convolution as ops
from lipjax.ops.convolution import chosen_operator, convolution, dense_operator, linear_operator, weight_gradient

pytestmark = pytest.mark.usefixtures("float64")
SHAPES = [(1, 1, 1), (1, 4, 5), (3, 1, 2), (3, 2, 2), (3, 3, 5), (5, 3, 3), (5, 6, 4), (5, 1, 7)]
GRADIENTS = [ops.gradient_by_convolution, ops.gradient_by_taps, ops.gradient_by_blocks]


@pytest.mark.parametrize(
    ("k", "height", "width", "operator"),
    [(*shape, operator) for shape in SHAPES for operator in ops.OPERATORS if shape[0] == 1 or operator != "matmul"],
)
def test_operators_are_the_dense_matrix(rng, k, height, width, operator):
    """In value and in both derivatives: D is linear in the kernel, so A x, A dx and x ↦ dA x are products with D."""
    x, dx = jnp.asarray(rng.normal(size=(2, 2, height, width, 3)))
    kernel, dkernel = rng.normal(size=(2, k, k, 3, 4))
    apply = jax.jit(lambda x, kernel: linear_operator(kernel, height, width, operator)(x))
    y, dy = jax.jvp(apply, (x, kernel), (dx, dkernel))
    dense, ddense = dense_operator(kernel, height, width), dense_operator(dkernel, height, width)
    rows = x.reshape(2, -1)
    np.testing.assert_allclose(y.reshape(2, -1), rows @ dense, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dy.reshape(2, -1), dx.reshape(2, -1) @ dense + rows @ ddense, rtol=1e-12, atol=1e-12)
    # Reverse mode is the transpose of forward mode.
    g = jnp.asarray(rng.normal(size=y.shape))
    x_gradient, kernel_gradient = jax.vjp(apply, x, jnp.asarray(kernel))[1](g)
    paired = jnp.vdot(x_gradient, dx) + jnp.vdot(kernel_gradient, dkernel)
    np.testing.assert_allclose(paired, jnp.vdot(g, dy), rtol=1e-12, atol=1e-12)


def test_convolution_by_hand():
    """Output pixel (h, w) reads input pixel (h + a − 1, w + b − 1) by tap (a, b), zeros outside."""
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, 2].set(1.0)
    np.testing.assert_array_equal(convolution(x, kernel)[0, :, :, 0], [[0, 0, 0], [1, 2, 0], [4, 5, 0]])


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize(("k", "height", "width"), SHAPES)
def test_weight_gradients_are_the_outer_product_on_the_taps(rng, monkeypatch, gradient, batch, k, height, width):
    """⟨g, A x⟩ = Σ D ∘ (xᵀ g), so tap t is the sum of xᵀ g where the dense matrix of the t-th unit kernel is 1."""
    monkeypatch.setattr(ops, "BLOCK_PIXELS", 3 * height * width)  # 7 images: two blocks of 3 and a rest of 1
    x = jnp.asarray(rng.normal(size=(batch, height, width, 3)))
    g = jnp.asarray(rng.normal(size=(batch, height, width, 2)))
    outer = np.asarray(x).reshape(batch, -1).T @ np.asarray(g).reshape(batch, -1)
    units = np.eye(k * k * 6).reshape(-1, k, k, 3, 2)
    expected = [np.sum(dense_operator(unit, height, width) * outer) for unit in units]
    found = jax.jit(gradient, static_argnums=2)(x, g, k)
    assert found.shape == (k, k, 3, 2)
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("batch", "size"), [(1, 70), (9, 32), (4, 32), (70, 8)])
def test_weight_gradient_at_its_own_block_size(rng, batch, size):
    """An image larger than a block, two blocks and a rest, exactly one block, one block and a rest."""
    x, g = jnp.asarray(rng.normal(size=(2, batch, size, size, 2)))
    expected = ops.gradient_by_convolution(x, g, 3)
    np.testing.assert_allclose(jax.jit(weight_gradient, static_argnums=2)(x, g, 3), expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("size", [2, 4])
def test_weight_gradient_is_differentiable(rng, monkeypatch, size):
    """It is bilinear: its derivative along (dx, dg) is W(dx, g) + W(x, dg), and reverse mode is the transpose."""
    monkeypatch.setattr(ops, "BLOCK_PIXELS", 2 * size**2)
    x, g, dx, dg = jnp.asarray(rng.normal(size=(4, 3, size, size, 2)))
    bilinear = jax.jit(lambda x, g: weight_gradient(x, g, 3))
    _, tangent = jax.jvp(bilinear, (x, g), (dx, dg))
    np.testing.assert_allclose(tangent, bilinear(dx, g) + bilinear(x, dg), rtol=1e-12, atol=1e-12)
    cotangent = jnp.asarray(rng.normal(size=tangent.shape))
    x_gradient, g_gradient = jax.vjp(bilinear, x, g)[1](cotangent)
    paired = jnp.vdot(x_gradient, dx) + jnp.vdot(g_gradient, dg)
    np.testing.assert_allclose(paired, jnp.vdot(cotangent, tangent), rtol=1e-12)


@pytest.mark.parametrize(
    ("k", "height", "width", "operator"),
    [
        (1, 8, 8, "matmul"),
        (3, 2, 2, "dense"),
        (3, 1, 2, "dense"),
        (3, 2, 3, "convolution"),
        (3, 4, 4, "convolution"),
        (5, 3, 3, "dense"),
        (5, 4, 4, "convolution"),
    ],
)
def test_small_images_do_not_reach_the_slow_convolution(k, height, width, operator):
    assert chosen_operator(k, height, width) == operator
    x, kernel = jnp.zeros((2, height, width, 4)), jnp.zeros((k, k, 4, 4))
    jaxpr = str(jax.make_jaxpr(lambda x, kernel: linear_operator(kernel, height, width)(x))(x, kernel))
    assert ("conv_general_dilated" in jaxpr) == (operator == "convolution")


@pytest.mark.parametrize(
    ("k", "batch", "size", "convolves"),
    [(1, 64, 8, False), (3, 64, 2, False), (3, 65, 8, False), (3, 64, 8, True)],
)
def test_other_platforms_use_their_own_weight_gradient(k, batch, size, convolves):
    """A CPU does so only for convolved batches of at most 4096 pixels."""
    x = jax.ShapeDtypeStruct((batch, size, size, 4), jnp.float32)
    traced = jax.jit(weight_gradient, static_argnums=2).trace(x, x, k)
    used = {p: "stablehlo.convolution" in traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda")}
    assert used == {"cpu": convolves, "cuda": True}


@pytest.mark.parametrize(("k", "operator"), [(3, "matmul"), (3, "fft"), (1, "")])
def test_bad_operators_are_named(k, operator):
    with pytest.raises(ValueError, match=rf"operator must be one of .*'dense'.* got '{operator}'"):
        linear_operator(jnp.zeros((k, k, 2, 2)), 4, 4, operator)
