import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lipjax
from lipjax import ops
from lipjax.layers import SkewOrthogonalConv
from lipjax.layers.folded import is_matrix
from lipjax.layers.skew_orthogonal_conv import held_polynomial

NETWORKS = {
    "held": {"polynomial": held_polynomial(4, 1.9)},
    "paper": {"polynomial": ops.taylor(6), "eval_polynomial": ops.taylor(15)},
    "crc": {"head": "crc", "hidden": 6, "pooling": "projection"},
    "padded": {"init_channels": 4, "in_channels": 7, "depth": 10},
}


@pytest.fixture(scope="module", params=NETWORKS)
def networks(request):
    """(network, its variables, folded network, its variables, images)."""
    attributes = {"init_channels": 4, "input_size": 8, "in_channels": 2, "num_classes": 5} | NETWORKS[request.param]
    model = lipjax.LipConvnet(**attributes)
    images = jax.random.uniform(jax.random.key(1), (3, 8, 8, model.in_channels))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    return model, variables, *lipjax.fold(model, variables), images


def test_outputs_are_the_same_without_spectral_state(networks):
    model, variables, folded, folded_variables, images = networks
    assert set(folded_variables) == {"params"}
    for method in ("__call__", "features"):
        expected = model.apply(variables, images, method=method)
        actual = folded.apply(folded_variables, images, method=method)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_only_layers_of_few_pixels_are_matrices(networks):
    model, _, _, folded_variables, _ = networks
    for step in model.steps():
        assert ("matrix" in folded_variables["params"][step.name]) == (max(step.size) <= 4)
    assert not is_matrix(4, 257)
    assert is_matrix(4, 256)


def test_bound_holds_for_the_folded_network(networks):
    model, variables, folded, folded_variables, images = networks
    bound = folded.lipschitz_bound(folded_variables)
    np.testing.assert_allclose(bound, model.lipschitz_bound(variables), rtol=5e-3)
    bounds = {name: proof.lipschitz for name, proof in lipjax.prove(folded, folded_variables).proof.links()}
    for step in model.steps():
        params = folded_variables["params"][step.name]
        if "matrix" in params:
            assert bounds[step.name] >= np.linalg.norm(np.float64(params["matrix"]), 2)
    y = images + 1e-2 * jax.random.normal(jax.random.key(2), images.shape)
    distances = [np.linalg.norm(folded.apply(folded_variables, image, method="features")) for image in (images, y)]
    assert abs(distances[0] - distances[1]) <= bound * np.linalg.norm(images - y)


def test_a_folded_kernel_that_is_not_skew_has_no_bound(networks):
    model, _, folded, folded_variables, _ = networks
    name = next(step.name for step in model.steps() if "kernel" in folded_variables["params"][step.name])
    layer = folded_variables["params"][name]
    changed = layer | {"kernel": layer["kernel"].at[0, 0, 0, 1].add(1e-6)}
    with pytest.raises(ValueError, match="the kernel is not skew"):
        folded.lipschitz_bound({"params": folded_variables["params"] | {name: changed}})


def test_certificates_of_the_folded_network(networks):
    model, variables, folded, folded_variables, images = networks
    labels = np.asarray(model.apply(variables, images).argmax(1))
    expected = lipjax.certify(model, variables, np.asarray(images), labels)
    actual = lipjax.certify(folded, folded_variables, np.asarray(images), labels)
    np.testing.assert_array_equal(actual.rival, expected.rival)
    np.testing.assert_allclose(actual.radius, expected.radius, rtol=6e-3)


def test_folding_in_float64_is_exact_to_rounding(float64):
    model = lipjax.LipConvnet(init_channels=4, input_size=8, in_channels=2)
    images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 2), jnp.float64)
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), jax.jit(model.init)(jax.random.key(0), images))
    folded, folded_variables = lipjax.fold(model, variables)
    np.testing.assert_allclose(folded.apply(folded_variables, images), model.apply(variables, images), rtol=1e-12)


def test_folding_twice_and_tightening_after_folding_change_nothing(networks):
    _, _, folded, folded_variables, _ = networks
    again, variables = lipjax.fold(folded, folded_variables)
    assert again == folded
    for same in (variables, folded.tightened(folded_variables)):
        jax.tree.map(np.testing.assert_array_equal, same, folded_variables)


def test_a_matrix_beside_the_kernel_that_runs_proves_nothing(networks):
    """What is bounded is what `__call__` takes, whatever else the parameters hold."""
    model, _, folded, folded_variables, _ = networks
    name = next(step.name for step in model.steps() if "kernel" in folded_variables["params"][step.name])
    layer = {**folded_variables["params"][name], "matrix": np.zeros((2, 2), np.float32)}
    forged = {"params": folded_variables["params"] | {name: layer}}
    assert folded.lipschitz_bound(forged) == folded.lipschitz_bound(folded_variables)


@pytest.mark.parametrize("shape", [(3, 6, 4), (6, 3, 4), (2, 4, 4), (4, 1, 2)])
@pytest.mark.parametrize("polynomial", [held_polynomial(4, 1.9), ops.taylor(6)])
def test_rectangles_are_proven_and_folded(shape, polynomial, float64):
    layer = SkewOrthogonalConv(4, polynomial=polynomial)
    x = jax.random.normal(jax.random.key(1), (2, *shape), jnp.float64)
    own = layer.tightened(layer.init(jax.random.key(0), x), shape)
    folded, folded_own = layer.folded(own, shape)
    for one, variables in ((layer, own), (folded, folded_own)):
        jacobian = jax.jacobian(lambda x, one=one, v=variables: one.evaluate(v, x[None]).ravel())(x[0])
        norm = np.linalg.norm(np.reshape(jacobian, (jacobian.shape[0], -1)), 2)
        assert norm <= one.proof(variables, shape).lipschitz <= 1.01 * norm
    np.testing.assert_allclose(folded.evaluate(folded_own, x), layer.evaluate(own, x), rtol=0, atol=1e-12)
