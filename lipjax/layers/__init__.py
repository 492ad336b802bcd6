"""Flax layers over `ops`: everything that is true of a layer is said in its own file."""

from lipjax.layers.activations import BetaAbs, Householder, Householder2, MaxMin, NActivation
from lipjax.layers.almost_orthogonal_conv import AlmostOrthogonalConv
from lipjax.layers.block_reflector_conv import BlockReflectorConv
from lipjax.layers.cayley_conv import CayleyConv
from lipjax.layers.container import Container
from lipjax.layers.containers import Concatenate, Residual, Sequential, Split
from lipjax.layers.convex_potential import ConvexPotential
from lipjax.layers.curvature_head import CurvatureHead
from lipjax.layers.folded import FoldedConv
from lipjax.layers.frequency_conv import FrequencyConv
from lipjax.layers.head import Head
from lipjax.layers.last_layer_normalization import LastLayerNormalization
from lipjax.layers.layer import Layer, Proof, isometry
from lipjax.layers.linear_head import LinearHead
from lipjax.layers.orthogonal_dense import OrthogonalDense, PatchConv
from lipjax.layers.orthogonal_mixing import OrthogonalMixing, ShiftMixing
from lipjax.layers.plain_activations import Activation
from lipjax.layers.plain_linear import Affine, PlainConv, PlainDense
from lipjax.layers.pooling import GlobalL2Pool, L2Pool, MaxPool, PointPool, PolylinePool, ProjectionPool
from lipjax.layers.rearranged import TakeChannels, Unflatten, ZerosAround
from lipjax.layers.recomputed import Recomputed
from lipjax.layers.residual_conv import Centring, ResidualConv
from lipjax.layers.sdp_residual import SdpResidual
from lipjax.layers.shapes import FirstChannels, Flatten, InputScale, Patches, SpaceToDepth, ZeroPad
from lipjax.layers.shift import Position, Shift
from lipjax.layers.skew_orthogonal_conv import SkewOrthogonalConv
from lipjax.layers.strided_conv import StridedConv
from lipjax.layers.sum import Sum
from lipjax.layers.window_pooling import AveragePool, GlobalAveragePool, WindowMax

# What a network may choose by name: a new layer is its file and its line here.
CONVOLUTIONS: dict[str, type[Layer]] = {
    "skew_orthogonal": SkewOrthogonalConv,
    "aol": AlmostOrthogonalConv,
    "cpl": ConvexPotential,
    "sll": SdpResidual,
    "cayley": CayleyConv,
    "bro": BlockReflectorConv,
}
ACTIVATIONS: dict[str, type[Layer]] = {
    "max_min": MaxMin,
    "householder": Householder,
    "householder2": Householder2,
    "beta_abs": BetaAbs,
    "n": NActivation,
}
POOLINGS: dict[str, type[Layer]] = {
    "max": MaxPool,
    "projection": ProjectionPool,
    "polyline": PolylinePool,
    "point": PointPool,
}
HEADS: dict[str, type[Head]] = {"lln": LastLayerNormalization, "crc": CurvatureHead}

__all__ = [
    "ACTIVATIONS",
    "CONVOLUTIONS",
    "HEADS",
    "POOLINGS",
    "Activation",
    "Affine",
    "AlmostOrthogonalConv",
    "AveragePool",
    "BetaAbs",
    "BlockReflectorConv",
    "CayleyConv",
    "Centring",
    "Concatenate",
    "Container",
    "ConvexPotential",
    "CurvatureHead",
    "FirstChannels",
    "Flatten",
    "FoldedConv",
    "FrequencyConv",
    "GlobalAveragePool",
    "GlobalL2Pool",
    "Head",
    "Householder",
    "Householder2",
    "InputScale",
    "L2Pool",
    "LastLayerNormalization",
    "Layer",
    "LinearHead",
    "MaxMin",
    "MaxPool",
    "NActivation",
    "OrthogonalDense",
    "OrthogonalMixing",
    "PatchConv",
    "Patches",
    "PlainConv",
    "PlainDense",
    "PointPool",
    "PolylinePool",
    "Position",
    "ProjectionPool",
    "Proof",
    "Recomputed",
    "Residual",
    "ResidualConv",
    "SdpResidual",
    "Sequential",
    "Shift",
    "ShiftMixing",
    "SkewOrthogonalConv",
    "SpaceToDepth",
    "Split",
    "StridedConv",
    "Sum",
    "TakeChannels",
    "Unflatten",
    "WindowMax",
    "ZeroPad",
    "ZerosAround",
    "isometry",
]
