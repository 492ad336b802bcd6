"""Skew orthogonal convolution y = p(A) x with exact or fast kernel gradients (paper, section 4)."""

import functools

import jax

from lipjax.ops.convolution import linear_operator, weight_gradient
from lipjax.ops.polynomials import Polynomial
from lipjax.ops.skew import check_kernel

GRADIENTS = ("fast", "exact")


def orthogonal_conv(x: jax.Array, kernel: jax.Array, polynomial: Polynomial, gradient: str = "fast") -> jax.Array:
    """y = p(A) x = s [x + c1 A (x + c2 A (x + ... cd A x))], A the zero-padded convolution with a skew kernel.

    With Taylor coefficients this is the truncated exponential of equation 1, nested as in equation 2.

    Args:
      x: (N, H, W, C) activations.
      kernel: (k, k, C, C) HWIO, skew (see `skew_kernel`) and already normalised; this is not checked, as it may be
        traced, and the backward pass relies on it (Aᵀ = −A).
      polynomial: nested coefficients and scale.
      gradient: 'exact' differentiates through the nest: d kernel gradients.  'fast' is the paper's equation 5 for any
        coefficients: one kernel gradient, s·c1·(v1 ⊗ u1), and only u1 is stored whatever the degree; the gradient with
        respect to x is exact either way.

    Returns:
      (N, H, W, C), in the dtype of x and kernel.

    Raises:
      ValueError: unknown gradient, kernel not (k, k, C, C) with k odd, or channels of x and kernel that differ.
    """
    check_kernel("orthogonal_conv", kernel)
    if x.ndim != 4 or x.shape[-1] != kernel.shape[-1]:
        raise ValueError(f"orthogonal_conv: x must be (N, H, W, {kernel.shape[-1]}) as the kernel, got {x.shape}")
    if gradient == "exact":
        return _nest(x, kernel, polynomial)[0]
    if gradient == "fast":
        return _fast(x, kernel, polynomial)
    raise ValueError(f"orthogonal_conv: gradient must be one of {GRADIENTS}, got {gradient!r}")


def _nest(x, kernel, polynomial, sign=1.0):
    """(p(±A) x, u1): u_d = x, u_{j−1} = x + c_j (±A) u_j, and p(±A) x = s u_0 (equation 2)."""
    operator = linear_operator(kernel, *x.shape[1:3])
    u = x
    for c in reversed(polynomial.coefficients[1:]):
        u = x + (sign * c) * operator(u)
    return polynomial.scale * (x + (sign * polynomial.coefficients[0]) * operator(u)), u


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _fast(x, kernel, polynomial):
    return _nest(x, kernel, polynomial)[0]


def _fast_fwd(x, kernel, polynomial):
    y, u1 = _nest(x, kernel, polynomial)
    return y, (u1, kernel)


def _fast_bwd(polynomial, residuals, g):
    """Start with y = p(A) x, A skew.  In x: ∂ᵀ = p(A)ᵀ = p(−A), the same nest with −A (equation 3).

    In A: y = s (x + c1 A u1).  Differentiating every A in the nest gives, with v_d = g and v_{j−1} = g − c_j A v_j,
    a sum of d outer products (equation 4); its leading term is s c1 v1 ⊗ u1, obtained by letting only the outermost A
    vary while the cotangent that reaches it is carried through the other factors as v1 (equation 5).
    """
    u1, kernel = residuals
    x_gradient, v1 = _nest(g, kernel, polynomial, sign=-1.0)
    return x_gradient, weight_gradient(u1, (polynomial.scale * polynomial.coefficients[0]) * v1, kernel.shape[0])


_fast.defvjp(_fast_fwd, _fast_bwd)
