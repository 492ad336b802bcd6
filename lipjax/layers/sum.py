"""Sums of branches, as residual networks have them."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax.layers import plain
from lipjax.layers.container import Container, checked_layers
from lipjax.layers.containers import Concatenate, Sequential, Split
from lipjax.layers.layer import Layer, Proof, Variables, own_of, up
from lipjax.layers.nests import nest_bound, shift_bound
from lipjax.layers.plain_linear import Affine, PlainConv, PlainDense
from lipjax.layers.proven_norm import proven_plain_norm
from lipjax.layers.rearranged import TakeChannels, Unflatten, ZerosAround
from lipjax.layers.residual_conv import ResidualConv
from lipjax.layers.rounding import COARSEST, Rounding, enlarged, gamma, underflow
from lipjax.layers.shapes import FirstChannels, Flatten, InputScale, Patches, SpaceToDepth, ZeroPad
from lipjax.layers.strided_conv import StridedConv
from lipjax.layers.window_pooling import AveragePool, GlobalAveragePool
from lipjax.ops.arithmetic import in_float64
from lipjax.ops.dense_bounds import dense_norm_bound
from lipjax.ops.nonnegative import nonnegative_operator_bound
from lipjax.ops.plain_conv import Operator

_UNKNOWNS = 2048  # of the input, up to which the matrix of a sum of linear branches is proven as a whole
# Maps that are linear but for a constant.
_LINEAR = {PlainConv, PlainDense, Affine, AveragePool, GlobalAveragePool, ResidualConv, StridedConv}
_LINEAR |= {FirstChannels, Flatten, InputScale, Patches, SpaceToDepth, ZeroPad, TakeChannels, Unflatten, ZerosAround}


def is_linear(layer: Layer) -> bool:
    """Whether a layer is known to be linear but for a constant."""
    if type(layer) in (Sequential, Concatenate, Split, Sum):
        return all(is_linear(child) for _, child in layer.children())  # type: ignore[attr-defined]
    return type(layer) in _LINEAR


class Sum(Container):
    """f_1(x) + … + f_n(x); an empty `Sequential` is the identity.

    Bound: Σ L_i, by the triangle inequality; or, where all branches are linear, the norm of their sum: of the whole
    matrix where the input has at most 2048 entries, and of one convolution of stride 1 and identities of the kernel
    with the identity in it; or of a polynomial of a skew operator, or of shifted channels, as the export writes them
    (`nests`); the least of these.

    Rounding: those of the branches, and n − 1 units of the size of all terms.

    Source: elementary (docs/plain.md).

    Attributes:
      layers: ((name, layer), …), each of the same input, with outputs of one shape.

    Raises:
      ValueError: no branch; outputs of different shapes, which would be broadcast and enlarge distances.
    """

    layers: tuple[tuple[str, Layer], ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "layers", checked_layers("Sum", self.layers))
        if not self.layers:
            raise ValueError("Sum: layers must have at least one branch")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return self._sum([self.child(name, layer)(x, train) for name, layer in self.layers])

    @nn.nowrap
    def evaluate(self, own, x):
        return self._sum([layer.evaluate(own_of(own, name), x) for name, layer in self.layers])

    @nn.nowrap
    def _sum(self, terms):
        total = terms[0]
        for (name, _), term in zip(self.layers[1:], terms[1:], strict=True):
            if term.shape != total.shape:
                raise ValueError(f"Sum: branch {name!r} gives {term.shape}, the first one {total.shape}")
            total = total + term
        return total

    @nn.nowrap
    def proof(self, own, shape):
        parts, count = self.proofs(own, shape), len(self.layers)
        entries = math.prod(self.output_shape(own, shape))
        bound, offset, why = 0.0, 0.0, "sum of the bounds"
        for _, part in parts:
            bound, offset = up(bound + part.lipschitz), up(offset + part.offset) if part.offset else offset
        rounding = None
        if all(part.rounding is not None for _, part in parts):
            rounding = _rounding([part for _, part in parts], entries)
        known = nest_bound(self, own, shape), shift_bound(self, own, shape)
        for found in (*known, self._by_matrix(own, shape, bound, offset, rounding), self._by_kernel(own, shape)):
            bound, why = min((bound, why), found or (math.inf, ""))
        # What is added up may be as large as all terms together, which no branch by itself is.
        added = Proof("added up", float(count), f"{count} terms", rounding=Rounding(0.0, 0.0))
        return Proof(f"sum of {count} branches", bound, why, offset, rounding=rounding, parts=(*parts, ("", added)))

    @nn.nowrap
    def _by_matrix(self, own, shape, bound, offset, rounding) -> tuple[float, str] | None:
        """The norm of the whole matrix, computed from the images of one entry 1, less that of 0."""
        unknowns = math.prod(shape)
        if rounding is None or unknowns > _UNKNOWNS or not is_linear(self):
            return None
        with in_float64():
            exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), dict(own))
            images = jnp.concatenate([jnp.zeros((1, unknowns)), jnp.eye(unknowns, dtype=jnp.float64)])
            values = np.asarray(self.evaluate(exact, images.reshape(unknowns + 1, *shape))).reshape(unknowns + 1, -1)
        off = 1.01 * (rounding.relative + 2 * rounding.absolute + gamma(1) * (bound + 2 * offset))
        norm = dense_norm_bound(values[1:] - values[0]) + off * math.sqrt(unknowns)
        return norm * (1 + 1e-15), "Cholesky factorisation of the Gram matrix of its whole matrix"

    @nn.nowrap
    def _by_kernel(self, own, shape) -> tuple[float, str] | None:
        """Of one convolution and identities, the norm of the convolution with the identities in its kernel."""
        found, identities = [], 0
        for name, layer in self.layers:
            inner = _only(name, layer, own)
            identities += inner is None
            found += [] if inner is None else [inner]
        conv, variables = found[0] if len(found) == 1 else (None, {})
        if not identities or not isinstance(conv, PlainConv):
            return None
        kernel, middle = conv.scaled_kernel(variables), _middle(conv)
        if middle is None or kernel.shape[2:] != (shape[2], shape[2]):
            return None
        kernel[middle] += identities * np.eye(shape[2])
        bound, why = proven_plain_norm(kernel, conv.geometry, shape[:2])
        operator = Operator(np.abs(kernel), conv.geometry, shape[:2])
        absolute = nonnegative_operator_bound(operator.forth, operator.back, (1, *shape))
        bound = (bound + gamma(3) * (absolute + 2 * identities)) * (1 + 1e-15)
        return bound, f"the convolution with the identity in its kernel: {why}"

    @nn.nowrap
    def plain(self, own, shape):
        return [plain.total(*(layer.plain(own_of(own, name), shape) for name, layer in self.layers))]

    @nn.nowrap
    def estimate(self, own, shape):
        return sum(self.estimates(own, shape))


def _only(name: str, layer: Layer, own: Variables) -> tuple[Layer, Variables] | None:
    """The only layer of a branch with its variables; None for the identity, the branch itself where it has several."""
    variables = own_of(own, name)
    while type(layer) is Sequential and len(layer.layers) <= 1:
        if not layer.layers:
            return None
        ((inner, layer),) = layer.layers
        variables = own_of(variables, inner)
    return layer, variables


def _middle(conv: PlainConv) -> tuple[int, int] | None:
    """The tap that reads the pixel that is written; None where there is none, or strides or groups."""
    taps: list[int] = []
    geometry = conv.geometry
    for (before, after), d, k in zip(geometry.padding, geometry.dilation, conv.kernel_size, strict=True):  # type: ignore[arg-type]
        if before % d or before != after or 2 * before != d * (k - 1):
            return None
        taps.append(before // d)
    return (taps[0], taps[1]) if geometry.stride == (1, 1) and geometry.groups == 1 else None


def _rounding(parts: list[Proof], entries: int) -> Rounding:
    """Of terms that are added one after the other."""
    relative = absolute = size = reach = 0.0
    for part in parts:
        assert part.rounding is not None
        relative, absolute = relative + part.rounding.relative, absolute + part.rounding.absolute
        size, reach = size + part.lipschitz, reach + part.offset
    added, lost = gamma(len(parts) - 1), underflow(entries, len(parts))
    return enlarged(
        relative + added * (size + COARSEST * relative), absolute + added * (reach + COARSEST * absolute) + lost
    )
