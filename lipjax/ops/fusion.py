"""A border for the compiler's fusion."""

import jax
import jax.numpy as jnp
from jax import lax


def stored(x: jax.Array) -> jax.Array:
    """x itself, (…), computed once and kept in memory; the same for its cotangent.

    XLA on the CPU fuses chains of cheap operations across the whole depth of a network, once for each use of each
    layer, and so computes the same poolings and residual sums again and again.  It drops `lax.optimization_barrier`
    before it fuses, but not a conditional whose predicate is known at run time only.  GPUs and TPUs fuse soberly and
    need nothing.  Under vmap, and for integers, there is no border.
    """
    if x.size == 0:
        return x
    return lax.platform_dependent(x, cpu=_behind_conditional, default=_same)


def _behind_conditional(x):
    # Always true, which the compiler cannot know; were both branches the same, it would drop the conditional.
    predicate = lax.stop_gradient(x.ravel()[0]) * 0 != 1
    return lax.cond(predicate, _same, jnp.negative, x)


def _same(x):
    return x
