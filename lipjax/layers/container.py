"""What every layer of layers does alike: it passes on what is asked, to each with its own variables."""

import contextvars
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flax.linen as nn
import jax
import threadpoolctl

from lipjax.layers.layer import Layer, Proof, Shape, Variables, own_of, plain_proof, with_own
from lipjax.ops.arithmetic import arithmetic

Named = tuple[tuple[str, Layer], ...]


class Container(Layer):
    """What every layer of layers does alike: it passes on what is asked, to each with its own variables.

    The variables of a child are those under its name; of one without a name ("") those of the container itself.  A
    container has a field `layers`, or says itself which its children are.
    """

    @nn.nowrap
    def children(self) -> Named:
        """The layers by name, in order."""
        return self.layers  # type: ignore[attr-defined]

    @nn.nowrap
    def with_children(self, layers: Named) -> Layer:
        """The same container of other layers."""
        return self.clone(layers=layers, parent=None, name=None)

    @nn.nowrap
    def input_shapes(self, own: Variables, shape: Shape) -> list[Shape]:
        """Of each layer."""
        return [shape] * len(self.children())

    @nn.nowrap
    def proof(self, own, shape):
        raise NotImplementedError

    @nn.nowrap
    def child(self, name: str, layer: Layer) -> Any:
        """Under `__call__`: the layer bound to its variables in this scope."""
        return layer.clone(parent=self, name=name) if name else layer.clone(parent=self.scope, name=None)

    @nn.nowrap
    def proofs(self, own: Variables, shape: Shape) -> tuple[tuple[str, Proof], ...]:
        """Those of the layers."""
        layers, shapes = self.children(), self.input_shapes(own, shape)
        parts = _in_parallel(
            lambda name, layer, shape: plain_proof(layer.proof(own_of(own, name), shape)),
            [(name, layer, shape) for (name, layer), shape in zip(layers, shapes, strict=True)],
        )
        return tuple((name, part) for (name, _), part in zip(layers, parts, strict=True))

    @nn.nowrap
    def estimates(self, own: Variables, shape: Shape) -> list[jax.Array | float]:
        """Those of the layers."""
        shapes = self.input_shapes(own, shape)
        return [
            layer.estimate(own_of(own, name), shape)
            for (name, layer), shape in zip(self.children(), shapes, strict=True)
        ]

    @nn.nowrap
    def decay_mask(self, params):
        mask: dict[str, Any] = {}
        for name, layer in self.children():
            if not name:
                mask |= layer.decay_mask(params)
            elif name in params:
                mask[name] = layer.decay_mask(params[name])
        return mask

    @nn.nowrap
    def projected(self, own):
        for name, layer in self.children():
            own = with_own(own, name, layer.projected(own_of(own, name)))
        return own

    @nn.nowrap
    def settled(self, own):
        for name, layer in self.children():
            own = with_own(own, name, layer.settled(own_of(own, name)))
        return own

    @nn.nowrap
    def tightened(self, own, shape):
        layers, shapes = self.children(), self.input_shapes(own, shape)
        tight = _in_parallel(
            lambda name, layer, shape: layer.tightened(own_of(own, name), shape),
            [(name, layer, shape) for (name, layer), shape in zip(layers, shapes, strict=True)],
        )
        for (name, layer), child in zip(layers, tight, strict=True):
            own = _merged(own, name, layer, child)
        return own

    @nn.nowrap
    def folded(self, own, shape):
        layers = []
        for (name, layer), shape_in in zip(self.children(), self.input_shapes(own, shape), strict=True):
            layer, child = layer.folded(own_of(own, name), shape_in)
            layers.append((name, layer))
            own = with_own(own, name, child)
        return self.with_children(tuple(layers)), own


def _merged(own: Variables, name: str, layer: Layer, child: Variables) -> Variables:
    """The variables with those of a child; one without a name has changed those of its own layers only."""
    if name or not isinstance(layer, Container):
        return with_own(own, name, child)
    for inner, grandchild in layer.children():
        own = _merged(own, inner, grandchild, own_of(child, inner))
    return own


def checked_layers(owner: str, layers: Any) -> Named:
    """The layers as a plain tuple of (name, Layer).

    Raises:
      TypeError, ValueError: what is none, two layers of one name, but for "".
    """
    if not isinstance(layers, tuple | list) or not all(isinstance(e, tuple | list) and len(e) == 2 for e in layers):
        raise TypeError(f"{owner}: layers must be a tuple of (name, Layer), got {layers!r}")
    plain = tuple([(str(name) if isinstance(name, str) else name, layer) for name, layer in layers])
    for name, layer in plain:
        check_layer(f"{owner}: layer {name!r}", layer)
        if not isinstance(name, str) or "/" in name:
            raise ValueError(f"{owner}: a layer's name must be a string without '/', got {name!r}")
    names = [name for name in names_of(plain) if name]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(f"{owner}: two layers have the name {doubled[0]!r}; names must differ")
    return plain


def names_of(layers: Named) -> Iterable[str]:
    """Under which variables stand: layers without a name put theirs beside the others."""
    for name, layer in layers:
        if name or not isinstance(layer, Container):
            yield name
        else:
            yield from names_of(layer.children())


def leaves(layer: Layer, path: str = "") -> Iterable[tuple[str, Layer]]:
    """(path, layer) of those that are no containers, in order; a child without a name adds nothing to the path."""
    if not isinstance(layer, Container):
        yield path, layer
    else:
        for name, child in layer.children():
            yield from leaves(child, "/".join(filter(None, (path, name))))


def check_layer(owner: str, layer: Any) -> None:
    """Raise TypeError unless it is a `Layer`."""
    if not isinstance(layer, Layer):
        kind = type(layer).__name__
        raise TypeError(f"{owner} must be a lipjax Layer, which states its proof; {kind} is none")


def _in_parallel(function: Callable[..., Any], arguments: Sequence[tuple]) -> list[Any]:
    """[function(*a) for a in arguments], one thread each: BLAS's own are slower here, and stall on a busy core."""
    precision = "float64" if jax.config.read("jax_enable_x64") else "float32"  # of this thread

    def run(argument):
        with arithmetic(precision):
            return function(*argument)

    with threadpoolctl.threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        contexts = [contextvars.copy_context() for _ in arguments]  # roundings may be asked for of sums in any order
        return list(pool.map(lambda context, argument: context.run(run, argument), contexts, arguments))
