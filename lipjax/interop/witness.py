"""How much a layer was seen to enlarge a distance: a bound of its Lipschitz constant from below."""

import jax
import jax.numpy as jnp

from lipjax.layers import Layer
from lipjax.layers.layer import Shape, Variables
from lipjax.ops.arithmetic import in_float64

STEPS = 300


def gain_found(layer: Layer, own: Variables, shape: Shape, steps: int = STEPS) -> float:
    """‖J v‖ / ‖v‖ of the Jacobian J of the layer at a random input, v after so many power iterations, in float64.

    A directional derivative, so no Lipschitz constant of the layer is smaller, whatever v is.
    """
    with in_float64():
        own = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), dict(own))
        of_x, of_v = jax.random.split(jax.random.key(0))
        x = jax.random.normal(of_x, (1, *shape), jnp.float64)
        start = jax.random.normal(of_v, (1, *shape), jnp.float64)
        return float(_gain(layer, own, x, start, steps))


def _gain(layer, own, x, start, steps):
    y, back = jax.vjp(lambda x: layer.evaluate(own, x), x)
    _, forth = jax.vjp(lambda u: back(u)[0], jnp.zeros_like(y))  # back is linear; its transpose is J

    def step(_, v):
        w = back(forth(v)[0])[0]
        return w / jnp.maximum(jnp.linalg.norm(w), jnp.finfo(w.dtype).tiny)

    v = jax.lax.fori_loop(0, steps, step, start)
    return jnp.linalg.norm(forth(v)[0]) / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)
