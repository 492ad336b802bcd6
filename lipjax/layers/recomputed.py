"""A layer that is computed again in the backward pass, for memory."""

import flax.linen as nn
import jax

from lipjax.layers.container import Container, check_layer, names_of
from lipjax.layers.layer import Layer
from lipjax.ops.fusion import recomputed


class Recomputed(Container):
    """f(x); in training only its input is kept for the backward pass, and f is computed again there.

    Bound: that of f.

    Rounding: that of f.

    Source: gradient checkpointing, Chen et al., arXiv 1604.06174; how the CPU is made to obey is ours (docs/scale.md).

    Attributes:
      layer: f.
    """

    layer: Layer

    def __post_init__(self):
        check_layer("Recomputed: layer", self.layer)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if not train or self.is_initializing():
            return self.child("", self.layer)(x, train)
        layer = self.layer.clone(parent=None, name=None)  # apart from this scope: a function of its variables
        names = set(names_of(self.children()))
        variables = {c: {n: v for n, v in tree.items() if n in names} for c, tree in self.variables.items()}
        mutable = [name for name in variables if name != "params" and self.is_mutable_collection(name)]

        def run(variables, x):
            return layer.apply(variables, x, True, mutable=mutable)

        x, updated = recomputed(run)(variables, x)
        for collection, tree in updated.items():
            for name, value in tree.items():
                self.put_variable(collection, name, jax.lax.stop_gradient(value))
        return x

    @nn.nowrap
    def children(self):
        return (("", self.layer),)

    @nn.nowrap
    def with_children(self, layers):
        return layers[0][1]

    @nn.nowrap
    def evaluate(self, own, x):
        return self.layer.evaluate(own, x)

    @nn.nowrap
    def proof(self, own, shape):
        return self.layer.proof(own, shape)

    @nn.nowrap
    def estimate(self, own, shape):
        return self.layer.estimate(own, shape)

    @nn.nowrap
    def plain(self, own, shape):
        return self.layer.plain(own, shape)
