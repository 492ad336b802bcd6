"""Steps down a convex potential, x − 2 Vᵀ σ(V x + b) with ‖V‖ <= 1: what is proven of them.

σ = ReLU is the derivative of a convex function, of slope in [0, 1], so with δ the change of x, and η that of
σ(V x + b), η·(Vδ) >= ‖η‖², and

    ‖δ − 2 Vᵀη‖² = ‖δ‖² − 4 η·(Vδ) + 4 ‖Vᵀη‖² <= ‖δ‖² + 4 (ρ − 1) ‖η‖²,   ρ = ‖V‖²,

at most ‖δ‖² where ρ <= 1, and at most ‖δ‖² (1 + 4 (ρ − 1) ρ) = ‖δ‖² (2ρ − 1)² otherwise, as ‖η‖ <= ‖Vδ‖.  Convex
potential layers have V = W / ‖W‖ (Meunier et al., ICML 2022), SDP-based ones T^(−½) Wᵀ with a diagonal T >= WᵀW
(Araujo et al., ICLR 2023): σ is positively homogeneous, so that a positive scale may stand before or after it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lipjax.layers import plain
from lipjax.layers.convolution import applied_rounding, evaluated, sides
from lipjax.layers.layer import Proof, Shape, norm_at_zero, up
from lipjax.layers.rounding import COARSEST, Rounding, enlarged, gamma, underflow
from lipjax.ops.blocked import of_bias
from lipjax.ops.general_conv import adjoint, conv
from lipjax.ops.nonnegative import nonnegative_conv_norm_bound


def potential_step(x: jax.Array, kernel: jax.Array, bias: jax.Array, features: int, blocked: bool) -> jax.Array:
    """x − 2 Vᵀ max(V x + b, 0), (N, H, W, C_in) → (N, H, W, features), V with the kernel (k, k, C, inner), b (inner,).

    x is zero-padded to C = max(C_in, features) channels, and the first `features` are kept.
    """
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, kernel.shape[2] - x.shape[-1])))
    apply = evaluated if blocked else conv
    return (x - 2 * apply(jax.nn.relu(apply(x, kernel) + bias), adjoint(kernel)))[..., :features]


def plain_step(kernel: jax.Array, bias: jax.Array, features: int, shape: Shape) -> plain.Plain:
    """`potential_step` of images of that shape."""
    channels, back = kernel.shape[2], plain.conv(-2 * adjoint(jnp.asarray(kernel)))
    step = plain.total([], [plain.conv(kernel, bias), plain.activation("relu"), back])
    return [*plain.more_channels(shape[2], channels), step, *plain.first_channels(channels, features)]


def potential_proof(
    kind: str, why: str, norm: float, kernel: np.ndarray, off: float | None, bias: np.ndarray, shape: Shape
) -> Proof:
    """The proof of a `potential_step` with ‖V‖ <= norm.

    Args:
      kernel, bias: of V and b, as computed in float64.
      off: by how many units of roundoff they are off, by the same part for all of one inner channel; None: no rounding
        is stated.
    """
    size, inner = sides(shape), kernel.shape[3]
    bound = 1.0 if norm <= 1 else up(2 * up(norm * norm) - 1)
    within = (*size, inner)
    part = 1.0 if off is None else 1 + gamma(off)
    offset = 2 * norm * norm_at_zero(np.maximum(bias, 0), within) * part * (1 + 1e-12)
    rounding = None
    if off is not None:
        rounding = _rounding(norm, kernel, off, norm_at_zero(bias, within) * part, bound, offset, size)
    of_size = f"{kind}, {kernel.shape[2]} channels, {inner} inside, {size[0]}×{size[1]} pixels"
    return Proof(of_size, bound, why, offset, rounding=rounding)


def _rounding(norm, kernel, off, beta, bound, offset, size) -> Rounding:
    """With ‖b‖ <= β: of z = V v + b first, of norm <= ‖V‖ ‖v‖ + β; σ is exact; then of Vᵀ σ(z); of 2 w nothing; of the
    difference a unit.  Each error of an inner channel's scale is one of z or of σ(z) in that part.
    """
    absolute = nonnegative_conv_norm_bound(kernel, size) * (1 + COARSEST * gamma(off))
    computed = norm * (1 + COARSEST * gamma(off))  # the norm of V as executed
    forth = applied_rounding(kernel.shape, size, computed, absolute, 0) + gamma(off) * norm
    turned = (*kernel.shape[:2], kernel.shape[3], kernel.shape[2])
    back = applied_rounding(turned, size, computed, absolute, 0)
    back += gamma(off) * norm
    of_z = forth + gamma(1) * (norm + COARSEST * forth)
    of_b = gamma(off + of_bias(kernel[..., 0].size)) * beta
    carried = norm + COARSEST * back
    of_w, of_c = carried * of_z + back * norm, carried * of_b + back * beta
    relative = 2 * of_w + gamma(1) * (bound + 2 * COARSEST * of_w)
    lost = underflow(size[0] * size[1] * max(kernel.shape[2:]), 4 * kernel[..., 0].size + 4 * kernel[:, :, 0].size)
    lost *= 4 * (1 + carried + COARSEST * of_z)
    return enlarged(relative, 2 * of_c + gamma(1) * (offset + 2 * COARSEST * of_c) + lost)
