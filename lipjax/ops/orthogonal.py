"""Skew orthogonal convolution y = p(A) x with exact, fast (paper, section 4) or rank-two kernel gradients.

In convolutions, forward and backward, for degree d: exact 3d, fast 2d + 1, rank2 2d + 2.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from lipjax.ops.convolution import linear_operator, weight_gradient
from lipjax.ops.polynomials import Polynomial
from lipjax.ops.skew import check_kernel, check_skew

GRADIENTS = ("fast", "exact", "rank2")

# σ of the rank-two gradient for a polynomial made for no interval, as Taylor's: under the four-norm normalisation the
# kernels of trained networks have ‖A‖ from 1.5 to 2.8.
_TYPICAL_NORM = 2.0


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
        respect to x is exact in every case.  'rank2' (not in the paper) is the best sum of two such terms for ‖A‖ about
        polynomial.norm (2 if None): two kernel gradients, two stored activations; several times closer to 'exact' than
        'fast' is, and equal to it up to degree 2.
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
    if gradient == "rank2":
        return _rank2(x, kernel, polynomial, operator)
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _rank2(x, kernel, polynomial, operator):
    return _nest(x, kernel, polynomial, operator)[0]  # not differentiated: the very bits of the other gradients


def _rank2_fwd(x, kernel, polynomial, operator):
    y, combinations = _krylov(x, kernel, polynomial, operator)
    return y, ([u.astype(kernel.dtype) for u in combinations], kernel)


def _rank2_bwd(polynomial, operator, residuals, g):
    """Start with y = Σ a_k Aᵏ x, A skew.  In x: p(−A) g, as for the fast gradient.  In A, with i + j = k − 1:

        Σ_ij H_ij ((−A)ⁱ g) ⊗ (Aʲ x),    H_ij = a_{i+j+1}, 0 where i + j >= d       (equation 4, expanded).

    What counts of H is LᵀHL, with L Lᵀ the Gram matrix of the powers Aʲ x (`_gram_factor`).  Its two eigenpairs
    (λ_r, e_r) of largest |λ_r| leave, with w_r = L⁻ᵀ e_r, Σ_r λ_r (Σ_i w_ri (−A)ⁱ g) ⊗ (Σ_j w_rj Aʲ x).
    """
    combinations, kernel = residuals
    x_gradient, g_combinations = _krylov(g, kernel, polynomial, operator, sign=-1.0)
    eigenvalues = _leading_eigenpairs(polynomial)[0]
    kernel_gradient = sum(
        weight_gradient(u, (eigenvalue * v).astype(kernel.dtype), kernel.shape[0])
        for eigenvalue, u, v in zip(eigenvalues, combinations, g_combinations, strict=True)
    )
    return x_gradient, kernel_gradient


def _krylov(x, kernel, polynomial, operator, sign=1.0):
    """(p(±A) x, [Σ_j w_rj (±A)ʲ x for r = 1, 2]) from the powers (±A)ʲ x, each used at once and not kept.

    Rounds a little more than the nest: in float32 with 14 powers at ‖A‖ = 2.8 relative errors of 3e-7 and 2.4e-7.
    """
    apply = _operator(x, kernel, operator)
    weights = _leading_eigenpairs(polynomial)[1]
    first, *expanded = _expanded(polynomial)
    y, combinations = first * x, [0.0] * len(weights)
    for j, a in enumerate(expanded):
        combinations = [total + w[j] * x for total, w in zip(combinations, weights, strict=True)]
        x = sign * apply(x)
        y = y + a * x
    return y, combinations


@functools.lru_cache(maxsize=256)
def _leading_eigenpairs(polynomial: Polynomial) -> tuple[list[float], list[list[float]]]:
    """(λ_r, w_r) of the two eigenpairs of LᵀHL of largest |λ_r| (see `_rank2_bwd`), of the only one if d = 1."""
    factor = _gram_factor(polynomial.degree, polynomial.norm or _TYPICAL_NORM)
    hankel = scipy.linalg.hankel(_expanded(polynomial)[1:])
    eigenvalues, eigenvectors = np.linalg.eigh(factor.T @ hankel @ factor)
    leading = np.argsort(-np.abs(eigenvalues))[:2]
    weights = scipy.linalg.solve_triangular(factor, eigenvectors[:, leading], trans="T", lower=True)
    return eigenvalues[leading].tolist(), weights.T.tolist()


def _gram_factor(degree: int, norm: float) -> np.ndarray:
    """Lower triangular L with L Lᵀ ∝ (⟨Aⁱ x, Aʲ x⟩)_ij, i, j < degree, for a semicircle spectrum of iA on ±norm.

    That is the spectrum of a random skew matrix.  Its orthogonal polynomials are Chebyshev's of the second kind, hence
    L_in = ± (binom(i, m) − binom(i, m − 1)) (norm/2)ⁱ with m = (i − n)/2, 0 for odd i − n, and the sign (−1)ᵐ of i²ᵐ.
    """
    factor = np.zeros((degree, degree))
    for i in range(degree):
        for m in range(i // 2 + 1):
            ballot = math.comb(i, m) - (math.comb(i, m - 1) if m else 0)
            factor[i, i - 2 * m] = (-1) ** m * ballot * (norm / 2) ** i
    return factor


def _expanded(polynomial: Polynomial) -> list[float]:
    """a_0 … a_d of p(z) = Σ a_k zᵏ: a_0 = s, a_k = a_{k−1} c_k."""
    return np.cumprod([polynomial.scale, *polynomial.coefficients]).tolist()


_rank2.defvjp(_rank2_fwd, _rank2_bwd)
