"""Borders for the compiler: what it must keep, and what it must compute again."""

from collections.abc import Callable
from typing import Any

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


def recomputed(function: Callable[[Any, jax.Array], Any]) -> Callable[[Any, jax.Array], Any]:
    """function(variables, x) that keeps x alone for its backward pass, and computes what depends on it again there.

    As `jax.checkpoint`, whose `lax.optimization_barrier` XLA drops on the CPU: there it then finds the second
    computation to be the first, and saves nothing.
    """

    @jax.custom_vjp
    def run(variables, x):
        return function(variables, x)

    def forward(variables, x):
        return function(variables, x), (variables, x)

    def backward(kept, cotangent):
        variables, x = kept
        return jax.vjp(function, variables, _after(x, jax.tree.leaves(cotangent)[0]))[1](cotangent)

    run.defvjp(forward, backward)
    return run


def _after(x, cotangent):
    """x, which the compiler may use only once it has the cotangent."""
    return lax.platform_dependent(
        x,
        cotangent,
        cpu=lambda x, g: lax.cond(g.ravel()[0] * 0 != 1, _same, jnp.negative, x),
        default=lambda x, g: lax.optimization_barrier((x, g))[0],
    )
