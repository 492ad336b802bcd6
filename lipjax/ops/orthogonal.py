"""Skew orthogonal convolution y = p(A) x with exact or fast (paper, section 4) kernel gradients.

In convolutions, forward and backward, for degree d: exact 3d, fast 2d + 1.
"""

import functools

import jax
import jax.numpy as jnp

from lipjax.ops.convolution import linear_operator, weight_gradient
from lipjax.ops.polynomials import Polynomial
from lipjax.ops.skew import check_kernel, check_skew

GRADIENTS = ("fast", "exact")


def orthogonal_conv(
    x: jax.Array, kernel: jax.Array, polynomial: Polynomial, gradient: str = "fast", operator: str | None = None
) -> jax.Array:
    """y = p(A) x = s [x + c1 A (x + c2 A (x + ... cd A x))], A the zero-padded convolution with a skew kernel.

    With Taylor coefficients this is the truncated exponential of equation 1, nested as in equation 2.

    Args:
      x: (N, H, W, C) activations.
      kernel: (k, k, C, C) HWIO, skew (see `skew_kernel`) and already normalised.  The backward pass relies on Aᵀ = −A;
        it is checked where the kernel is not traced.  If it is of half precision, A is applied in that precision and
        activations are kept in it for the backward pass, while sums are in the dtype of x: a bfloat16 kernel with
        float32 x halves the memory and lets tensor cores multiply.
      polynomial: nested coefficients and scale.
      gradient: 'exact' differentiates through the nest: d kernel gradients.  'fast' is the paper's equation 5 for any
        coefficients: one kernel gradient, s·c1·(v1 ⊗ u1), and only u1 is stored whatever the degree; the gradient with
        respect to x is exact in either case.
      operator: how A is applied, one of `convolution.OPERATORS`; None: by the rule of `convolution.chosen_operator`.

    Returns:
      (N, H, W, C), in the dtype of x.

    Raises:
      ValueError: unknown gradient, kernel not (k, k, C, C) with k odd, or not skew, other channels in x than in kernel,
        an operator that is unknown or not for this kernel.
    """
    check_kernel("orthogonal_conv", kernel)
    check_skew("orthogonal_conv", kernel)
    if x.ndim != 4 or x.shape[-1] != kernel.shape[-1]:
        raise ValueError(f"orthogonal_conv: x must be (N, H, W, {kernel.shape[-1]}) as the kernel, got {x.shape}")
    if gradient == "exact":
        return _nest(x, kernel, polynomial, operator)[0]
    if gradient == "fast":
        return _fast(x, kernel, polynomial, operator)
    raise ValueError(f"orthogonal_conv: gradient must be one of {GRADIENTS}, got {gradient!r}")


def _nest(x, kernel, polynomial, operator, sign=1.0):
    """(p(±A) x, u1): u_d = x, u_{j−1} = x + c_j (±A) u_j, and p(±A) x = s u_0 (equation 2)."""
    apply = _operator(x, kernel, operator)
    u = x
    for c in reversed(polynomial.coefficients[1:]):
        u = x + (sign * c) * apply(u)
    return polynomial.scale * (x + (sign * polynomial.coefficients[0]) * apply(u)), u


def _operator(x, kernel, operator):
    """u → A u in the dtype of x, computed in that of a kernel of half precision, else in the wider of the two."""
    is_half = jnp.finfo(kernel.dtype).bits == 16
    kernel = kernel if is_half else kernel.astype(jnp.promote_types(kernel.dtype, x.dtype))
    _, height, width, _ = x.shape
    apply = linear_operator(kernel, height, width, operator)
    return lambda u: apply(u.astype(kernel.dtype)).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _fast(x, kernel, polynomial, operator):
    return _nest(x, kernel, polynomial, operator)[0]


def _fast_fwd(x, kernel, polynomial, operator):
    y, u1 = _nest(x, kernel, polynomial, operator)
    return y, (u1.astype(kernel.dtype), kernel)


def _fast_bwd(polynomial, operator, residuals, g):
    """Start with y = p(A) x, A skew.  In x: ∂ᵀ = p(A)ᵀ = p(−A), the same nest with −A (equation 3).

    In A: y = s (x + c1 A u1).  Differentiating every A in the nest gives, with v_d = g and v_{j−1} = g − c_j A v_j,
    a sum of d outer products (equation 4); its leading term is s c1 v1 ⊗ u1, obtained by letting only the outermost A
    vary while the cotangent that reaches it is carried through the other factors as v1 (equation 5).
    """
    u1, kernel = residuals
    x_gradient, v1 = _nest(g, kernel, polynomial, operator, sign=-1.0)
    v1 = ((polynomial.scale * polynomial.coefficients[0]) * v1).astype(kernel.dtype)
    return x_gradient, weight_gradient(u1, v1, kernel.shape[0])


_fast.defvjp(_fast_fwd, _fast_bwd)
