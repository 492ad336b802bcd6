"""The chain of proof of a network."""

import math
from fractions import Fraction

import jax
import numpy as np
import pytest

import lipjax
from lipjax.layers import SkewOrthogonalConv
from lipjax.layers.layer import own_of, product, root_sum_of_squares

SIZE = 8
NETWORKS = {
    "held": {},
    "paper": {"polynomial": lipjax.ops.taylor(6), "eval_polynomial": lipjax.ops.taylor(15), "pooling": "projection"},
    "crc": {"head": "crc", "hidden": 8, "pooling": "polyline", "activation": "householder"},
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    model = lipjax.LipConvnet(init_channels=4, input_size=SIZE, in_channels=1, **NETWORKS[request.param])
    variables = model.init(jax.random.key(0), np.zeros((1, SIZE, SIZE, 1), np.float32))
    return model, variables


def test_the_product_of_the_links_is_the_bound_of_the_network(network):
    model, variables = network
    chain = lipjax.prove(model, variables).proof.links()
    bound = model.lipschitz_bound(variables)
    assert bound == product(proof.lipschitz for _, proof in chain)
    exact = math.prod(proof.lipschitz for _, proof in chain)
    assert exact <= bound <= exact * (1 + 1e-14)
    assert chain[0][0] == "input"
    assert chain[0][1].lipschitz >= 1 / model.input_scale()[1].min()


def test_every_map_has_its_link_in_order(network):
    model, variables = network
    names = [name for name, _ in lipjax.prove(model, variables).proof.links()]
    expected = ["input"]
    for step in model.steps():
        expected += [f"{step.name}_rearrangement"] * step.rearrange
        expected += [step.name, f"{step.name}_pool" if step.pool else f"{step.name}_activation"]
    assert names == [*expected, "flatten"]
    assert len(set(names)) == len(names)


def test_links_of_convolutions_bound_their_operators(network):
    """Each convolution as a matrix: its norm is below the link's bound, which is the gain at the link's norm."""
    model, variables = network
    links, layers = dict(lipjax.prove(model, variables).proof.links()), dict(model.parts()[0].layers)
    for step in model.steps():
        link, layer, own = links[step.name], layers[step.name], own_of(variables, step.name)
        assert isinstance(layer, SkewOrthogonalConv)
        assert link == layer.proof(own, (*step.size, step.in_channels))
        assert link.lipschitz == (model.eval_polynomial or model.polynomial).gain(link.norm)[1]
        assert f"{step.size[0]}×{step.size[1]} pixels" in link.kind
        with jax.enable_x64(True):
            own = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), own)
            unknowns = math.prod(step.size) * step.in_channels
            images = np.eye(unknowns).reshape(unknowns, *step.size, step.in_channels)
            zero = np.zeros_like(images[:1])
            matrix = np.asarray(layer.apply(own, images) - layer.apply(own, zero)).reshape(unknowns, -1)
            kernel = layer.normalised_kernel(own)
            channels = kernel.shape[-1]
            images = np.eye(math.prod(step.size) * channels).reshape(-1, *step.size, channels)
            operator = lipjax.ops.orthogonal_conv(images, kernel, lipjax.ops.Polynomial((1.0,))) - images
        norm = np.linalg.norm(np.asarray(operator).reshape(len(images), -1), 2)
        assert norm <= link.norm * (1 + 1e-12)  # rounding of the normalised kernel is not in the bound
        assert link.norm <= 1.1 * norm
        true = np.linalg.norm(matrix, 2)
        assert true <= link.lipschitz * (1 + 1e-12)  # 1e-12: rounding of the matrix, which is not exact
        assert link.lipschitz <= 1.1 * true


def test_folded_networks_have_a_chain_too(network):
    model, variables = lipjax.fold(*network)
    chain = [proof for _, proof in lipjax.prove(model, variables).proof.links()]
    assert model.lipschitz_bound(variables) == product(proof.lipschitz for proof in chain)
    assert any("Gram" in proof.why for proof in chain)


def test_products_are_rounded_up():
    assert product([1 / 3, 1 / 3]) > (1 / 3) * (1 / 3)
    assert product([1.0] * 1000) == 1.0
    assert product([]) == 1.0


def test_products_and_roots_of_sums_of_squares_are_above_the_exact_ones(rng):
    """By rational arithmetic; many terms, so that the last rounding up does not cover the others."""
    for _ in range(50):
        bounds = rng.uniform(0.5, 2.0, size=200).tolist()
        exact = math.prod(map(Fraction, bounds))
        assert exact <= Fraction(product(bounds)) <= exact * (1 + Fraction(1, 10**12))
        squares = sum(Fraction(bound) ** 2 for bound in bounds)
        assert squares <= Fraction(root_sum_of_squares(bounds)) ** 2 <= squares * (1 + Fraction(1, 10**12))


@pytest.mark.parametrize("bounds", [[1e-200, 1e-200], [1e200, 1e200], [0.0, 3.0, 4.0], [1e-160, 1.0]])
def test_roots_of_sums_of_squares_at_the_ends_of_the_range(bounds):
    exact = sum(Fraction(bound) ** 2 for bound in bounds)
    assert exact <= Fraction(root_sum_of_squares(bounds)) ** 2 <= exact * 4
