"""Products summed in blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lipjax.ops import blocked
from lipjax.ops.convolution import blocked_sums, linear_operator


@pytest.mark.parametrize("count", [1, 31, 32, 33, 256, 257, 1000])
def test_product_is_the_product(rng, float64, count):
    x, matrix = rng.normal(size=(2, 3, count)), rng.normal(size=(count, 5))
    np.testing.assert_allclose(blocked.product(x, matrix), x @ matrix, rtol=1e-12, atol=1e-12)
    stack = rng.normal(size=(2, count, 5))
    np.testing.assert_allclose(blocked.product(x, stack), x @ stack, rtol=1e-12, atol=1e-12)
    assert blocked.blocks(count) == -(-count // blocked.BLOCK)


def products(jaxpr, times=1):
    """(products of each sum, how often it is made) of every matrix product and convolution, inside loops too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.invars[0].aval.shape[-1], times
        elif equation.primitive.name == "conv_general_dilated":
            yield int(np.prod(equation.invars[1].aval.shape[:3])), times
        for inner in (equation.params.get("jaxpr"), *equation.params.get("branches", ())):
            if inner is not None:
                yield from products(getattr(inner, "jaxpr", inner), times * equation.params.get("length", 1))


@pytest.mark.parametrize(
    ("k", "size", "channels"),
    [(1, 4, 40), (1, 1, 512), (3, 2, 40), (3, 1, 5), (3, 4, 8), (3, 4, 100), (3, 8, 256), (5, 4, 20), (5, 3, 4)],
)
def test_the_sums_are_those_that_the_proof_counts(k, size, channels):
    """No block has more products than `blocked_sums` says, and there are no more blocks."""
    kernel = jnp.zeros((k, k, channels, channels))
    run = jax.make_jaxpr(lambda x: linear_operator(kernel, size, size, "blocked")(x))
    found = list(products(run(jnp.zeros((1, size, size, channels))).jaxpr))
    most, count = blocked_sums(k, size, size, channels)
    assert max(number for number, _ in found) == most
    assert sum(times for _, times in found) == count
