"""The general proposal for hard (image, rival) pairs: maximise the dual function over η.  The only user of jaxopt.

For 0 <= η < 1/m the Lagrangian ½‖δ‖² + η f(δ) is strictly convex in δ; with its minimiser δ(η) the dual function has
the derivative f(δ(η)), which falls as η grows.  jaxopt's LBFGS finds δ(η), its Bisection the root of f(δ(η)), or the
right end of the bracket where there is none (a duality gap: f(δ(η)) > 0 up to 1/m).

jaxopt is no longer maintained; what it returns is a proposal only, evaluated afresh by `ops.crc.lower_bound`, which
holds at any δ.  An inaccurate or failed solve can therefore cost radius, never truth.
"""

import warnings

import jax
import jax.numpy as jnp

from lipjax.ops.crc import Pairs, softplus_and_slope

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="JAXopt is no longer maintained", category=DeprecationWarning)
    import jaxopt

# The bound loses only the squares of the errors in η and δ, so these go far below the 1e-6 that counts as exact.
_BISECTIONS = 18
_INNER_STEPS = 100
_INNER_TOLERANCE = 1e-8


@jax.jit
def dual_optimum(w1: jax.Array, pairs: Pairs, start: jax.Array) -> jax.Array:
    """Proposes δ (P, D) near the maximiser of the dual function of each pair, from `start` (P, D); float64 only.

    Where a solve ends in something that is not finite, the proposal is `start`.

    Raises:
      ValueError: called in float32 (outside `jax.enable_x64`): its tolerances would lie below the rounding.
    """
    if start.dtype != jnp.float64:
        raise ValueError(f"start: dtype must be float64, got {start.dtype}; call under jax.enable_x64(True)")
    # A loop, not vmap: under vmap every pair would wait for the slowest of all nested loops.
    return jax.lax.map(lambda pair: _solve(w1, *pair), (pairs, start))


def _solve(w1, pair: Pairs, start):
    def margin(delta):
        return jnp.dot(pair.w, softplus_and_slope(pair.z + w1 @ delta)[0]) + pair.b

    def lagrangian(delta, eta):
        return jnp.dot(delta, delta) / 2 + eta * margin(delta)

    inner = jaxopt.LBFGS(lagrangian, maxiter=_INNER_STEPS, tol=_INNER_TOLERANCE, implicit_diff=False)

    def minimiser(eta):
        solution = inner.run(start, eta)
        return solution.params, solution.state.error

    # At the optimum η = ‖δ‖ / ‖g‖; eight times that of `start` brackets it unless 1/m comes first.
    g = jax.grad(margin)(start)
    highest = jnp.minimum(0.9999 / pair.m, 8 * jnp.linalg.norm(start) / jnp.linalg.norm(g))
    # check_bracket raises under jit, so the ends are read from `sign`: −1 is a falling function with a root inside.
    bisection = jaxopt.Bisection(
        lambda eta: margin(minimiser(eta)[0]), 0.0, highest, maxiter=_BISECTIONS, tol=1e-11, check_bracket=False
    )
    state = bisection.init_state()
    state = jax.lax.while_loop(
        lambda s: (s.iter_num < _BISECTIONS) & (s.error > 1e-11) & (s.sign == -1),
        lambda s: bisection.update(None, s).state,
        state,
    )
    # state.low keeps f(δ(η)) > 0: the side where the dual function still rises, and η < 1/m.
    delta, error = minimiser(jnp.where(state.sign == -1, state.low, highest))
    return jnp.where(jnp.isfinite(delta).all() & jnp.isfinite(error), delta, start)
