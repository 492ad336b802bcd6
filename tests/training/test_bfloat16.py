"""bfloat16 convolutions in training: what is rounded, and what is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

from lipjax import LipConvnet, ops
from lipjax.ops.orthogonal import _fast_fwd
from lipjax.ops.skew import check_skew
from lipjax.training.loop import train


def skew_kernel(rng, channels=6):
    kernel = np.asarray(ops.skew_kernel(rng.normal(size=(3, 3, channels, channels)).astype("float32")))
    return jnp.asarray(1.5 * kernel / ops.conv_norm_bound(kernel, 8))


def test_a_rounded_skew_kernel_is_skew(rng):
    kernel = np.asarray(skew_kernel(rng).astype(jnp.bfloat16))
    np.testing.assert_array_equal(kernel, -np.flip(kernel, (0, 1)).swapaxes(2, 3))
    check_skew("test", kernel)


@pytest.mark.parametrize("gradient", ops.GRADIENTS)
def test_sums_stay_in_float32(rng, gradient):
    """Output and gradient in float32; off by the rounding of activations to 8 bits, several times the least error."""
    kernel, polynomial = skew_kernel(rng), ops.equiripple(4, 1.5)
    x = jnp.asarray(rng.normal(size=(2, 8, 8, 6)), jnp.float32)

    def loss(x, kernel):
        return jnp.sum(jnp.sin(ops.orthogonal_conv(x, kernel, polynomial, gradient)))

    y, half = (ops.orthogonal_conv(x, k, polynomial, gradient) for k in (kernel, kernel.astype(jnp.bfloat16)))
    gradients = [jax.grad(loss, (0, 1))(x, k) for k in (kernel, kernel.astype(jnp.bfloat16))]
    assert half.dtype == jnp.float32
    assert [leaf.dtype for leaf in gradients[1]] == [jnp.float32, jnp.bfloat16]
    for full, rounded in zip((y, *gradients[0]), (half, *gradients[1]), strict=True):
        error = float(jnp.linalg.norm((full - rounded).ravel()) / jnp.linalg.norm(full.ravel()))
        assert 1e-4 < error < 2e-2


def test_activations_are_kept_in_half_the_memory(rng):
    kernel = skew_kernel(rng).astype(jnp.bfloat16)
    _, (kept, _) = _fast_fwd(jnp.ones((2, 8, 8, 6)), kernel, ops.equiripple(4, 1.5), None)
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {jnp.dtype(jnp.bfloat16)}


def test_a_wide_input_is_not_cut_to_a_float32_kernel(rng, float64):
    kernel = skew_kernel(rng)
    x, polynomial = jnp.asarray(rng.normal(size=(2, 8, 8, 6))), ops.equiripple(4, 1.5)
    mixed, wide = (ops.orthogonal_conv(x, k, polynomial) for k in (kernel, kernel.astype(float)))
    assert mixed.dtype == jnp.float64
    np.testing.assert_allclose(mixed, wide, rtol=1e-14)


def test_training_alone_is_in_bfloat16(rng):
    model = LipConvnet(5, 4, input_size=8, compute_dtype="bfloat16")
    images = jnp.asarray(rng.uniform(size=(2, 8, 8, 3)), jnp.float32)
    variables = model.init(jax.random.key(0), images)
    plain = model.clone(compute_dtype="float32")
    evaluated = [m.apply(variables, images) for m in (model, plain)]
    np.testing.assert_array_equal(*evaluated)
    trained = [m.apply(variables, images, train=True) for m in (model, plain)]
    assert 1e-5 < np.abs(trained[0] - trained[1]).max() < 0.1
    assert trained[0].dtype == jnp.float32


def test_a_run_in_bfloat16_keeps_its_state_in_float32(tmp_path, trained):
    config = tiny_config()
    config.update_from_flattened_dict({"model.compute_dtype": "bfloat16", "run.epochs": 2})
    state = train(config, tmp_path, say=lambda line: None)
    assert jax.tree.map(lambda leaf: leaf.dtype, state) == jax.tree.map(lambda leaf: leaf.dtype, trained[1])
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    with pytest.raises(
        ValueError, match=r"config\.model\.compute_dtype='float8': must be one of \('float32', 'bfloat16'\)"
    ):
        config.model.compute_dtype = "float8"
        train(config, tmp_path / "other", say=lambda line: None)
