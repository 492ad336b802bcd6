"""Pure functions on arrays: no Flax, no files, no global state."""

from lipjax.ops.activations import householder, householder2, max_min
from lipjax.ops.bounds import conv_norm_bound
from lipjax.ops.curvature import curvature_bound
from lipjax.ops.curves import curve_distance
from lipjax.ops.equiripple import equiripple
from lipjax.ops.orthogonal import GRADIENTS, orthogonal_conv
from lipjax.ops.polynomials import Polynomial, taylor
from lipjax.ops.pooling import max_pool, projection_pool, space_to_depth
from lipjax.ops.skew import skew_kernel

__all__ = [
    "GRADIENTS",
    "Polynomial",
    "conv_norm_bound",
    "curvature_bound",
    "curve_distance",
    "equiripple",
    "householder",
    "householder2",
    "max_min",
    "max_pool",
    "orthogonal_conv",
    "projection_pool",
    "skew_kernel",
    "space_to_depth",
    "taylor",
]
