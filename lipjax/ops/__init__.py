"""Pure functions on arrays: no Flax, no files, no global state."""

from lipjax.ops.activations import beta_abs, householder, householder2, max_min, n_activation
from lipjax.ops.bounds import conv_norm_bound
from lipjax.ops.curvature import curvature_bound
from lipjax.ops.curves import curve_distance
from lipjax.ops.equiripple import equiripple
from lipjax.ops.orthogonal import GRADIENTS, orthogonal_conv
from lipjax.ops.orthonormal import polar
from lipjax.ops.polynomials import Polynomial, taylor
from lipjax.ops.pooling import l2_pool, max_pool, projection_pool, shift, space_to_depth
from lipjax.ops.skew import skew_kernel

__all__ = [
    "GRADIENTS",
    "Polynomial",
    "beta_abs",
    "conv_norm_bound",
    "curvature_bound",
    "curve_distance",
    "equiripple",
    "householder",
    "householder2",
    "l2_pool",
    "max_min",
    "max_pool",
    "n_activation",
    "orthogonal_conv",
    "polar",
    "projection_pool",
    "shift",
    "skew_kernel",
    "space_to_depth",
    "taylor",
]
