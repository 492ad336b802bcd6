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


def dual_optimum(w1: jax.Array, pairs: Pairs, start: jax.Array) -> jax.Array:
    """Proposes δ (P, D) near the maximiser of the dual function of each pair, from `start` (P, D); float64 only.

    Pair after pair, with one compiled inner solve: under vmap every pair would wait for the slowest of nested loops.
    Where a solve ends in something that is not finite, the proposal is `start`.

    Raises:
      ValueError: called in float32 (outside `jax.enable_x64`): its tolerances would lie below the rounding.
    """
    if start.dtype != jnp.float64:
        raise ValueError(f"start: dtype must be float64, got {start.dtype}; call under jax.enable_x64(True)")
    proposals = [_maximise(w1, Pairs(*(part[n] for part in pairs)), start[n]) for n in range(len(start))]
    return jnp.stack(proposals)


def _maximise(w1, pair: Pairs, start):
    highest = float(_highest(w1, pair, start))
    if not 0 < highest < float("inf"):
        return start
    # check_bracket=True raises where there is no root; `sign` tells as much: −1 for a falling function with a root.
    bisection = jaxopt.Bisection(
        lambda eta: _minimiser(w1, pair, start, eta)[1],
        0.0, highest, maxiter=_BISECTIONS, tol=1e-11, check_bracket=False, jit=False,
    )  # fmt: skip
    state = bisection.init_state()
    eta = highest
    if int(state.sign) == -1:
        for _ in range(_BISECTIONS):
            eta, state = bisection.update(None, state)
            if state.error <= bisection.tol:
                break
        else:
            eta = state.low  # the end with f(δ(η)) > 0, and η < 1/m
    delta, _, error = _minimiser(w1, pair, start, eta)
    return jnp.where(jnp.isfinite(delta).all() & jnp.isfinite(error), delta, start)


@jax.jit
def _highest(w1, pair: Pairs, start):
    """The right end of the bracket: 1/m (a little less), or 8 times the η = ‖δ‖ / ‖g‖ that `start` suggests."""
    slope = softplus_and_slope(pair.z + w1 @ start)[1]
    return jnp.minimum(0.9999 / pair.m, 8 * jnp.linalg.norm(start) / jnp.linalg.norm((pair.w * slope) @ w1))


@jax.jit
def _minimiser(w1, pair: Pairs, start, eta):
    """(δ(η), f(δ(η)), the norm of the Lagrangian's gradient there)."""

    def margin(delta):
        return jnp.dot(pair.w, softplus_and_slope(pair.z + w1 @ delta)[0]) + pair.b

    def lagrangian(delta):
        return jnp.dot(delta, delta) / 2 + eta * margin(delta)

    inner = jaxopt.LBFGS(lagrangian, maxiter=_INNER_STEPS, tol=_INNER_TOLERANCE, implicit_diff=False)
    delta, state = inner.run(start)
    return delta, margin(delta), state.error
